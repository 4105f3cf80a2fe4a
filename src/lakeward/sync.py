"""One sync without an Airbyte server: a connector is read, and its records land as Airbyte would land them.

At every checkpoint the files are staged outside `raw/`, then the connector's state and their names are
written to the lake in one snapshot, then they land. Killed before the snapshot, nothing has landed and the
connector sends the records again; killed after it, the next sync lands the files first.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.connector import Connector, Message, install
from lakeward.errors import ConfigError, ConnectorError, LakewardError
from lakeward.lake import open_writer
from lakeward.partitions import partition_folder
from lakeward.settings import inherited
from lakeward.shapes import shape
from lakeward.sources import find_source, load_sources, no_sources, selected
from lakeward.spool import Spool
from lakeward.streams import Stream, find_stream
from lakeward.synclog import Part, StagedFile, SyncLog

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.settings import Settings
    from lakeward.sources import Source

_ROLL_BYTES = 200 * 1024**2  # as Airbyte's S3 destination (ObjectLoader.kt), but of the records' JSON
_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class StreamReport:
    """What one sync did for one stream. sent: what the connector says it sent, where it says so.

    nulled: values that did not fit their type. note: what a reader should know though nothing failed.
    """

    stream: str
    mode: str
    records: int
    sent: int | None
    files: int
    bytes: int
    nulled: int
    error: str | None
    note: str | None


@dataclass(frozen=True)
class SyncReport:
    """error: of the source as a whole; a stream's own is in its report."""

    source: str
    streams: list[StreamReport]
    error: str | None
    seconds: float

    @property
    def failed(self) -> bool:
        return self.error is not None or any(stream.error for stream in self.streams)


@dataclass
class _Stream:
    """A stream while it is read. parts: staged, and in no checkpoint yet."""

    stream: Stream
    mode: str
    note: str | None
    spool: Spool
    state: Message | None = None
    parts: list[StagedFile] = field(default_factory=list)
    numbered: int = 0
    records: int = 0
    sent: int = 0
    says_sent: bool = False
    landed: int = 0
    files: int = 0
    bytes: int = 0
    nulled: int = 0
    estimate: int | None = None
    is_complete: bool = False
    error: str | None = None
    saved: float = field(default_factory=time.monotonic)


Say = Callable[[str], None]


@dataclass(frozen=True)
class Chosen:
    """jobs: sources, each with the streams to read. errors: of those that cannot be read, by name."""

    jobs: list[tuple[Source, list[Stream]]]
    errors: dict[str, str]


def choose(project_dir: Path, streams: Sequence[Stream], names: Sequence[str] | None = None) -> Chosen:
    """The named sources or `SOURCE/STREAM`s; by default every source, with its selected streams.

    Raises ConfigError for a name that stands for nothing, and when there is nothing at all.
    """
    if not names:
        sources, broken = load_sources(project_dir)
        if not sources and not broken:
            raise no_sources(project_dir)
        jobs = [(source, selected(streams, source)) for source in sources]
        errors = {path.stem: str(error) for path, error in broken.items()}
        errors |= {source.name: _without_streams(source) for source, found in jobs if not found}
        return Chosen([job for job in jobs if job[1]], errors)
    chosen: dict[str, tuple[Source, dict[str, Stream]]] = {}
    for name in names:
        source = find_source(project_dir, name.partition("/")[0])
        found = chosen.setdefault(source.name, (source, {}))[1]
        one = "/" in name
        for stream in [find_stream(project_dir, list(streams), name)] if one else selected(streams, source):
            found[stream.id] = stream
        if not found:
            raise ConfigError(_without_streams(source))
    return Chosen([(source, list(found.values())) for source, found in chosen.values()], {})


def _without_streams(source: Source) -> str:
    return f"{source.path}: no stream of it is selected: add dag/streams/{source.name}/*.json"


def open_connector(source: Source, settings: Settings, say: Say) -> Connector:
    """The source's connector, installed and its configuration accepted by its own spec.

    Raises ConfigError or ConnectorError. Costs a start of the program, the first time.
    """
    environment = inherited()
    config, secrets = source.resolved(environment)
    named = source.config.connector
    if named.startswith(("./", "/")):
        program = (settings.root / named).resolve()
    else:
        program = install(named, source.config.python, settings.state_dir / "connectors", environment)
    connector = Connector(
        program,
        config,
        environment=environment,
        secrets=secrets,
        silence_seconds=settings.sync_silence_minutes * 60,
        say=say,
    )
    source.check(_spec(connector, None if named.startswith(("./", "/")) else program), environment)
    return connector


