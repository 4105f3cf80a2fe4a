"""What was applied: append-only events in the lake itself, one snapshot with the rows they speak of.

Events are only ever inserted: an update or delete in a table that every stream writes would make the
others' commits fail. meta.py has the tables.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from lakeward.meta import META, fence_table, is_set_up, retry, tables
from lakeward.sql import quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import LandedFile
    from lakeward.settings import Settings
    from lakeward.streams import Stream

Wanted = tuple["Stream", Sequence[str]]  # a stream and the names of its models

LIST_ALL_UP_TO = 10_000  # objects: ten listing requests, cheap enough for every feed


@dataclass(frozen=True)
class Totals:
    """A model's ledger in numbers: files known in its build, newest partition applied, oldest released."""

    known: int
    newest: date | None
    released: date | None
    build: int
    code: str | None
    quarantined: int


@dataclass(frozen=True)
class ModelState:
    """One model's reading of the ledger; only valid while its fence still shows `fence`."""

    model: str
    fence: int
    build: int
    is_new_build: bool  # no table yet, or a table that was dropped by hand
    applied: frozenset[tuple[str, str]]
    quarantined: frozenset[tuple[str, str]]
    code: str | None  # checksum of the SQL that began the build

    def lacks(self, file: LandedFile) -> bool:
        identity = (file.path, file.etag)
        return identity not in self.applied and identity not in self.quarantined


@dataclass(frozen=True)
class Reading:
    """One consistent look at the ledger of a stream, taken before its files are listed."""

    models: tuple[ModelState, ...]
    since: date | None  # None: list everything
    full_listing_due: bool
    last_full_listing: datetime | None
    quarantined: int  # files, in the model that has most

    def pending(self, files: Iterable[LandedFile]) -> list[LandedFile]:
        """Files that any model lacks, oldest partition first."""
        found = [file for file in files if any(state.lacks(file) for state in self.models)]
        return sorted(found, key=lambda file: (file.partition or date.min, file.path))


