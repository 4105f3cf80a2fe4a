"""What a connector says becomes landed files, checkpoint by checkpoint.

At every checkpoint the files are staged outside `raw/`, then the connector's state and their names are
written to the lake in one snapshot, then they land. Killed before the snapshot, nothing has landed and the
connector sends the records again; killed after it, the next sync lands the files first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.errors import ConnectorError, LakewardError
from lakeward.protocol import Message, complaint
from lakeward.synclog import Part, StagedFile, SyncLog

if TYPE_CHECKING:
    from lakeward.connector import Connector
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.spool import Spool
    from lakeward.streams import Stream

Say = Callable[[str], None]

_ROLL_BYTES = 200 * 1024**2  # as Airbyte's S3 destination (ObjectLoader.kt), but of the records' JSON
_CHECKPOINT_SECONDS = 60.0
_SHOW_SECONDS = 0.5


@dataclass
class Extraction:
    """A stream while it is read.

    known: the state of its last checkpoint. state: the last one told, of what is spooled and staged. parts:
    staged, and in no checkpoint yet. sent: how many records the connector says it sent; None until it says
    so. landed, files, bytes, nulled: what has become of them.
    """

    stream: Stream
    mode: str
    note: str | None
    spool: Spool
    generation: int
    known: Message | None
    state: Message | None = None
    parts: list[StagedFile] = field(default_factory=list)
    staged: int = 0
    read: int = 0
    sent: int | None = None
    landed: int = 0
    files: int = 0
    bytes: int = 0
    nulled: int = 0
    estimate: int | None = None
    is_complete: bool = False
    says_all: bool = True  # a state speaks of every record, so that what was sent can be compared
    error: str | None = None
    saved: float = field(default_factory=time.monotonic)

    @property
    def is_incremental(self) -> bool:
        return self.mode == "incremental"

    @property
    def is_settled(self) -> bool:
        """Has all of it come, and does a state speak of it, where one is needed to go on?"""
        return self.is_complete and not (self.is_incremental and self.spool.uncovered)

    @property
    def is_due(self) -> bool:
        waited = time.monotonic() - self.saved >= _CHECKPOINT_SECONDS
        return bool(self.parts) or self.spool.size >= _ROLL_BYTES / 2 or waited


class Writer:
    """From spools to landed files. partition: the folder of the day on which the sync began."""

    def __init__(
        self,
        log: SyncLog,
        staging: str,
        partition: str,
        folder: Path,
        parquet: Lake,
        landing: Landing,
        say: Say,
    ) -> None:
        """staging: where files wait, in the landing zone. parquet: a DuckDB to write them with."""
        self._log = log
        self._staging = staging
        self._partition = partition
        self._folder = folder
        self._parquet = parquet
        self._landing = landing
        self._say = say

    def stage(self, one: Extraction) -> None:
        """What is spooled becomes a staged file."""
        if not one.spool.rows:
            return
        one.staged += 1
        local = self._folder / f"{one.stream.name}.parquet"
        name = f"part_{one.staged}_{self._log.sync_id}.parquet"
        rows = one.spool.write(self._parquet, local, sync_id=self._log.sync_id, generation=one.generation)
        if rows != one.spool.rows:
            raise LakewardError(f"{one.stream.id}: {one.spool.rows:,} records became {rows:,} rows")
        size = local.stat().st_size
        staged = f"{self._staging}{one.stream.name}/{name}"
        self._landing.stage(local, staged)
        one.parts.append(StagedFile(staged, f"{one.stream.root}{self._partition}{name}", rows, size))
        one.nulled += one.spool.nulled
        one.spool.clear()

    def checkpoint(
        self, extractions: Sequence[Extraction], overall: Message | None, covers: Sequence[str]
    ) -> None:
        """All that they hold lands, and the states that speak of it count from now on.

        overall: the state of all streams, where it is one. covers: which those are.
        """
        for one in extractions:
            self.stage(one)
        parts = [
            Part(one.stream.name, one.state, tuple(one.parts), one.nulled, one.generation)
            for one in extractions
            if one.parts or one.state not in (None, one.known)
        ]
        if overall is not None:
            parts.append(Part(None, overall, covers=covers))
        if not parts:
            return
        self._log.checkpoint(parts)
        self.publish([file for part in parts for file in part.files])
        for one in extractions:
            one.landed += sum(file.rows for file in one.parts)
            one.files += len(one.parts)
            one.bytes += sum(file.size for file in one.parts)
            if one.parts:
                self._say(f"{one.stream.id}  {one.landed:,} records landed in {one.files:,} files")
            one.known, one.saved = one.state or one.known, time.monotonic()
            one.parts, one.state = [], None

    def publish(self, files: Sequence[StagedFile]) -> None:
        for file in files:
            self._landing.publish(file.staged, file.path)
        if files:
            self._log.published()


class Reader:
    """What the connector says, as it says it."""

    def __init__(
        self, extractions: Mapping[str, Extraction], writer: Writer, progress: Say, *, was_global: bool
    ) -> None:
        """was_global: the state that the read begins with is one of all streams."""
        self._extractions = extractions
        self._writer = writer
        self._progress = progress
        self._overall: Message | None = None  # the state of all streams, where it is one
        self._is_global = False
        self._was_global = was_global
        self._strangers: dict[str, int] = {}
        self._is_hearing = False
        self._shown = 0.0

    def run(self, connector: Connector, catalog: Message, states: Sequence[Message]) -> str | None:
        """Until the connector ends or fails; why the source failed as a whole, if it did.

        Interrupted, it saves what states speak of, unless it was in the middle of saving.
        """
        error: str | None = None
        try:
            with closing(connector.read(catalog, states)) as messages:
                for line, message, clean in messages:
                    self._is_hearing = True
                    self._hear(line, message, is_clean=clean)
                    self._is_hearing = False
        except ConnectorError as failure:
            error = str(failure)
        except OSError as failure:
            raise LakewardError(f"cannot keep what the connector sends: {failure}") from failure
        except (KeyboardInterrupt, SystemExit):
            if not self._is_hearing:
                self._save("interrupted")
            raise
        self._save(error)
        if self._strangers:
            told = ", ".join(
                f"{count:,} records of {name}" if count else f"a state of {name}"
                for name, count in self._strangers.items()
            )
            return f"the connector sent what it was not asked for: {told}; that was dropped"
        return error if not any(one.error for one in self._extractions.values()) else None

    def _hear(self, line: bytes, message: Message, *, is_clean: bool) -> None:
        if message["type"] == "RECORD":
            record = message["record"]
            one = self._extractions.get(record["stream"])
            if one is None:
                self._strangers[record["stream"]] = self._strangers.get(record["stream"], 0) + 1
                return
            one.spool.add(line, record, is_clean=is_clean)
            one.read += 1
            if one.spool.size >= _ROLL_BYTES:
                self._writer.stage(one)
                self._forget(one)  # the file holds more than the last state speaks of
            if one.read % 500 == 0:
                self._show()
        elif message["type"] == "STATE":
            self._remember(message["state"])
        else:
            self._trace(message)

    def _remember(self, state: Message) -> None:
        """A state speaks of all records before it: of its stream, or of all streams."""
        name = ((state.get("stream") or {}).get("stream_descriptor") or {}).get("name")
        if name is None:
            self._overall, self._is_global = state, True
            told = [one for one in self._extractions.values() if one.is_incremental]
        elif self._is_global or self._was_global:  # which streams the old one speaks of nobody knows
            raise ConnectorError(
                f"it told one state for all streams before, and now one of {name} alone",
                hint="lakeward sync --refresh reads the source from the start",
            )
        elif name in self._extractions:
            one = self._extractions[name]
            count = (state.get("sourceStats") or {}).get("recordCount")
            if count is not None:
                one.sent = (one.sent or 0) + int(count)
            told = [one] if one.is_incremental else []
        else:
            self._strangers.setdefault(name, 0)
            return
        for one in told:
            one.spool.cover()
            one.state = state if name is not None else None
        if any(one.is_due for one in told):
            self._checkpoint(told)

    def _forget(self, one: Extraction) -> None:
        one.state = None
        if self._overall is not None:
            self._overall = None
            for other in self._extractions.values():
                other.spool.uncover()

    def _trace(self, message: Message) -> None:
        trace = message["trace"]
        if found := complaint(message):
            one = self._extractions.get(found[0] or "")
            if one is not None:
                one.error = found[1]
        elif trace["type"] == "STREAM_STATUS" and trace.get("stream_status"):
            status = trace["stream_status"]
            one = self._extractions.get(status["stream_descriptor"]["name"])
            if one is not None and status["status"] == "COMPLETE" and one.error is None:
                one.is_complete = True
                if one.is_settled and not self._has_one_state:
                    self._close(one)
                    self._checkpoint([one])
            elif one is not None and status["status"] == "INCOMPLETE":
                one.error = one.error or "the connector could not read all of it"
        elif trace["type"] == "ESTIMATE" and trace.get("estimate"):
            estimate = trace["estimate"]
            one = self._extractions.get(estimate.get("name") or "")
            if one is not None and estimate.get("row_estimate") is not None:
                one.estimate = int(estimate["row_estimate"])

    @property
    def _has_one_state(self) -> bool:
        """For all streams, as far as one knows yet."""
        return self._is_global or self._was_global

    def _close(self, one: Extraction) -> None:
        """All of its records have come."""
        if one.is_incremental and one.spool.uncovered:
            one.says_all = False
            one.note = (
                f"the connector told no state after its last {one.spool.uncovered:,} records: "
                "they have landed, and may land again with the next sync"
            )
        one.spool.cover()

    def _save(self, error: str | None) -> None:
        """The end: what is whole lands; of what is not, what a state speaks of."""
        everything = list(self._extractions.values())
        failed = error is not None or any(one.error for one in everything)
        for one in everything:
            if not failed or (one.is_settled and one.error is None):
                self._close(one)
                continue
            one.error = one.error or error
            one.spool.drop_uncovered()
            if not one.is_incremental or (one.state is None and self._overall is None):
                one.parts = []
        self._checkpoint(everything)
        for one in everything:
            counts = one.error is None and one.sent is not None and one.says_all
            if counts and one.sent != one.landed:
                one.error = f"the connector says it sent {one.sent:,} records; {one.landed:,} have landed"

    def _checkpoint(self, extractions: Sequence[Extraction]) -> None:
        covers = [name for name, one in self._extractions.items() if one.is_incremental]
        self._writer.checkpoint(extractions, self._overall, covers)
        self._overall = None

    def _show(self) -> None:
        if time.monotonic() - self._shown >= _SHOW_SECONDS:
            self._shown = time.monotonic()
            told = (
                f"{one.stream.id} {one.read:,}" + (f" of {one.estimate:,}" if one.estimate else "")
                for one in self._extractions.values()
                if one.read and not one.is_complete
            )
            self._progress(", ".join(told))
