"""What the lake's files say, in the words of Dagster's asset specs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from lakeward.settings import LAKE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lakeward.manifest import Model
    from lakeward.streams import Stream


def landed_key(stream: Stream) -> dg.AssetKey:
    return dg.AssetKey(["landing", stream.source, stream.name])


def feeder_key(stream: Stream) -> dg.AssetKey:
    return dg.AssetKey(f"{stream.source}_{stream.name}")


def model_key(model: Model) -> dg.AssetKey:
    return dg.AssetKey(model.name)


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
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=lag) if lag is not None else None,
    )


def enriched_spec(model: Model, upstream: Sequence[Model], **more: Any) -> dg.AssetSpec:
    parts = model.path.split("/")  # dag/enriched/sales/fct_sales.sql
    return _model_spec(
        model,
        deps=[model_key(other) for other in upstream],
        group_name=parts[-2] if len(parts) > 2 else "enriched",
        **more,
    )


def column_schema(columns: Sequence[tuple[str, str | None, str]]) -> dg.TableSchema:
    """columns: name, type, description."""
    return dg.TableSchema(
        [dg.TableColumn(name, kind or "", description=text or None) for name, kind, text in columns]
    )


def _model_spec(model: Model, **more: Any) -> dg.AssetSpec:
    return dg.AssetSpec(
        model_key(model),
        description=f"{model.description}\n\n```sql\n{model.raw_code}\n```".strip(),
        kinds={"dbt", "ducklake"},
        owners=model.owners,
        tags=dict.fromkeys(model.tags, ""),
        code_version=model.code,
        skippable=True,
        metadata={
            "dagster/column_schema": column_schema(model.columns),
            "dagster/table_name": f"{LAKE}.{model.schema}.{model.name}",
            "path": model.path,
        },
        **more,
    )
