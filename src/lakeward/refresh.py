"""Build a model anew from everything that landed, beside its table, and swap the two in one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from lakeward.announcement import announced
from lakeward.attempt import Tools
from lakeward.build import backup_name, sweep
from lakeward.errors import LakewardError, LedgerError, TransformError, WriterConflict
from lakeward.feed import feed
from lakeward.generations import leave, outdated
from lakeward.meta import META, fence_table, relations, set_up
from lakeward.reading import next_name, read
from lakeward.settings import LAKE
from lakeward.sql import quote_identifier, quote_literal

if TYPE_CHECKING:
    from lakeward.manifest import Model
    from lakeward.streams import Stream

_PASSES = 2  # over the backlog before feeders are asked to wait: what lands during the first is the second's
_ATTEMPTS = 5  # of the last part, when another writer keeps being faster


@dataclass(frozen=True)
class Refreshed:
    """One model. error: why its old table stands as it was."""

    model: str
    files: int
    rows: int
    error: str | None


def refresh(stream: Stream, models: Sequence[Model], tools: Tools) -> list[Refreshed]:
    """Rebuild each model from everything landed and not quarantined; readers see the old table until then.

    In batches, as a feed, so memory is a feed's and files that one statement cannot read together are no
    trouble. Feeders go on meanwhile; only for the last part, which is tested and swapped in, they leave the
    stream alone. A refresh that was killed is taken up where it was, unless the model's SQL has changed.
    """
    return [_refresh(stream, model, tools) for model in models]


def _refresh(stream: Stream, model: Model, tools: Tools) -> Refreshed:
    beside = replace(model, name=next_name(model.name))
    own = replace(tools, transform=partial(tools.transform, tables={model.unique_id: beside.name}))
    try:
        if model.unfit is not None:
            raise TransformError(str(model.unfit))
        set_up(tools.lake, [model.name, beside.name])
        _take_up(stream, model, beside, tools)
        for _ in range(_PASSES):
            _build(stream, beside, own)
        for _ in range(_ATTEMPTS):
            with announced(stream, tools.settings), suppress(WriterConflict):
                _take_up(stream, model, beside, tools)
                # Before listing: what it vouches for will be in the new table.
                fence = _fence(stream, model, tools)
                _build(stream, beside, own)
                with own.transform() as transform:
                    failures = [
                        f"{found.test}: {found.error}"
                        for found in transform.test([beside.node])
                        if found.error is not None and not found.is_warning
                    ]
                if failures:
                    raise TransformError(f"its tests fail on the new table: {'; '.join(failures)}")
                _swap(stream, model, beside, fence, tools)
                for gone in outdated(stream, [model.name], tools.lake, tools.landing):
                    leave(stream, gone, tools.lake, tools.landing)
                return _done(model, tools)
        raise LedgerError(f"lost to another writer {_ATTEMPTS} times")
    except LakewardError as error:
        if error.transient:
            raise
        return Refreshed(model.name, 0, 0, str(error))


def _take_up(stream: Stream, model: Model, beside: Model, tools: Tools) -> None:
    """Keep what was built of this very SQL from files that still are what they were; drop anything else."""
    wanted, bounds = [(stream, [beside.name])], {stream.id: None}
    now = datetime.now(UTC)
    reading = read(tools.lake, wanted, tools.settings, now, fences=False, bounds=bounds)[stream.id]
    (state,) = reading.models
    sweep(tools.lake, [model])
    landed = {(file.path, file.etag) for file in tools.landing.list(stream)}
    is_stale = state.totals.code != model.code or state.totals.quarantined or not state.applied <= landed
    if is_stale and state.table is not None:
        tools.lake.query(f"drop table {LAKE}.main.{quote_identifier(beside.name)}")
    tools.ledger.release(stream, model=beside.name)


def _build(stream: Stream, beside: Model, tools: Tools) -> None:
    """Feed the new table what has landed by now. Raises what kept a file from being loaded.

    A file that the old table holds must not be missing from the new one without a word.
    """
    report = feed(stream, [beside], tools, beside=True)
    failures = report.quarantined | report.unreachable
    told = [*report.errors.values(), *(f"{path}: {why}" for path, why in failures.items())]
    if told:
        tools.ledger.release(stream, model=beside.name)  # of no concern to the stream's own tables
        hint = "the old table stands; mend the model and refresh again"
        raise TransformError("; ".join(told), hint=hint)
    if ("main", beside.name) not in relations(tools.lake):
        raise TransformError(f"nothing has landed for {stream.id}: there is nothing to rebuild from")


def _fence(stream: Stream, model: Model, tools: Tools) -> int:
    wanted = [(stream, [model.name])]
    reading = read(tools.lake, wanted, tools.settings, datetime.now(UTC), fences=True)[stream.id]
    return reading.models[0].fence


def _swap(stream: Stream, model: Model, beside: Model, fence: int, tools: Tools) -> None:
    """One snapshot: the new table under the old name, and the ledger of what is in it.

    Raises WriterConflict when anybody has written the old table since the fence was read. The old table is
    dropped afterwards; a kill before that leaves it under dbt's name for such a table, which is swept later.
    """
    lake = tools.lake
    table, new = quote_identifier(model.name), quote_identifier(beside.name)
    backup = quote_identifier(backup_name(model))
    names = {"source": stream.source, "stream": stream.name, "model": model.name, "beside": beside.name}
    now = datetime.now(UTC)
    with lake.transaction():
        exists = ("main", model.name) in relations(lake)
        stamp = quote_literal(f"refresh {model.name}"), quote_literal(_stamp(stream, model))
        lake.query(f"call {LAKE}.set_commit_message('lakeward', {stamp[0]}, extra_info => {stamp[1]})")
        lake.query(
            f"select case when (select n from {fence_table(model.name)}) is distinct from {fence} "
            f"then error('lakeward: fence moved: another writer of {model.name} was faster') end"
        )
        lake.query(f"update {fence_table(model.name)} set n = n + 1")
        lake.query(f"update {fence_table(beside.name)} set n = n + 1")
        if exists:
            lake.query(f"alter table {LAKE}.main.{table} rename to {backup}")
        lake.query(f"alter table {LAKE}.main.{new} rename to {table}")
        lake.query(
            f"""
            insert into {META}.feeder_log by name
            with last as (
                select model, max(build) as build, max_by(code, build) filter (event = 'built') as code
                from {META}.feeder_log where source = $source and stream = $stream group by model
            )
            select $source as source, $stream as stream, $model as model, 'built' as event,
                   coalesce((select build from last where model = $model), 0) + 1 as build,
                   (select code from last where model = $beside) as code, $now as logged_at
            union all by name
            select source, stream, $model as model, 'applied' as event,
                   coalesce((select build from last where model = $model), 0) + 1 as build, path, etag, size,
                   partition_date, generation, rows, extracted_at, nulled, batch_id, code, $now as logged_at
            from {META}.feeder_files
            where source = $source and stream = $stream and model = $beside and status = 'applied'
            union all by name
            select $source as source, $stream as stream, $beside as model, 'built' as event,
                   (select build from last where model = $beside) + 1 as build, $now as logged_at""",
            names | {"now": now},
        )
    sweep(lake, [model])


def _stamp(stream: Stream, model: Model) -> str:
    return f'{{"stream": "{stream.id}", "model": "{model.name}", "code": "{model.code}"}}'


def _done(model: Model, tools: Tools) -> Refreshed:
    rows = relations(tools.lake)["main", model.name].rows
    ((files,),) = tools.lake.query(
        f"select count(*) from {META}.feeder_files where model = ? and status = 'applied'", [model.name]
    )
    return Refreshed(model.name, files, rows, None)
