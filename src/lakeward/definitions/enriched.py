"""The enriched models: built together by one run, when Dagster finds that an upstream was fed."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from lakeward.build import build, plan_build
from lakeward.definitions.automation import when_upstreams_are_fed
from lakeward.definitions.specs import enriched_spec, model_key
from lakeward.meta import set_up
from lakeward.project import Project, open_tools


def enriched_marts(project: Project) -> list[dg.AssetsDefinition]:
    """One op for all: an upstream mart and the one on it are built by one dbt run."""
    manifest, settings = project.manifest, project.settings
    models = manifest.enriched()
    if not models:
        return []
    condition = when_upstreams_are_fed()

    @dg.multi_asset(
        name="build",
        specs=[
            enriched_spec(model, manifest.upstream(model), automation_condition=condition) for model in models
        ],
        can_subset=True,
        pool="build",
    )
    def build_marts(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        keys = context.selected_asset_keys
        wanted = {model.name: model_key(model.name) for model in models if model_key(model.name) in keys}
        with open_tools(settings, lambda _: None) as tools:
            set_up(tools.lake, [])
            marts = [mart for mart in plan_build(manifest, tools.lake) if mart.name in wanted]
            with tools.transform() as transform:
                errors = build(marts, manifest, transform, tools.ledger)
        for mart in marts:
            if mart.name not in errors:
                yield dg.MaterializeResult(wanted[mart.name], metadata={"reason": mart.reason or "asked for"})
        if errors:
            raise dg.Failure("\n".join(f"{name}: {error}" for name, error in errors.items()))

    return [build_marts]
