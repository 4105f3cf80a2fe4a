"""One attempt at a stream: batch after batch into every model, until done or another writer is faster."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    CONTROL,
    MISFIT,
    Inspected,
    Plan,
    inspect,
    known_columns,
    record_new_columns,
    shape_for,
)
from lakeward.schemas import hidden_columns

if TYPE_CHECKING:
    from lakeward.history import History
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.ledger import Ledger
    from lakeward.manifest import Model
    from lakeward.reading import Reading
    from lakeward.settings import Settings
    from lakeward.stores import LandedFile
    from lakeward.streams import Stream
    from lakeward.transform import ModelResult, Transform

_BLAMELESS_AFTER = 10  # files that failed alone while none succeeded: it is the model, not the files
_CONTROLS = 20  # loaded files whose footers are read to find one like a suspect


@dataclass
class FeedReport:
    """What one feed of one stream did. `errors` by model, or by stream for what concerns all of them.

    Nothing is left pending when it did not fail and its turn was long enough.
    """

    stream: str
    batches: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    conflicts: int = 0
    left: int = 0  # files that stay pending because its turn was over
    refreshed_by: str | None = None  # a refresh is under way: the stream was left alone
    quarantined: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    new_columns: dict[str, str] = field(default_factory=dict)
    hidden_columns: list[str] = field(default_factory=list)
    replaced: dict[str, int] = field(default_factory=dict)  # rows of older generations that went, by model
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return bool(self.errors or self.unreachable)


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
    transform: Callable[..., AbstractContextManager[Transform]]  # entered only when there is work
    say: Callable[[Progress], None]
    history: History  # what the ledger said, for looking; a plan reads anew
    turn: float  # seconds after which a stream's feed begins no other batch, so that others have theirs


class Attempt:
    """Valid until another writer moves a fence: then every method may raise WriterConflict."""

    def __init__(
        self,
        stream: Stream,
        models: Mapping[str, Model],
        reading: Reading,
        tools: Tools,
        transform: Transform,
        report: FeedReport,
        *,
        tag: str | None,
    ) -> None:
        """tag: the stream's, when it selects these models and no others."""
        self._stream = stream
        self._models = models
        self._tools = tools
        self._transform = transform
        self._report = report
        self._tag = tag
        self._states = {state.model: state for state in reading.models}
        self._fences = {state.model: state.fence for state in reading.models}
        self._new = {state.model for state in reading.models if state.is_new_build}
        self._known = known_columns(tools.ledger, stream)
        self._stopped: set[str] = set()
        self._proved: set[tuple[str, object]] = set()  # a model and the columns of a file it loaded just now
        self._loaded: dict[str, Inspected] = {}  # of the batch at hand, by any model

    def load(self, files: Sequence[LandedFile], until: float) -> None:
        """Never raises for what one model or file did wrong: that stands in the report.

        until: of the monotonic clock; the batch that goes beyond it is the last.
        """
        limits, left = self._limits(), len(files)
        if not files:
            self._settle(self._live(), [])
        for window in _windows(files, limits.max_files):
            found = inspect(self._tools.lake, self._tools.landing, window)
            for file, reason in found.unreadable:
                for model in self._live():
                    self._quarantine(model, file, reason)
            self._report.unreachable |= {file.path: reason for file, reason in found.unreachable}
            self._report.vanished += [file.path for file in found.vanished]
            is_first = not self._known.types
            known = set(self._known.types)
            fresh = record_new_columns(self._tools.ledger, self._stream, self._known, found.readable)
            if not is_first:
                self._report.new_columns |= {name: kind for name, kind in fresh.items() if name not in known}
            own = {name for item in found.readable for name, _ in item.columns}
            self._report.hidden_columns = sorted({*self._report.hidden_columns, *hidden_columns(own)})
            batches = plan_batches(found.readable, limits)
            of = self._report.batches + len(batches)
            left -= len(window) - len(found.readable)
            for batch in batches:
                if self._live():
                    self._load_batch(batch, of)
                left -= len(batch)
                if left and time.monotonic() >= until:
                    self._report.left = left
                    return

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
        for result in self._invoke(plans):
            if result.error is None:
                self._fences[result.model] += 1
                self._new.discard(result.model)
                self._proved |= {(result.model, item.columns) for item in plans[result.model].files}
                self._loaded |= {item.file.path: item for item in plans[result.model].files}
            else:
                errors[result.model] = result.error
        for error in errors.values():
            if isinstance(error, WriterConflict):
                raise error
        return errors

    def _invoke(self, plans: Mapping[str, Plan]) -> Sequence[ModelResult]:
        models = [self._models[name] for name in plans]
        return self._transform.feed(models, plans, tag=self._tag if len(plans) == len(self._models) else None)

    def _plan(self, model: str, batch: Sequence[Inspected], *, is_control: bool = False) -> Plan:
        state = self._states[model]
        files = tuple(item for item in batch if is_control or state.lacks(item.file))
        return Plan(
            stream=self._stream,
            model=model,
            build=state.build,
            is_new_build=model in self._new,
            fence=self._fences[model],
            files=files,
            batch_id=uuid.uuid4().hex,
            shape=shape_for(self._tools.lake, self._tools.landing, self._known, files),
            is_control=is_control,
        )

    def _handle(self, model: str, batch: Sequence[Inspected], error: LakewardError) -> None:
        if isinstance(error, DataError) and batch:
            self._find_culprits(model, batch, error)
        elif isinstance(error, MemoryExceeded) and batch:
            self._take_less(model, batch, error)
        elif isinstance(error, LandingError) and batch:
            self._find_unreachable(model, batch, error)
        else:
            self._stop(model, error)

    def _find_culprits(self, model: str, batch: Sequence[Inspected], error: LakewardError) -> None:
        """Halve until the files that fail alone are found, and quarantine them if they are to blame.

        Both halves are run at once, so a sound one is loaded, and proves the model, as early as can be.
        """
        culprits: list[tuple[Inspected, LakewardError]] = []
        suspects: list[tuple[Sequence[Inspected], LakewardError]] = [(batch, error)]
        while suspects:
            files, reason = suspects.pop()
            if not isinstance(reason, DataError):
                self._handle(model, files, reason)
            elif len(files) == 1:
                culprits.append((files[0], reason))
                enough = len(culprits) == _BLAMELESS_AFTER and not self._is_proved(model)
                if enough and not self._is_to_blame(model, *culprits[0]):
                    self._stop(model, reason)
                    return
            else:
                for half in _halves(files):
                    failed = self._run([model], half)
                    if failed:
                        suspects.append((half, failed[model]))
        for item, reason in culprits:
            if self._is_to_blame(model, item, reason):
                self._quarantine(model, item.file, reason.message)
            elif self._is_proved(model):  # but never by a file of these columns: nobody knows whose fault
                self._report.errors[model] = f"{item.file.path} stays pending: {reason}"
            else:
                self._stop(model, reason)
                return

    def _is_proved(self, model: str) -> bool:
        return any(proved == model for proved, _ in self._proved)

    def _is_to_blame(self, model: str, suspect: Inspected, error: LakewardError) -> bool:
        """Does a file of the same columns load, with this very model, now? Runs one again if none just did.

        That run is undone: its post-hook fails on purpose. A model that can load nothing is wrong itself.
        Where the table itself refused a value of another type, no second file is needed to know.
        """
        if MISFIT in error.message:
            return True
        key = (model, suspect.columns)
        if key not in self._proved:
            control = self._control(model, suspect)
            if control is None:
                return False
            (result,) = self._invoke({model: self._plan(model, [control], is_control=True)})
            if isinstance(result.error, WriterConflict):
                raise result.error
            if result.error is None or CONTROL not in result.error.message:
                return False
            self._proved.add(key)
        return True

    def _control(self, model: str, suspect: Inspected) -> Inspected | None:
        """A file with the suspect's columns that the model's table holds and that still is what it was."""
        applied = sorted(self._states[model].applied, reverse=True)[:_CONTROLS]
        heads = [self._tools.landing.head(path) for path, _ in applied]
        files = [file for file in heads if file is not None and (file.path, file.etag) in applied]
        for item in inspect(self._tools.lake, self._tools.landing, files).readable:
            if item.columns == suspect.columns:
                return item
        return None

    def _take_less(self, model: str, batch: Sequence[Inspected], error: LakewardError) -> None:
        """Halve what exceeds memory; a single file that does stays pending, and the others go on."""
        if len(batch) == 1:
            self._report.errors[model] = f"{batch[0].file.path}: {error}"
            return
        for half in _halves(batch):
            self._settle([model], half)

    def _find_unreachable(self, model: str, batch: Sequence[Inspected], error: LakewardError) -> None:
        """Go on without files that are gone or refused. Raises LandingError when the store is away."""
        rest = []
        for item in batch:
            if self._tools.landing.head(item.file.path) is None:
                self._report.vanished.append(item.file.path)
            else:
                rest.append(item)
        if len(rest) < len(batch):
            if rest:
                self._settle([model], rest)
        elif len(rest) == 1:
            self._report.unreachable[rest[0].file.path] = error.message
        else:
            for half in _halves(rest):
                self._settle([model], half)

    def _quarantine(self, model: str, file: LandedFile, reason: str) -> None:
        self._tools.ledger.quarantine(self._stream, self._states[model], file, reason)
        self._report.quarantined[file.path] = reason

    def _stop(self, model: str, error: LakewardError) -> None:
        """This model gets nothing more in this feed; its files stay pending."""
        if not isinstance(error, TransformError):
            raise error
        self._report.errors[model] = str(error)
        self._stopped.add(model)

    def _live(self) -> list[str]:
        return [model for model in self._states if model not in self._stopped]

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
