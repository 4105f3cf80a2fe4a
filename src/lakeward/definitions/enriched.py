"""The enriched models: built together by one run, when Dagster finds that an upstream was fed."""

from collections.abc import Container, Iterator
from typing import Any

import dagster as dg

from lakeward.build import Mart, build, plan_build
from lakeward.definitions.automation import when_upstreams_are_fed
from lakeward.definitions.specs import enriched_spec, model_key
from lakeward.meta import set_up
from lakeward.project import Project, open_tools

# A feed that ends while a mart is being built is, to Dagster, older than the mart: the run looks again. One
# that never rests is no reason to build for ever; its end will be news.
_ROUNDS = 3


def enriched_marts(project: Project) -> list[dg.AssetsDefinition]:
    """One op for all: an upstream mart and the one on it are built by one dbt run."""
    manifest = project.manifest
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
        marts, errors = _build(wanted, project)
        for mart in marts:
            if mart.name not in errors:
                yield dg.MaterializeResult(wanted[mart.name], metadata={"reason": mart.reason or "asked for"})
        if errors:
            raise dg.Failure("\n".join(f"{name}: {error}" for name, error in errors.items()))

    return [build_marts]


def _build(wanted: Container[str], project: Project) -> tuple[list[Mart], dict[str, str]]:
    """Build the wanted, and again those of which an upstream was written meanwhile; errors by model."""
    manifest, errors = project.manifest, dict[str, str]()
    with open_tools(project.settings, lambda _: None) as tools:
        set_up(tools.lake, [])
        due = marts = [mart for mart in plan_build(manifest, tools.lake) if mart.name in wanted]
        with tools.transform() as transform:
            for _ in range(_ROUNDS):
                errors |= build(due, manifest, transform, tools.ledger)
                due = [
                    mart
                    for mart in plan_build(manifest, tools.lake)
                    if mart.is_due and mart.name in wanted and mart.name not in errors
                ]
                if not due:
                    break
    return marts, errors
