"""The main job: every pending file of a stream into every model of it, exactly once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lakeward.batching import Limits, plan_batches
from lakeward.errors import (
    DataError,
    LakewardError,
    LandingError,
    MemoryExceeded,
    TransformError,
    WriterConflict,
)
from lakeward.intake import (
    Inspected,
    Plan,
    get_files_after_cursor,
    hidden_columns,
    inspect,
    record_new_columns,
    shape_for,
)
from lakeward.meta import set_up
from lakeward.reading import read

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import LandedFile, Landing
    from lakeward.ledger import Ledger
    from lakeward.manifest import Model
    from lakeward.reading import Reading, Wanted
    from lakeward.settings import Settings
    from lakeward.streams import Stream
    from lakeward.transform import Transform

Job = tuple["Stream", Sequence["Model"]]

_ATTEMPTS = 10  # of a feed that keeps losing to another writer
_BLAMELESS_AFTER = 10  # files that failed alone while none succeeded: it is the model, not the files


@dataclass(frozen=True)
class Found:
    """What is pending for a stream, by one reading of the ledger (without fences) and one listing."""

    reading: Reading
    files: list[LandedFile]


@dataclass
class FeedReport:
    """What one feed of one stream did. `errors` by model; empty means that nothing is left pending."""

    stream: str
    batches: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    conflicts: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    new_columns: dict[str, str] = field(default_factory=dict)
    hidden_columns: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """One batch done, of how many in the part of the backlog looked at so far."""

    stream: str
    batch: int
    batches: int
    files: int
    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Tools:
    """The collaborators of one feeding process."""

    settings: Settings
    lake: Lake
    landing: Landing
    ledger: Ledger
    transform: Callable[[], AbstractContextManager[Transform]]  # entered only when there is work
    say: Callable[[Progress], None]


def pending(jobs: Sequence[Job], tools: Tools) -> dict[str, Found]:
    """What a feed of each stream would load now, oldest first. Sets up the ledger, loads nothing."""
    wanted = _wanted(jobs)
    set_up(tools.lake, [name for _, names in wanted for name in names])
    readings = read(tools.lake, wanted, tools.settings, datetime.now(UTC), fences=False)
    return {
        stream.id: Found(
            readings[stream.id], get_files_after_cursor(readings[stream.id], tools.landing, stream)
        )
        for stream, _ in jobs
    }


def settled(stream: Stream, found: Found, tools: Tools) -> None:
    """Record a full listing, once everything it found is loaded: until then nothing may lean on it."""
    if found.reading.full_listing_due or (found.files and found.reading.since is None):
        tools.ledger.record_listing(stream)


def is_due(stream: Stream, reading: Reading, files: Sequence[LandedFile]) -> bool:
    """Is there anything to feed? A stream whose fields are known also wants its empty table."""
    wants_table = stream.columns is not None and any(model.is_new_build for model in reading.models)
    return bool(files) or wants_table


def feed(stream: Stream, models: Sequence[Model], tools: Tools, found: Found | None = None) -> FeedReport:
    """Load what is pending, batch by batch, oldest partition first.

    found: what `pending` answered for the stream just now, if it was asked; saves a listing.

    Each batch of each model commits its rows and its ledger events in one snapshot, or neither. Another
    writer's commit makes this one read the ledger again and start over. Never raises for what one
    model or file did wrong: that stands in the report, and the rest is loaded.
    Raises LandingError or LakeError when the store or the catalog is away.
    """
    report = FeedReport(stream.id)
    started = datetime.now(UTC)
    for _ in range(_ATTEMPTS):
        found = found or pending([(stream, models)], tools)[stream.id]
        reading = _fenced(stream, models, tools, found)
        files = reading.pending(found.files)
        try:
            if is_due(stream, reading, files):
                with tools.transform() as transform:
                    _Feeder(stream, models, reading, tools, transform, report).load(files)
            if not report.errors:
                settled(stream, found, tools)
            break
        except WriterConflict:
            report.conflicts += 1
            found = None
    else:
        report.errors |= {model.name: f"lost to another writer {_ATTEMPTS} times" for model in models}
    known = {state.model: state.totals.error for state in reading.models}
    for model, error in report.errors.items():
        if error != known[model]:  # said once, however often it is tried
            tools.ledger.fail(stream, model, error)
    report.seconds = (datetime.now(UTC) - started).total_seconds()
    return report


def _fenced(stream: Stream, models: Sequence[Model], tools: Tools, found: Found) -> Reading:
    """Ledger and fences in one reading: what another writer commits after it moves a fence."""
    wanted, now = _wanted([(stream, models)]), datetime.now(UTC)
    bounds = {stream.id: found.reading.since}
    return read(tools.lake, wanted, tools.settings, now, fences=True, bounds=bounds)[stream.id]


def _wanted(jobs: Sequence[Job]) -> list[Wanted]:
    return [(stream, [model.name for model in models]) for stream, models in jobs]


class _Feeder:
    """One attempt: valid until another writer moves a fence."""

    def __init__(
        self,
        stream: Stream,
        models: Sequence[Model],
        reading: Reading,
        tools: Tools,
        transform: Transform,
        report: FeedReport,
    ) -> None:
        self._stream = stream
        self._tools = tools
        self._transform = transform
        self._report = report
        self._states = {state.model: state for state in reading.models}
        self._fences = {state.model: state.fence for state in reading.models}
        self._new = {state.model for state in reading.models if state.is_new_build}
        self._known = (stream.columns or {}) | tools.ledger.columns(stream)
        # Models of which this very SQL has loaded some file: only beside it can another be to blame.
        code = {model.name: model.code for model in models}
        self._proven = {
            m for m, state in self._states.items() if state.applied and state.totals.code == code[m]
        }
        self._loaded: dict[str, Inspected] = {}  # of the batch at hand, by any model

    def load(self, files: Sequence[LandedFile]) -> None:
        limits = self._limits()
        if not files:
            self._settle(self._live(), [])
        for window in _windows(files, limits.max_files):
            found = inspect(self._tools.lake, self._tools.landing, window)
            for file, reason in found.unreadable:
                for model in self._live():
                    self._quarantine(model, file, reason)
            self._report.vanished += [file.path for file in found.vanished]
            fresh = record_new_columns(self._tools.ledger, self._stream, self._known, found.readable)
            self._report.new_columns |= {
                k: v for k, v in fresh.items() if self._known and k not in self._known
            }
            self._known |= fresh
            own = {name for item in found.readable for name, _ in item.columns}
            self._report.hidden_columns = sorted({*self._report.hidden_columns, *hidden_columns(own)})
            batches = plan_batches(found.readable, limits)
            of = self._report.batches + len(batches)
            for batch in batches:
                if self._live():
                    self._load_batch(batch, of)

    def _load_batch(self, batch: Sequence[Inspected], of: int) -> None:
        started = datetime.now(UTC)
        self._loaded = {}
        self._settle(self._live(), batch)
        items = self._loaded.values()
        if not items:
            return
        report = self._report
        files, rows, size = len(items), sum(i.rows for i in items), sum(i.file.size for i in items)
        report.batches += 1
        report.files += files
        report.rows += rows
        report.bytes += size
        seconds = (datetime.now(UTC) - started).total_seconds()
        self._tools.say(Progress(self._stream.id, report.batches, of, files, rows, size, seconds))

    def _settle(self, models: Sequence[str], batch: Sequence[Inspected]) -> None:
        """Run the batch; then deal with each model that failed, so that the others go on."""
        for model, error in self._run(models, batch).items():
            self._handle(model, batch, error)

    def _run(self, models: Sequence[str], batch: Sequence[Inspected]) -> dict[str, LakewardError]:
        """One dbt invocation. A model renders the batch minus what its own ledger holds."""
        if not models:
            return {}
        plans = {model: self._plan(model, batch) for model in models}
        errors = {}
        for result in self._transform.feed(self._stream.tag, plans, whole=set(models) == set(self._states)):
            if result.error is None:
                self._fences[result.model] += 1
                self._new.discard(result.model)
                if plans[result.model].files:
                    self._proven.add(result.model)
                self._loaded |= {item.file.path: item for item in plans[result.model].files}
            else:
                errors[result.model] = result.error
        for error in errors.values():
            if isinstance(error, WriterConflict):
                raise error
        return errors

    def _plan(self, model: str, batch: Sequence[Inspected]) -> Plan:
        state = self._states[model]
        files = tuple(item for item in batch if state.lacks(item.file))
        return Plan(
            stream=self._stream,
            model=model,
            build=state.build,
            is_new_build=model in self._new,
            fence=self._fences[model],
            files=files,
            batch_id=uuid.uuid4().hex,
            shape=shape_for(self._tools.lake, self._known, files),
        )

    def _handle(self, model: str, batch: Sequence[Inspected], error: LakewardError) -> None:
        if isinstance(error, DataError) and batch:
            self._find_culprits(model, batch, error)
        elif isinstance(error, MemoryExceeded) and len(batch) > 1:
            for half in _halves(batch):
                self._settle([model], half)
        elif isinstance(error, LandingError) and (rest := self._without_vanished(batch)) != list(batch):
            self._settle([model], rest)
        else:
            self._stop(model, error)

    def _find_culprits(self, model: str, batch: Sequence[Inspected], error: LakewardError) -> None:
        """Halve until the files that fail alone are found; quarantine them if the model is proven.

        A model whose every file fails is wrong itself: nothing is quarantined, everything stays pending.
        """
        culprits: list[tuple[Inspected, LakewardError]] = []
        suspects: list[tuple[Sequence[Inspected], LakewardError]] = [(batch, error)]
        while suspects:
            files, reason = suspects.pop()
            if not isinstance(reason, DataError):
                self._handle(model, files, reason)
            elif len(files) == 1:
                culprits.append((files[0], reason))
                if model not in self._proven and len(culprits) == _BLAMELESS_AFTER:
                    break
            else:
                for half in _halves(files):
                    failed = self._run([model], half)
                    if failed:
                        suspects.append((half, failed[model]))
        if model not in self._proven:
            self._stop(model, culprits[0][1] if culprits else error)
            return
        for item, reason in culprits:
            self._quarantine(model, item.file, reason.message)

    def _without_vanished(self, batch: Sequence[Inspected]) -> list[Inspected]:
        rest = []
        for item in batch:
            if self._tools.landing.head(item.file.path) is None:
                self._report.vanished.append(item.file.path)
            else:
                rest.append(item)
        return rest

    def _quarantine(self, model: str, file: LandedFile, reason: str) -> None:
        self._tools.ledger.quarantine(self._stream, self._states[model], file, reason)
        self._report.quarantined[file.path] = reason

    def _stop(self, model: str, error: LakewardError) -> None:
        """This model gets nothing more in this feed; its files stay pending."""
        if not isinstance(error, TransformError):
            raise error
        self._report.errors[model] = str(error)

    def _live(self) -> list[str]:
        return [model for model in self._states if model not in self._report.errors]

    def _limits(self) -> Limits:
        settings = self._tools.settings
        own = self._stream.config.batch_max_bytes
        return Limits(own or settings.batch_max_bytes, settings.batch_max_files)


def _windows(files: Sequence[LandedFile], size: int) -> Iterator[Sequence[LandedFile]]:
    """Footers are read a window at a time, so the first batch does not wait for the whole backlog."""
    for start in range(0, len(files), size):
        yield files[start : start + size]


def _halves(files: Sequence[Inspected]) -> tuple[Sequence[Inspected], Sequence[Inspected]]:
    middle = len(files) // 2
    return files[:middle], files[middle:]
