"""A sync without an Airbyte server: a connector is read, and its records land as Airbyte would land them.

extract.py has the way from its words to landed files.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.connector import Connector, install
from lakeward.errors import ConfigError, ConnectorError, LakewardError
from lakeward.extract import Extraction, Reader, Say, Writer
from lakeward.lake import open_writer
from lakeward.masking import Mask
from lakeward.partitions import partition_folder
from lakeward.protocol import Message
from lakeward.settings import inherited
from lakeward.shapes import column_names, shape
from lakeward.sources import find_source, load_sources, no_sources, selected
from lakeward.spool import Spool
from lakeward.streams import HowToRead, Stream, find_stream, how_to_read, no_such_stream
from lakeward.synclog import SyncLog

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.settings import Settings
    from lakeward.sources import Source


@dataclass(frozen=True)
class StreamReport:
    """What one sync did for one stream. mode: None where it was not read.

    sent: what the connector says it sent, where it says so.
    nulled: values that did not fit their type. note: what a reader should know though nothing failed.
    """

    stream: str
    mode: str | None
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


@dataclass(frozen=True)
class Job:
    """is_whole: are these all of the source's streams that are selected?"""

    source: Source
    streams: list[Stream]
    is_whole: bool


@dataclass(frozen=True)
class Chosen:
    """errors: of what cannot be read, by name."""

    jobs: list[Job]
    errors: dict[str, str]


def choose(
    project_dir: Path,
    streams: Sequence[Stream],
    broken_files: Mapping[Path, ConfigError],
    names: Sequence[str] | None = None,
) -> Chosen:
    """The named sources or `SOURCE/STREAM`s; by default every source, with its selected streams.

    Raises ConfigError for a name that stands for nothing, and when there is nothing at all.
    """
    sources, broken = load_sources(project_dir)
    if not sources and not broken:
        raise no_sources(project_dir)
    if not names:
        jobs = [Job(source, selected(streams, source), is_whole=True) for source in sources]
        errors = {path.stem: str(error) for path, error in broken.items()}
        errors |= {job.source.name: _without_streams(job.source) for job in jobs if not job.streams}
    else:
        jobs, errors = _named(project_dir, streams, names), {}
    read = {job.source.name for job in jobs} if not names else set(names)
    errors |= {
        f"{path.parent.name}/{path.stem}": str(error)
        for path, error in broken_files.items()
        if path.parent.name in read
    }
    return Chosen([job for job in jobs if job.streams], errors)


def _named(project_dir: Path, streams: Sequence[Stream], names: Sequence[str]) -> list[Job]:
    chosen: dict[str, tuple[Source, dict[str, Stream]]] = {}
    for name in names:
        source = find_source(project_dir, name.partition("/")[0])
        found = chosen.setdefault(source.name, (source, {}))[1]
        one = [find_stream(project_dir, list(streams), name)] if "/" in name else selected(streams, source)
        found |= {stream.id: stream for stream in one}
        if not found:
            raise ConfigError(_without_streams(source))
    return [
        Job(source, list(found.values()), {each.id for each in selected(streams, source)} <= set(found))
        for source, found in chosen.values()
    ]


def _without_streams(source: Source) -> str:
    return f"{source.path}: no stream of it is selected: add dag/streams/{source.name}/*.json"


def open_connector(source: Source, settings: Settings, folder: Path, say: Say) -> Connector:
    """The source's connector, installed and its configuration accepted by its own spec.

    folder: where it is handed its configuration, secrets and all. say: what the connector itself says.
    Raises ConfigError or ConnectorError. Costs a start of the program, the first time.
    """
    environment = inherited()
    config, secrets = source.resolved(environment)
    named = source.config.connector
    is_own = named.startswith(("./", "/"))
    if is_own:
        program = (settings.root / named).resolve()
    else:
        program = install(named, source.config.python, settings.state_dir / "connectors", environment)
    connector = Connector(
        program,
        config,
        folder=folder,
        environment=environment,
        mask=Mask(secrets),
        silence_seconds=settings.sync_silence_minutes * 60,
        say=say,
    )
    source.check(_spec(connector, None if is_own else program), environment)
    return connector


def _spec(connector: Connector, installed: Path | None) -> Message:
    """Of an installed program it is kept beside it: another version is another folder."""
    kept = None if installed is None else installed.with_suffix(".spec.json")
    if kept is None or not kept.exists():
        found = connector.spec()
        if kept is not None:
            unfinished = kept.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(found))
            unfinished.replace(kept)
        return found
    return dict(json.loads(kept.read_text()))