def _spec(connector: Connector, installed: Path | None) -> Message:
    """Of an installed program it is kept beside it: another version is another folder."""
    kept = None if installed is None else installed.with_suffix(".spec.json")
    if kept is None or not kept.exists():
        found = connector.spec()
        if kept is not None:
            kept.write_text(json.dumps(found))
        return found
    return dict(json.loads(kept.read_text()))


def sync(
    source: Source,
    streams: Sequence[Stream],
    connector: Connector,
    *,
    settings: Settings,
    lake: Lake,
    landing: Landing,
    say: Say,
    progress: Say,
    refresh: bool = False,
) -> SyncReport:
    """Read the streams from where their last checkpoints are, and land what is new.

    refresh: from the start instead, as the next generation. say: what has landed, a line each. progress:
    what is being read, some times a second.
    What a stream has landed before it failed stays landed, and its next sync goes on from there. Raises
    ConfigError when nothing can be read, WriterConflict when another sync of the source took over.
    """
    began = time.monotonic()
    started = datetime.now(UTC)
    with _alone(source, settings) as folder, open_writer(settings) as parquet:
        catalog = {entry["name"]: entry for entry in connector.discover()}
        chosen = {stream.name: _configured(stream, catalog) for stream in streams}
        writer = _Writer(source, started, folder, parquet=parquet, lake=lake, landing=landing, say=say)
        refreshed = [stream.name for stream in streams if refresh or _is_overwritten(stream)]
        states = writer.begin([*refreshed, *([None] if refresh else [])])
        runs = {
            stream.name: _Stream(
                stream, configured["sync_mode"], note,
                Spool(folder / f"{stream.name}.ndjson", shape(configured["stream"]["json_schema"])),
            )
            for stream, (configured, note) in zip(streams, chosen.values(), strict=True)
        }  # fmt: skip
        reading = _Reading(runs, writer, progress)
        error = reading.run(connector, {"streams": [entry for entry, _ in chosen.values()]}, states)
        return SyncReport(source.name, reading.reports(), error, time.monotonic() - began)


def _configured(stream: Stream, catalog: Mapping[str, Message]) -> tuple[Message, str | None]:
    """The stream as the protocol's configured catalog has it, and what its owner may not expect of it."""
    entry = catalog.get(stream.name)
    if entry is None:
        raise ConfigError(
            f"{stream.path}: the source has no stream {stream.name}",
            hint=f"it has: {', '.join(sorted(catalog)) or 'none'}; some need more permissions of the account",
        )
    config, note = stream.config, None
    mode = config.sync_mode
    if mode not in (entry.get("supported_sync_modes") or ["full_refresh"]):
        note = f"the source cannot read it {mode}: all of it is read and landed each time"
        mode = "full_refresh"
    cursor = config.cursor_field or entry.get("default_cursor_field") or []
    if mode == "incremental" and not cursor and not entry.get("source_defined_cursor"):
        raise ConfigError(
            f'{stream.path}: "cursor_field" is not set, and the source defines none',
            hint='name the column that grows with every change: "cursor_field": ["updated_at"]',
        )
    schema = dict(entry["json_schema"])
    properties = schema.get("properties", {})
    if config.fields is not None:
        if missing := [name for name in config.fields if name not in properties]:
            raise ConfigError(
                f'{stream.path}: "fields" has {", ".join(missing)}, which the source does not',
                hint=f"it has: {', '.join(properties)}",
            )
        schema["properties"] = {name: properties[name] for name in config.fields}
    return {
        "stream": entry | {"json_schema": schema},
        "sync_mode": mode,
        "destination_sync_mode": "append",
        "cursor_field": cursor,
        "primary_key": config.primary_key or entry.get("source_defined_primary_key") or [],
    }, note


def _is_overwritten(stream: Stream) -> bool:
    """Each sync is a generation of its own."""
    return stream.config.destination_sync_mode == "overwrite"


