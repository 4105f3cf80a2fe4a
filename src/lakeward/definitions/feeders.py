"""A feeder per stream: one run feeds all of its models, batch by batch."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from lakeward.attempt import FeedReport, Tools
from lakeward.console import progress_line, report_lines
from lakeward.definitions.specs import (
    column_schema,
    feeder_key,
    feeder_spec,
    model_key,
    plain,
    processed_spec,
)
from lakeward.errors import ConfigError
from lakeward.manifest import Model
from lakeward.project import Project, open_tools
from lakeward.reading import UNREAD, ModelState, feedable, read
from lakeward.settings import LAKE
from lakeward.sql import quote_identifier
from lakeward.streams import Stream
from lakeward.workers import feed_all

Event = dg.MaterializeResult[Any] | dg.AssetCheckResult

LAST_BATCH = "last_batch"  # metadata of a materialization: what the ledger said, so that a sensor can compare


def feeder(stream: Stream, project: Project) -> dg.AssetsDefinition:
    """The stream's feeder and its processed models, in one op: a model is in progress while it is fed."""
    models = project.manifest.of_stream(stream.tag)
    processed = [processed_spec(stream, model) for model in models]

    @dg.multi_asset(
        name=f"feed_{stream.tag}",
        specs=[feeder_spec(stream), *processed],
        check_specs=[_quarantine(stream)],
        pool=stream.tag,
    )
    def feed(context: dg.AssetExecutionContext) -> Iterator[Event]:
        with open_tools(project.settings, lambda done: context.log.info(progress_line(done))) as tools:
            began, before = datetime.now(UTC), _look(stream, models, tools)
            (report,) = feed_all([(stream, models)], tools)
            yield from _events(stream, models, report, began, before, tools)
        lines = report_lines(report)
        for line in lines:
            context.log.warning(line)
        if report.failed:
            raise dg.Failure("\n".join(lines), allow_retries=False)

    return feed


def broken_files(project: Project) -> list[dg.AssetsDefinition]:
    """An asset for each file that cannot be used, where its feeder or model would stand."""
    taken = {feeder_key(stream) for stream in project.streams}
    taken |= {model_key(model.name) for model in project.manifest.models}
    found = []
    for path, error in project.broken_files.items():
        name = plain(f"{path.parent.name}_{path.stem}")
        while dg.AssetKey(name) in taken:
            name += "_"
        taken.add(dg.AssetKey(name))
        found.append(_broken(name, plain(path.parent.name), error))
    return found


def _broken(name: str, group: str, error: ConfigError) -> dg.AssetsDefinition:
    description = f"This file cannot be used:\n\n```\n{error}\n```"

    @dg.asset(name=name, group_name=group, kinds={"python"}, description=description)
    def broken() -> None:
        raise dg.Failure(str(error), allow_retries=False)

    return broken


def _quarantine(stream: Stream) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "quarantine", asset=feeder_key(stream), description="No landed file had to be set aside."
    )


def _look(stream: Stream, models: Sequence[Model], tools: Tools) -> dict[str, ModelState]:
    """The models' numbers in the ledger, without the files."""
    wanted, bounds = feedable([(stream, models)]), {stream.id: date.max}
    readings = read(tools.lake, wanted, tools.settings, datetime.now(UTC), fences=False, bounds=bounds)
    return {state.model: state for state in readings.get(stream.id, UNREAD).models}


def _events(
    stream: Stream,
    models: Sequence[Model],
    report: FeedReport,
    began: datetime,
    before: dict[str, ModelState],
    tools: Tools,
) -> Iterator[Event]:
    """One materialization per model that was fed, at the end: an earlier one would set marts off half-way."""
    after, applied = _look(stream, models, tools), tools.ledger.applied(stream, began)
    ((snapshot,),) = tools.lake.query(f"select id from {LAKE}.current_snapshot()")
    quarantined = max((state.totals.quarantined for state in after.values()), default=0)
    numbers = {
        "files": report.files,
        "rows": report.rows,
        "bytes": report.bytes,
        "batches": report.batches,
        "seconds": report.seconds,
        "quarantined": quarantined,
        "snapshot_id": snapshot,
    }
    if applied:
        last = max(state.totals.last_batch for state in after.values() if state.totals.last_batch)
        yield dg.MaterializeResult(feeder_key(stream), metadata=numbers | {LAST_BATCH: last.isoformat()})
    for model in models:
        if model.name in applied:
            metadata = _numbers(before.get(model.name), after[model.name], *applied[model.name])
            columns = tools.lake.query(f"describe {LAKE}.main.{quote_identifier(model.name)}")
            told = {name: text for name, _, text in model.columns}
            schema = column_schema([(name, kind, told.get(name, "")) for name, kind, *_ in columns])
            yield dg.MaterializeResult(
                model_key(model.name),
                metadata=numbers | metadata | {"dagster/column_schema": schema},
            )
    yield dg.AssetCheckResult(
        check_name="quarantine",
        asset_key=feeder_key(stream),
        passed=not quarantined,
        severity=dg.AssetCheckSeverity.ERROR,
        description="\n".join(f"{path}: {why}" for path, why in report.quarantined.items()) or None,
        metadata={"quarantined": quarantined, "see": f"lakeward quarantine list {stream.id}"},
    )


def _numbers(
    before: ModelState | None, after: ModelState, files: int, rows: int, size: int
) -> dict[str, object]:
    """Of one model. rows_replaced: rows that took an older one's place, or were older than what was there."""
    had = before.table.rows if before is not None and before.table is not None else 0
    has = after.table.rows if after.table is not None else 0
    totals = after.totals
    lag = (datetime.now(UTC) - totals.newest_record).total_seconds() if totals.newest_record else None
    assert totals.last_batch is not None  # something was applied
    return {
        "files": files,
        "rows": rows,
        "bytes": size,
        "rows_replaced": had + rows - has,
        "dagster/row_count": has,
        LAST_BATCH: totals.last_batch.isoformat(),
    } | ({"lag_seconds": lag} if lag is not None else {})