def sync(
    job: Job,
    *,
    settings: Settings,
    lake: Lake,
    landing: Landing,
    note: Say,
    say: Say,
    progress: Say,
    refresh: bool = False,
) -> SyncReport:
    """Read a source's streams from where their last checkpoints are, and land what is new.

    refresh: from the start instead, as the next generation. note: what the connector says. say: what has
    landed, a line each. progress: what is being read, some times a second.
    What a stream has landed before it failed stays landed, and its next sync goes on from there. Raises what
    kept the source from being read, WriterConflict when another sync of it took over; `status` shows it.
    """
    started, began = datetime.now(UTC), time.monotonic()
    log = SyncLog(lake, job.source.name, int(started.timestamp() * 1_000_000))
    with alone(job.source, settings) as folder:
        try:
            extractions, rejected, error = _extract(
                job, started, log, folder, settings, landing, note, say, progress, refresh=refresh
            )
        except LakewardError as failure:
            with suppress(LakewardError):  # the lake may be what is away
                for stream in job.streams:
                    log.fail(stream.name, str(failure))
            raise
        for one in extractions:
            log.finish(one.stream.name, one.landed, one.sent, one.generation, one.error)
        for stream, why in rejected:
            log.fail(stream.name, why)
    reports = [
        StreamReport(
            one.stream.id, one.mode, one.landed, one.sent, one.files, one.bytes,
            one.nulled, one.error, one.note,
        )
        for one in extractions
    ]  # fmt: skip
    reports += [StreamReport(stream.id, None, 0, None, 0, 0, 0, why, None) for stream, why in rejected]
    return SyncReport(job.source.name, reports, error, time.monotonic() - began)


def _extract(
    job: Job,
    started: datetime,
    log: SyncLog,
    folder: Path,
    settings: Settings,
    landing: Landing,
    note: Say,
    say: Say,
    progress: Say,
    *,
    refresh: bool,
) -> tuple[list[Extraction], list[tuple[Stream, str]], str | None]:
    """The streams that were read, why others were not, and why the source failed as a whole, if it did."""
    connector = open_connector(job.source, settings, folder, note)
    catalog = connector.discover()
    configured: list[tuple[Stream, Message, HowToRead]] = []
    rejected: list[tuple[Stream, str]] = []
    for stream in job.streams:
        try:
            configured.append((stream, *_configured(stream, catalog)))
        except ConfigError as wrong:
            if len(job.streams) == 1:
                raise
            rejected.append((stream, str(wrong)))
    refreshed = [stream.name for stream, *_ in configured if refresh or _is_overwritten(stream)]
    begun = log.begin([stream.name for stream, *_ in configured], refreshed, anew=refresh and job.is_whole)
    staging = f"staging/{job.source.name}/"
    with open_writer(settings) as parquet, ExitStack() as spools:
        partition = partition_folder(started.date())
        writer = Writer(log, staging, partition, folder, parquet, landing, say)
        writer.publish(begun.leftovers)
        landing.discard_staged(staging)
        extractions = {
            stream.name: Extraction(
                stream, how.mode, how.note,
                spools.enter_context(
                    closing(Spool(folder / f"{stream.name}.ndjson", shape(entry["stream"]["json_schema"])))
                ),
                begun.generations.get(stream.name, 0),
                begun.states.get(stream.name),
            )
            for stream, entry, how in configured
        }  # fmt: skip
        states = [
            state
            for name, state in begun.states.items()
            if name is None or (name in extractions and extractions[name].is_incremental)
        ]
        reader = Reader(extractions, writer, progress, was_global=None in begun.states)
        wanted = {"streams": [entry for _, entry, _ in configured]}
        error = reader.run(connector, wanted, states) if configured else None
    return list(extractions.values()), rejected, error


def _configured(stream: Stream, catalog: Sequence[Message]) -> tuple[Message, HowToRead]:
    """The stream as the protocol's configured catalog has it. Raises ConfigError for what cannot be read."""
    found = [entry for entry in catalog if entry["name"] == stream.name]
    if not found:
        raise no_such_stream(stream, [entry["name"] for entry in catalog])
    if len(found) > 1:
        raise ConfigError(
            f"{stream.path}: the source has {len(found)} streams called {stream.name}, of several namespaces",
            hint="narrow the source's configuration to one of them",
        )
    (entry,) = found
    try:
        shape(entry["json_schema"])
    except ConnectorError as error:
        raise ConfigError(
            f"{stream.path}: {error}", hint="the connector is broken: try another version"
        ) from None
    schema = dict(entry["json_schema"])
    properties = schema.get("properties") or {}
    default = entry.get("default_cursor_field") or []
    columns = column_names(properties)
    how = how_to_read(
        stream,
        modes=entry.get("supported_sync_modes") or ["full_refresh"],
        cursor=default,
        cursor_is_fixed=bool(entry.get("source_defined_cursor")),
        columns=columns,
    )
    if stream.config.fields is not None:
        schema["properties"] = {columns[name]: properties[columns[name]] for name in stream.config.fields}
    return {
        "stream": entry | {"json_schema": schema},
        "sync_mode": how.mode,
        "destination_sync_mode": "append",
        "cursor_field": how.cursor or default,
        "primary_key": stream.config.primary_key or entry.get("source_defined_primary_key") or [],
    }, how


def _is_overwritten(stream: Stream) -> bool:
    """Each sync is a generation of its own."""
    return stream.config.destination_sync_mode == "overwrite"


@contextmanager
def alone(source: Source, settings: Settings) -> Iterator[Path]:
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
