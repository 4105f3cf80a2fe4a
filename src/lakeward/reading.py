"""What the ledger says of a stream at one moment: which files its models hold, and what follows from that.

Read-only. history.py has what the events say; what follows from it is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING

from lakeward.history import Bounds, History, StreamHistory, Totals
from lakeward.meta import Relation, fence_table, knows_ledger, relations
from lakeward.sql import quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.manifest import Model
    from lakeward.settings import Settings
    from lakeward.stores import LandedFile
    from lakeward.streams import Stream

Job = tuple["Stream", Sequence["Model"]]  # a stream and its models
Wanted = tuple["Stream", Sequence[str]]  # a stream and the names of its models

_NEXT = "__next"
_ANNOUNCED_AT_MOST = timedelta(hours=1)  # a minute, and what clocks of two machines may differ by

LIST_ALL_UP_TO = 10_000  # objects, of all streams together: cheap enough for every feed


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
    history: History | None = None,
) -> dict[str, Reading]:
    """Readings by stream id, in one transaction; none where no feed has ever set up the ledger.

    Four queries for any number of streams.

    A stream is listed in full when that is cheap, when a model has nothing applied, or when its last
    full listing is older than `reconcile_after_hours`; otherwise from the lookback before the oldest of
    its models' newest partitions (and of its released files).
    bounds: instead of those. A reading knows nothing of files before its bound: for files that a listing
    after it did not find, give the bound they were found by.
    fences: one more query; whoever plans a run needs them, reports do not.
    history: of earlier readings of the same lake; one query or two bring it up to date and may spare two.
    """
    with lake.transaction():
        existing = relations(lake)
        if not knows_ledger(existing):
            return {}
        models = [model for _, names in wanted for model in names]
        numbers = _fences(lake, models) if fences else dict.fromkeys(models, -1)
        if history is not None:
            history.forget_what_changed(lake)
        kept = history or History()
        known = kept.look(lake, [stream.id for stream, _ in wanted])
        small = _small({stream.id: _files(known[stream.id]) for stream, _ in wanted})
        listings: dict[str, tuple[date | None, bool]] = {}
        for stream, names in wanted:
            mine = known[stream.id]
            due = _is_full_listing_due(mine, settings, now)
            if bounds is not None:
                since = bounds[stream.id]
            elif due or stream.id in small or not all(("main", name) in existing for name in names):
                since = None
            else:
                since = _lower_bound(stream, [mine.totals.get(n, Totals()) for n in names], settings, now)
            listings[stream.id] = since, due
        kept.hold(lake, {stream: since for stream, (since, _) in listings.items()})
    return {
        stream.id: Reading(
            tuple(
                _state(name, numbers[name], known[stream.id], existing.get(("main", name))) for name in names
            ),
            *listings[stream.id],
            known[stream.id].last_full_listing,
            _refreshed_by(known[stream.id], now),
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


def _is_full_listing_due(stream: StreamHistory, settings: Settings, now: datetime) -> bool:
    last = stream.last_full_listing
    # A time to come is another machine's wrong clock.
    return last is None or not timedelta(0) <= now - last <= timedelta(hours=settings.reconcile_after_hours)


def _refreshed_by(stream: StreamHistory, now: datetime) -> str | None:
    owner, until = stream.refresh or (None, now)
    # What ends later was announced by a clock that ran ahead, and would hold all others up till then.
    return owner if now < until <= now + _ANNOUNCED_AT_MOST else None


def _files(stream: StreamHistory) -> int:
    return max((totals.known for totals in stream.totals.values()), default=0)


def _small(files: Mapping[str, int]) -> set[str]:
    """The smallest streams: as many as may all be listed in full, as long as that is cheap."""
    ordered = sorted(files, key=lambda stream: files[stream])
    sums = accumulate(files[stream] for stream in ordered)
    return {stream for stream, files in zip(ordered, sums, strict=True) if files <= LIST_ALL_UP_TO}


def next_name(model: str) -> str:
    """The table in which a refresh builds a model anew, beside the old one."""
    return f"{model}{_NEXT}"


def original(name: str) -> str:
    """The model that `next_name` was made from; every other name is its own."""
    return name.removesuffix(_NEXT)


def _state(name: str, fence: int, stream: StreamHistory, table: Relation | None) -> ModelState:
    totals, held = stream.totals.get(name, Totals()), stream.held or {}
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
    if len(newest) < len(totals):
        return None
    lookback = stream.config.lookback_days
    days = timedelta(days=settings.lookback_days if lookback is None else lookback)
    # A day folder from the future (a wrong clock) must not hide today's files.
    cursor = min([now.date(), *newest])
    return min([cursor - days, *(total.released for total in totals if total.released)])
