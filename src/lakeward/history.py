"""What the ledger's events say of each stream, in numbers and as sets of files; remembered between looks.

Read-only. ledger.py writes the events, meta.py has the tables they lie in, reading.py draws the conclusions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

from lakeward.meta import META
from lakeward.settings import LAKE

if TYPE_CHECKING:
    from lakeward.lake import Lake

Bounds = Mapping[str, date | None]  # by stream: the oldest partition that matters; None: all do
Held = dict[tuple[str, str], set[tuple[str, str]]]  # (path, etag) by (model, status)

_FEW = 20  # streams: more are not worth comparing with one by one


@dataclass(frozen=True)
class Totals:
    """A model's ledger in numbers."""

    build: int = 0
    code: str | None = None  # checksum of the SQL that began the build
    known: int = 0  # files
    quarantined: int = 0  # files
    newest: date | None = None  # partition applied
    released: date | None = None  # oldest partition with a released file
    last_batch: datetime | None = None
    newest_record: datetime | None = None
    error: str | None = None  # of its last feed, if that failed
    nulled: int = 0  # values that were null because they did not fit, in the files applied


@dataclass
class StreamHistory:
    """totals by model. refresh: who has announced one, until when. held: from `since` on, once read."""

    totals: dict[str, Totals] = field(default_factory=dict)
    last_full_listing: datetime | None = None
    refresh: tuple[str, datetime] | None = None
    held: Held | None = None
    since: date | None = None

    def holds(self, since: date | None) -> bool:
        return self.held is not None and (self.since is None or (since is not None and self.since <= since))


class History:
    """By stream id. Kept from one look to the next, the next costs what has happened between."""

    def __init__(self) -> None:
        self._streams: dict[str, StreamHistory] = {}
        self._snapshot: int | None = None
        self._last: tuple[int, datetime] | None = None  # event: its rowid, when it was logged

    def look(self, lake: Lake, streams: Sequence[str]) -> Mapping[str, StreamHistory]:
        """What is known, without the files; one query when something is not."""
        missing = [stream for stream in streams if stream not in self._streams]
        if missing:
            self._streams |= _numbers(lake, missing)
        return self._streams

    def hold(self, lake: Lake, bounds: Bounds) -> None:
        """Read which files are held from those days on, where that is not known. One query at most."""
        missing = {name: since for name, since in bounds.items() if not self._streams[name].holds(since)}
        if missing:
            held = _held(lake, missing)
            for name, since in missing.items():
                self._streams[name].held, self._streams[name].since = held.get(name, {}), since

    def forget_what_changed(self, lake: Lake) -> None:
        """Streams with newer events; all of them, when the last event is not what it was: another lake's.

        One query when nothing was written to the lake, else two. For a history that is kept.
        rowid follows commit order (meta.py): nothing appears before what was seen.
        """
        ((snapshot,),) = lake.query(f"select id from {LAKE}.current_snapshot()")
        if snapshot == self._snapshot:
            return
        known = self._last
        select = f"select rowid, logged_at, source || '/' || stream from {META}.feeder_log"
        if known is None:
            events = lake.query(f"{select} order by rowid desc limit 1")
        else:
            events = lake.query(f"{select} where rowid >= ? order by rowid", [known[0]])
        if known is None or not events or events[0][:2] != known:
            self._streams.clear()
        for *_, stream in events[1:]:
            self._streams.pop(stream, None)
        self._last, self._snapshot = (events[-1][:2] if events else None), snapshot


def _numbers(lake: Lake, streams: Sequence[str]) -> dict[str, StreamHistory]:
    of_these = _among(streams)
    rows = lake.query(
        f"""
        select log.source || '/' || log.stream, log.model, log.listed_at, log.owner, log.until,
               coalesce(log.build, 0), log.code, coalesce(files.known, 0), coalesce(files.quarantined, 0),
               files.newest, files.released, log.applied_at, log.extracted_at, log.error,
               coalesce(files.nulled, 0)
        from (
            select source, stream, model, max(build) as build,
                   max_by(code, build) filter (event = 'built') as code,
                   max(logged_at) filter (event = 'listed') as listed_at,
                   max_by(until, rowid) filter (event = 'announced') as until,
                   max_by(error, rowid) filter (event = 'announced') as owner,
                   max(logged_at) filter (event = 'applied') as applied_at,
                   max(extracted_at) filter (event = 'applied') as extracted_at,
                   case when max_by(event, rowid)
                       filter (event in ('built', 'applied', 'failed', 'recovered')) = 'failed'
                       then max_by(error, rowid) filter (event = 'failed') end as error
            from {META}.feeder_log where {of_these}
            group by all
        ) as log
        left join (
            select source, stream, model, count(*) as known,
                   max(partition_date) filter (status = 'applied') as newest,
                   min(partition_date) filter (status = 'released') as released,
                   count(*) filter (status = 'quarantined') as quarantined,
                   sum(nulled) filter (status = 'applied')::bigint as nulled
            from {META}.feeder_files where {of_these}
            group by all
        ) as files using (source, stream, model)""",
        {"streams": streams},
    )
    found = {stream: StreamHistory() for stream in streams}
    for stream, model, listed_at, owner, until, *rest in rows:
        if model is not None:
            found[stream].totals[model] = Totals(*rest)
        else:
            found[stream].last_full_listing = listed_at
            found[stream].refresh = (owner, until) if until is not None else None
    return found


def _held(lake: Lake, bounds: Bounds) -> dict[str, Held]:
    rows = lake.query(
        f"""
        select bound.id, model, status, path, etag
        from (from {META}.feeder_files where {_among(list(bounds))}) as files
        join (select unnest($streams) as id, unnest($bounds::date[]) as since) as bound
            on files.source || '/' || files.stream = bound.id
        where status <> 'released'
            and (since is null or partition_date is null or partition_date >= since)
        """,
        {"streams": list(bounds), "bounds": list(bounds.values())},
    )
    found: dict[str, Held] = {}
    for stream, model, status, path, etag in rows:
        found.setdefault(stream, {}).setdefault((model, status), set()).add((path, etag))
    return found


def _among(streams: Sequence[str]) -> str:
    """SQL. DuckDB takes a list's members before the windows of a view, a subquery's only after."""
    wanted = "source || '/' || stream"
    if len(streams) <= _FEW:
        return f"list_contains($streams, {wanted})"
    return f"{wanted} in (select unnest($streams))"