class _Writer:
    """From spools to landed files, checkpoint by checkpoint."""

    def __init__(
        self,
        source: Source,
        started: datetime,
        folder: Path,
        *,
        parquet: Lake,
        lake: Lake,
        landing: Landing,
        say: Say,
    ) -> None:
        """parquet: a DuckDB to write it with."""
        self._sync_id = int(started.timestamp() * 1_000_000)
        self._partition = partition_folder(started.date())
        self._staging = f"staging/{source.name}/"
        self._folder = folder
        self._parquet = parquet
        self._landing = landing
        self._say = say
        self._generations: Mapping[str | None, int] = {}
        self._log = SyncLog(lake, source.name, self._sync_id)

    def begin(self, refreshed: Sequence[str | None]) -> dict[str | None, Message]:
        """Land what a killed sync had no time for; the states it left."""
        begun = self._log.begin(refreshed)
        self._generations = begun.generations
        self._publish(begun.leftovers)
        self._landing.discard_staged(self._staging)
        return begun.states

    def stage(self, run: _Stream) -> None:
        """The spool becomes a staged file."""
        if not run.spool.rows:
            return
        run.nulled += run.spool.nulled
        run.numbered += 1
        local = self._folder / f"{run.stream.name}.parquet"
        name = f"part_{run.numbered}_{self._sync_id}.parquet"
        rows = run.spool.write(self._parquet, local, sync_id=self._sync_id, generation=self._generation(run))
        size = local.stat().st_size
        staged = f"{self._staging}{self._sync_id}/{run.stream.name}/{name}"
        self._landing.stage(local, staged)
        run.parts.append(StagedFile(staged, f"{run.stream.root}{self._partition}{name}", rows, size))

    def checkpoint(self, runs: Sequence[_Stream], overall: Message | None = None) -> None:
        """All that the streams hold lands, and the states that speak of it count from now on."""
        for run in runs:
            self.stage(run)
        parts = [
            Part(run.stream.name, run.state, tuple(run.parts), run.nulled)
            for run in runs
            if run.parts or run.state
        ]
        if overall is not None:
            parts.append(Part(None, overall))
        if not parts:
            return
        self._log.checkpoint(parts)
        self._publish([file for part in parts for file in part.files])
        for run in runs:
            run.landed += sum(file.rows for file in run.parts)
            run.files += len(run.parts)
            run.bytes += sum(file.size for file in run.parts)
            if run.parts:
                self._say(f"{run.stream.id}  {run.landed:,} records landed in {run.files:,} files")
            run.parts, run.state, run.saved = [], None, time.monotonic()

    def finish(self, run: _Stream) -> None:
        self._log.finish(
            run.stream.name,
            records=run.landed,
            sent=run.sent if run.says_sent else None,
            error=run.error,
            generation=self._generation(run),
        )

    def _generation(self, run: _Stream) -> int:
        return self._generations.get(run.stream.name, 0)

    def _publish(self, files: Sequence[StagedFile]) -> None:
        for file in files:
            self._landing.publish(file.staged, file.path)
        self._log.published()


