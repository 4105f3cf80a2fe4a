"""What the lake's files say, in the words of Dagster's asset specs."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from lakeward.errors import ConfigError
from lakeward.settings import LAKE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lakeward.manifest import Model
    from lakeward.project import Project
    from lakeward.streams import Stream


# Dagster refuses a whole code location for one owner that is neither (docs.dagster.io, Asset metadata).
_OWNER = re.compile(r"^(team:.+|[\w.%+-]+@[\w.-]+\.[A-Za-z]{2,7})$", re.ASCII)
_SHORTEST_WINDOW = timedelta(minutes=1)  # of a freshness policy


def plain(name: str) -> str:
    """What Dagster takes for a name, whatever a file or a tag is called."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def landed_key(stream: Stream) -> dg.AssetKey:
    return dg.AssetKey(["landing", stream.source, stream.name])


def feeder_key(stream: Stream) -> dg.AssetKey:
    return dg.AssetKey(f"{stream.source}_{stream.name}")


def model_key(name: str) -> dg.AssetKey:
    return dg.AssetKey(plain(name))


def without_clashes(project: Project) -> Project:
    """Without what would be the same asset as another; each is among the broken files, with the remedy."""
    taken: dict[dg.AssetKey, str] = {}
    broken = dict(project.broken_files)

    def has(key: dg.AssetKey, name: str, path: Path) -> bool:
        other = taken.setdefault(key, name)
        if other != name:
            what = f"{path}: {name} and {other} would be the same asset, {key.to_user_string()}"
            broken[path] = ConfigError(what, hint="rename one of them")
        return other == name

    streams = [stream for stream in project.streams if has(feeder_key(stream), stream.id, stream.path)]
    folder = project.settings.project_dir
    models = [
        model
        for model in project.manifest.models
        if has(model_key(model.name), model.unique_id, folder / model.path)
    ]
    manifest = replace(project.manifest, models=tuple(models))
    return replace(project, streams=streams, manifest=manifest, broken_files=broken)


def landed_spec(stream: Stream) -> dg.AssetSpec:
    """External: Airbyte writes it."""
    return dg.AssetSpec(
        landed_key(stream),
        group_name=stream.source,
        kinds={"airbyte", "parquet"},
        description=f"Parquet that Airbyte lands under `{stream.root}`.",
    )


def feeder_spec(stream: Stream) -> dg.AssetSpec:
    return dg.AssetSpec(
        feeder_key(stream),
        deps=[landed_key(stream)],
        group_name=stream.source,
        kinds={"ducklake", "python"},
        description=f"Loads every landed file of `{stream.id}`, exactly once, into the models below it.",
        skippable=True,  # nothing may be pending
    )


def processed_spec(stream: Stream, model: Model) -> dg.AssetSpec:
    lag = stream.config.target_lag
    return _model_spec(
        model,
        deps=[feeder_key(stream)],
        group_name=stream.source,
        freshness_policy=(
            dg.FreshnessPolicy.time_window(fail_window=max(lag, _SHORTEST_WINDOW))
            if lag is not None
            else None
        ),
    )


def enriched_spec(model: Model, upstream: Sequence[Model], **more: Any) -> dg.AssetSpec:
    parts = model.path.split("/")  # dag/enriched/sales/fct_sales.sql
    return _model_spec(
        model,
        deps=[model_key(other.name) for other in upstream],
        group_name=plain(parts[-2]) if len(parts) > 2 else "enriched",
        **more,
    )


def column_schema(columns: Sequence[tuple[str, str | None, str]]) -> dg.TableSchema:
    """columns: name, type, description."""
    return dg.TableSchema(
        [dg.TableColumn(name, kind or "", description=text or None) for name, kind, text in columns]
    )


def _model_spec(model: Model, **more: Any) -> dg.AssetSpec:
    return dg.AssetSpec(
        model_key(model.name),
        description=f"{model.description}\n\n```sql\n{model.raw_code}\n```".strip(),
        kinds={"dbt", "ducklake"},
        owners=[owner for owner in model.owners if _OWNER.match(owner)],
        tags={plain(tag)[:63]: "" for tag in model.tags},
        code_version=model.code,
        skippable=True,
        metadata={
            "dagster/column_schema": column_schema(model.columns),
            "dagster/table_name": f"{LAKE}.{model.schema}.{model.name}",
            "path": model.path,
        },
        **more,
    )
