"""What the ledger says of a stream at one moment: which files its models hold, and what follows from that.

Read-only. ledger.py writes the events, meta.py has the tables they lie in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from lakeward.meta import LAST, META, Relation, fence_table, relations
from lakeward.sql import quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import LandedFile
    from lakeward.manifest import Model
    from lakeward.settings import Settings
    from lakeward.streams import Stream

Job = tuple["Stream", Sequence["Model"]]  # a stream and its models
Wanted = tuple["Stream", Sequence[str]]  # a stream and the names of its models
Bounds = Mapping[str, date | None]  # by stream: the oldest partition that matters; None: all do

_NEXT = "__next"

LIST_ALL_UP_TO = 10_000  # objects: ten listing requests, cheap enough for every feed


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


@dataclass(frozen=True)
class ModelState:
    """One model's reading of the ledger; only valid while its fence still shows `fence`."""

    model: str
    fence: int
    build: int
    table: Relation | None
    applied: frozenset[tuple[str, str]]
    quarantined: frozenset[tuple[str, str]]
    totals: Totals

    @property
    def is_new_build(self) -> bool:
        """No table yet, or one that was dropped by hand."""
        return self.build > self.totals.build

    def lacks(self, file: LandedFile) -> bool:
        identity = (file.path, file.etag)
        return identity not in self.applied and identity not in self.quarantined


@dataclass(frozen=True)
class Reading:
    """One consistent look at the ledger of a stream."""

    models: tuple[ModelState, ...]
    since: date | None  # None: list everything
    full_listing_due: bool
    last_full_listing: datetime | None
    refreshed_by: str | None  # who has announced a refresh of the stream, and it has not lapsed

    def pending(self, files: Iterable[LandedFile]) -> list[LandedFile]:
        """Files that any model lacks, oldest partition first."""
        found = [file for file in files if any(state.lacks(file) for state in self.models)]
        return sorted(found, key=lambda file: (file.partition or date.min, file.path))


# Where nothing was ever fed everything that landed is pending.
UNREAD = Reading((ModelState("", -1, 1, None, frozenset(), frozenset(), Totals()),), None, True, None, None)


def feedable(jobs: Sequence[Job]) -> list[Wanted]:
    """Without the models that cannot be fed."""
    return [(stream, [model.name for model in models if model.unfit is None]) for stream, models in jobs]


def read(
    lake: Lake,
    wanted: Sequence[Wanted],
    settings: Settings,
    now: datetime,
    *,
    fences: bool,
    bounds: Bounds | None = None,
) -> dict[str, Reading]:
    """Readings by stream id, in one transaction; none where no feed has ever set up the ledger.

    Four queries for any number of streams.

    A stream is listed in full when that is cheap, when a model has nothing applied, or when its last
    full listing is older than `reconcile_after_hours`; otherwise from the lookback before the oldest of
    its models' newest partitions (and of its released files).
    bounds: instead of those. A reading knows nothing of files before its bound: for files that a listing
    after it did not find, give the bound they were found by.
    fences: one more query; whoever plans a run needs them, reports do not.
    """
    with lake.transaction():
        existing = relations(lake)
        if LAST not in existing:
            return {}
        models = [model for _, names in wanted for model in names]
        numbers = _fences(lake, models) if fences else dict.fromkeys(models, -1)
        totals, listings, refreshes = _totals(lake, now)
        found = {}
        for stream, names in wanted:
            mine = [totals.get((stream.id, name), Totals()) for name in names]
            last = listings.get(stream.id)
            age = now - last if last is not None else None
            # A time to come is another machine's wrong clock.
            due = age is None or not timedelta(0) <= age <= timedelta(hours=settings.reconcile_after_hours)
            if bounds is not None:
                since = bounds[stream.id]
            elif due or not all(("main", name) in existing for name in names):
                since = None
            else:
                since = _lower_bound(stream, mine, settings, now)
            found[stream.id] = (since, due, last, refreshes.get(stream.id))
        held = _held(lake, {stream: since for stream, (since, *_) in found.items()})
    return {
        stream.id: Reading(
            tuple(
                _state(
                    name,
                    numbers[name],
                    totals.get((stream.id, name), Totals()),
                    existing.get(("main", name)),
                    held,
                )
                for name in names
            ),
            *found[stream.id],
        )
        for stream, names in wanted
    }


def _fences(lake: Lake, models: Sequence[str]) -> dict[str, int]:
    if not models:
        return {}
    rows = lake.query(
        " union all ".join(f"select {quote_literal(name)}, n from {fence_table(name)}" for name in models)
    )
    return dict(rows)


def _totals(
    lake: Lake, now: datetime
) -> tuple[dict[tuple[str, str], Totals], dict[str, datetime], dict[str, str]]:
    """By (stream, model); and each stream's last full listing, and who refreshes it now."""
    rows = lake.query(
        f"""
        select log.source || '/' || log.stream, log.model, log.listed_at, log.until, log.owner,
               coalesce(log.build, 0), log.code, coalesce(files.known, 0), coalesce(files.quarantined, 0),
               files.newest, files.released, log.applied_at, log.extracted_at, log.error
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
    totals = {(stream, model): Totals(*rest) for stream, model, _, _, _, *rest in rows if model is not None}
    of_streams = [row[:5] for row in rows if row[1] is None]
    listings = {stream: listed for stream, _, listed, _, _ in of_streams if listed is not None}
    refreshes = {
        stream: owner for stream, _, _, until, owner in of_streams if until is not None and until > now
    }
    return totals, listings, refreshes


def _held(lake: Lake, bounds: Bounds) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """(path, etag) by (model, status), from each stream's lower bound on."""
    rows = lake.query(
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


def next_name(model: str) -> str:
    """The table in which a refresh builds a model anew, beside the old one."""
    return f"{model}{_NEXT}"


def original(name: str) -> str:
    """The model that `next_name` was made from; every other name is its own."""
    return name.removesuffix(_NEXT)


def _state(
    name: str,
    fence: int,
    totals: Totals,
    table: Relation | None,
    held: dict[tuple[str, str], set[tuple[str, str]]],
) -> ModelState:
    is_new = totals.build == 0 or table is None
    return ModelState(
        model=name,
        fence=fence,
        build=totals.build + is_new,
        table=table,
        applied=frozenset() if is_new else frozenset(held.get((name, "applied"), ())),
        quarantined=frozenset(
            held.get((name, "quarantined"), set()) | held.get((original(name), "quarantined"), set())
        ),
        totals=totals,
    )


def _lower_bound(stream: Stream, totals: Sequence[Totals], settings: Settings, now: datetime) -> date | None:
    newest = [total.newest for total in totals if total.newest is not None]
    small = max((total.known for total in totals), default=0) <= LIST_ALL_UP_TO
    if small or len(newest) < len(totals):
        return None
    lookback = stream.config.lookback_days
    days = timedelta(days=settings.lookback_days if lookback is None else lookback)
    # A day folder from the future (a wrong clock) must not hide today's files.
    cursor = min([now.date(), *newest])
    return min([cursor - days, *(total.released for total in totals if total.released)])