class _Reading:
    """What the connector says, as it says it."""

    def __init__(self, runs: dict[str, _Stream], writer: _Writer, progress: Say) -> None:
        self._runs = runs
        self._writer = writer
        self._progress = progress
        self._overall: Message | None = None  # the state of all streams, where it is one
        self._is_global = False
        self._strangers: dict[str, int] = {}
        self._shown = 0.0

    def run(self, connector: Connector, catalog: Message, states: Mapping[str | None, Message]) -> str | None:
        """Until the connector ends or fails; why the source failed as a whole, if it did."""
        wanted = [
            state
            for name, state in states.items()
            if name is None or (name in self._runs and self._runs[name].mode == "incremental")
        ]
        error: str | None = None
        try:
            with closing(connector.read(catalog, wanted)) as messages:
                for line, message, clean in messages:
                    self._hear(line, message, is_clean=clean)
        except ConnectorError as failure:
            error = str(failure)
        except OSError as failure:
            raise LakewardError(f"cannot keep what the connector sends: {failure}") from failure
        except (KeyboardInterrupt, SystemExit):
            self._save("interrupted")
            raise
        self._save(error)
        if self._strangers:
            told = ", ".join(f"{count:,} of {name}" for name, count in self._strangers.items())
            return f"the connector sent records of streams it was not asked for: {told}; they were dropped"
        return error if not any(run.error for run in self._runs.values()) else None

    def reports(self) -> list[StreamReport]:
        return [
            StreamReport(
                run.stream.id, run.mode, run.landed, run.sent if run.says_sent else None, run.files,
                run.bytes, run.nulled, run.error, run.note,
            )
            for run in self._runs.values()
        ]  # fmt: skip

    def _hear(self, line: bytes, message: Message, *, is_clean: bool) -> None:
        if message["type"] == "RECORD":
            record = message["record"]
            run = self._runs.get(record["stream"])
            if run is None:
                self._strangers[record["stream"]] = self._strangers.get(record["stream"], 0) + 1
                return
            run.spool.add(line, record, is_clean=is_clean)
            run.records += 1
            if run.spool.size >= _ROLL_BYTES:
                self._writer.stage(run)
                self._forget(run)  # the file holds more than the last state speaks of
            if run.records % 500 == 0:
                self._show()
        elif message["type"] == "STATE":
            self._remember(message["state"])
        else:
            self._trace(message["trace"])

    def _remember(self, state: Message) -> None:
        """A state speaks of all records before it: of its stream, or of all streams."""
        descriptor = (state.get("stream") or {}).get("stream_descriptor") or {}
        name = descriptor.get("name")
        if name is None:
            self._overall, self._is_global = state, True
            runs = list(self._runs.values())
        elif name in self._runs:
            runs = [self._runs[name]]
            count = (state.get("sourceStats") or {}).get("recordCount")
            if count is not None:
                runs[0].sent, runs[0].says_sent = runs[0].sent + int(count), True
        else:
            self._strangers.setdefault(name, 0)
            return
        runs = [run for run in runs if run.mode == "incremental"]
        for run in runs:
            run.spool.cover()
            run.state = state if name is not None else None
        if any(
            run.parts
            or run.spool.size >= _ROLL_BYTES / 2
            or time.monotonic() - run.saved >= _CHECKPOINT_SECONDS
            for run in runs
        ):
            self._checkpoint(runs)

    def _forget(self, run: _Stream) -> None:
        run.state = None
        if self._overall is not None:
            self._overall = None
            for other in self._runs.values():
                other.spool.uncover()

    def _trace(self, trace: Message) -> None:
        kind = str(trace.get("type", ""))
        inner = trace.get(kind.lower()) or {}
        name = (inner.get("stream_descriptor") or {}).get("name") or inner.get("name")
        run = self._runs.get(name) if name else None
        if run is None:
            return
        if kind == "STREAM_STATUS" and inner.get("status") == "COMPLETE":
            run.is_complete = True
            if not self._is_global:
                self._close(run)
                self._checkpoint([run])
        elif kind == "ERROR":
            run.error = str(inner.get("message") or inner.get("internal_message") or "failed")
        elif kind == "ESTIMATE" and inner.get("row_estimate") is not None:
            run.estimate = int(inner["row_estimate"])

    def _close(self, run: _Stream) -> None:
        """All of its records have come."""
        if run.mode == "incremental" and run.spool.uncovered and not self._is_global:
            run.note = (
                f"the connector told no state after its last {run.spool.uncovered:,} records: "
                "they have landed, and may land again with the next sync"
            )
        run.spool.cover()

    def _save(self, error: str | None) -> None:
        """The end: what is whole lands; of what is not, what a state speaks of."""
        runs = list(self._runs.values())
        failed = error is not None or any(run.error for run in runs)
        for run in runs:
            is_whole = not failed or (run.is_complete and run.error is None and not self._is_global)
            if is_whole:
                self._close(run)
                continue
            run.error = run.error or error
            run.spool.drop_uncovered()
            if run.state is None and self._overall is None:
                run.parts = []
        self._checkpoint(runs)
        for run in runs:
            run.spool.close()
            if run.error is None and run.says_sent and run.sent != run.landed:
                run.error = f"the connector says it sent {run.sent:,} records; {run.landed:,} have landed"
            self._writer.finish(run)

    def _checkpoint(self, runs: Sequence[_Stream]) -> None:
        overall, self._overall = self._overall, None
        self._writer.checkpoint(runs, overall)

    def _show(self) -> None:
        if time.monotonic() - self._shown >= 0.5:
            self._shown = time.monotonic()
            told = (
                f"{run.stream.id} {run.records:,}" + (f" of {run.estimate:,}" if run.estimate else "")
                for run in self._runs.values()
                if run.records and not run.is_complete
            )
            self._progress(", ".join(told))


@contextmanager
def _alone(source: Source, settings: Settings) -> Iterator[Path]:
    """A folder for the sync's own files, empty; one sync of a source at a time on this machine."""
    home = settings.state_dir / "sync"
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{source.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{source.name} is being synced by another process of this machine", hint="let it end"
            ) from None
        folder = home / source.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