class Ledger:
    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def exists(self) -> bool:
        """Read-only: has any feed ever set up this lake's ledger?"""
        return is_set_up(self._lake)

    def read(
        self, wanted: Sequence[Wanted], settings: Settings, now: datetime, *, fences: bool = True
    ) -> dict[str, Reading]:
        """Readings by stream id. Read-only, one transaction, five queries for any number of streams.

        Call it before listing. A stream is listed in full when that is cheap, when a model has nothing
        applied, or when its last full listing is older than `reconcile_after_hours`; otherwise from the
        lookback before the oldest of its models' newest partitions (and of its released files).
        fences False: for reports, which write nothing and need none.
        """
        with self._lake.transaction():
            existing = tables(self._lake)
            models = [model for _, names in wanted for model in names]
            numbers = self._fences(models) if fences else dict.fromkeys(models, -1)
            totals = self._totals()
            listings = self._last_full_listings()
            bounds = {}
            for stream, names in wanted:
                last = listings.get(stream.id)
                due = last is None or now - last > timedelta(hours=settings.reconcile_after_hours)
                mine = {name: totals[stream.id, name] for name in names if (stream.id, name) in totals}
                since = None
                known = max((total.known for total in mine.values()), default=0)
                whole = len(mine) == len(names) and mine.keys() <= existing.keys()
                if whole and not due and known > LIST_ALL_UP_TO:
                    since = _lower_bound(stream, mine.values(), settings, now)
                worst = max((total.quarantined for total in mine.values()), default=0)
                bounds[stream.id] = (since, due, last, worst)
            held = self._held({stream: bound[0] for stream, bound in bounds.items()})
        return {
            stream.id: Reading(
                tuple(
                    _state(name, numbers[name], totals.get((stream.id, name)), existing, held)
                    for name in names
                ),
                *bounds[stream.id],
            )
            for stream, names in wanted
        }

    def get_cursor(self, stream: Stream) -> str | None:
        """The newest applied file's path. Read-only; a lower bound for listing, never proof of anything."""
        rows = self._lake.query(
            f"select cursor_path from {META}.feeder_cursors where source = ? and stream = ?",
            [stream.source, stream.name],
        )
        return rows[0][0] if rows else None

    def quarantine(self, stream: Stream, state: ModelState, file: LandedFile, reason: str) -> None:
        self._event(stream, state.model, "quarantined", state.build, file, reason)

    def fail(self, stream: Stream, models: Sequence[str], reason: str) -> None:
        """Remember that a feed stopped, for `status`; the next applied file makes it history."""
        for model in models:
            self._event(stream, model, "failed", 0, None, reason)

    def fail_build(self, model: str, reason: str) -> None:
        """Remember that a mart could not be built; its next build makes it history."""
        self._append(
            "build_log",
            "select $model, 'failed', null, null, $error, now()",
            {"model": model, "error": reason},
        )

    def release(self, stream: Stream, paths: Sequence[str] | None = None) -> list[str]:
        """Make quarantined files (all, or those named) pending again; returns their paths."""
        rows = self._lake.query(
            f"select distinct path from {META}.feeder_files "
            "where source = ? and stream = ? and status = 'quarantined' order by path",
            [stream.source, stream.name],
        )
        released = [path for (path,) in rows if paths is None or path in paths]
        self._append(
            "feeder_log",
            f"select source, stream, model, build, 'released', path, etag, size, partition_date, generation, "
            f"rows, extracted_at, null, null, null, now() from {META}.feeder_files "
            f"where source = $source and stream = $stream and status = 'quarantined' and path in $paths",
            {"source": stream.source, "stream": stream.name, "paths": released},
        )
        return released

    def files(self, stream: Stream) -> list[dict[str, object]]:
        """The stream's rows of the view `feeder_files`, as records. Read-only."""
        columns = "path", "etag", "model", "status", "size", "rows", "batch_id", "error", "logged_at"
        rows = self._lake.query(
            f"select {', '.join(columns)} from {META}.feeder_files where source = ? and stream = ?",
            [stream.source, stream.name],
        )
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def record_listing(self, stream: Stream, objects: int) -> None:
        self._append(
            "feeder_listings",
            "select $source, $stream, $objects, now()",
            {"source": stream.source, "stream": stream.name, "objects": objects},
        )

    def columns(self, stream: Stream) -> dict[str, str]:
        """Every column ever seen in a landed file of the stream, with its newest type."""
        rows = self._lake.query(
            f"select name, type from {META}.feeder_columns where source = ? and stream = ? order by rowid",
            [stream.source, stream.name],
        )
        return dict(rows)

    def record_columns(self, stream: Stream, columns: dict[str, str], path: str) -> None:
        """Append the columns (name, type) first seen in the file `path`."""
        self._append(
            "feeder_columns",
            "select $source, $stream, unnest($names), unnest($types), $path, now()",
            {
                "source": stream.source,
                "stream": stream.name,
                "names": list(columns),
                "types": list(columns.values()),
                "path": path,
            },
        )

    def _append(self, table: str, select: str, parameters: dict[str, object]) -> None:
        retry(lambda: self._lake.query(f"insert into {META}.{table} {select}", parameters))

    def _event(
        self, stream: Stream, model: str, event: str, build: int, file: LandedFile | None, reason: str
    ) -> None:
        self._append(
            "feeder_log",
            "select $source, $stream, $model, $build, $event, $path, $etag, $size, $partition, null, null, "
            "null, null, null, $error, now()",
            {
                "source": stream.source,
                "stream": stream.name,
                "model": model,
                "build": build,
                "event": event,
                "path": file.path if file else None,
                "etag": file.etag if file else None,
                "size": file.size if file else None,
                "partition": file.partition if file else None,
                "error": reason,
            },
        )

    def _fences(self, models: Sequence[str]) -> dict[str, int]:
        if not models:
            return {}
        rows = self._lake.query(
            " union all ".join(f"select {quote_literal(name)}, n from {fence_table(name)}" for name in models)
        )
        return dict(rows)

    def _totals(self) -> dict[tuple[str, str], Totals]:
        rows = self._lake.query(
            f"""
            select log.source || '/' || log.stream, log.model, coalesce(files.known, 0), files.newest,
                   files.released, coalesce(log.build, 0), log.code, coalesce(files.quarantined, 0)
            from (
                select source, stream, model, max(build) as build,
                       max_by(code, build) filter (event = 'built') as code
                from {META}.feeder_log
                group by all
            ) as log
            left join (
                select source, stream, model, count(*) as known,
                       max(partition_date) filter (status = 'applied') as newest,
                       min(partition_date) filter (status = 'released') as released,
                       count(*) filter (status = 'quarantined') as quarantined
                from {META}.feeder_files
                group by all
            ) as files using (source, stream, model)"""
        )
        return {(stream, model): Totals(*rest) for stream, model, *rest in rows}

    def _held(self, bounds: dict[str, date | None]) -> dict[tuple[str, str], set[tuple[str, str]]]:
        """(path, etag) by (model, status), from each stream's lower bound on."""
        rows = self._lake.query(
            f"""
            select model, status, path, etag
            from {META}.feeder_files as files
            join (select unnest($streams) as id, unnest($bounds::date[]) as since) as bound
                on files.source || '/' || files.stream = bound.id
            where status <> 'released'
                and (since is null or partition_date is null or partition_date >= since)
            """,
            {"streams": list(bounds), "bounds": list(bounds.values())},
        )
        held: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for model, status, path, etag in rows:
            held.setdefault((model, status), set()).add((path, etag))
        return held

    def _last_full_listings(self) -> dict[str, datetime]:
        rows = self._lake.query(
            f"select source || '/' || stream, max(logged_at) from {META}.feeder_listings group by all"
        )
        return {stream: moment.astimezone(UTC) for stream, moment in rows}


def _state(
    name: str,
    fence: int,
    total: Totals | None,
    existing: Container[str],
    held: dict[tuple[str, str], set[tuple[str, str]]],
) -> ModelState:
    build = total.build if total else 0
    is_new = build == 0 or name not in existing
    return ModelState(
        model=name,
        fence=fence,
        build=build + 1 if is_new else build,
        is_new_build=is_new,
        applied=frozenset() if is_new else frozenset(held.get((name, "applied"), ())),
        quarantined=frozenset(held.get((name, "quarantined"), ())),
        code=total.code if total else None,
    )


def _lower_bound(stream: Stream, totals: Iterable[Totals], settings: Settings, now: datetime) -> date | None:
    totals = list(totals)
    if any(total.newest is None for total in totals):
        return None
    lookback = stream.config.lookback_days
    days = timedelta(days=settings.lookback_days if lookback is None else lookback)
    # A day folder from the future (a wrong clock) must not hide today's files.
    cursor = min([now.date(), *(total.newest for total in totals if total.newest)])
    return min([cursor - days, *(total.released for total in totals if total.released)])
