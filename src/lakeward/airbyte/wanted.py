"""What the repository wants of an Airbyte server: a source and a connection per source file, a destination.

The destination writes hive-style folders, and a sync's number into every file name: names cannot collide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lakeward.credentials import access
from lakeward.cron import as_quartz
from lakeward.errors import ConfigError

if TYPE_CHECKING:
    from lakeward.settings import Settings
    from lakeward.sources import Source
    from lakeward.streams import Stream

Json = dict[str, Any]

DESTINATION = "lakeward"


@dataclass(frozen=True)
class WantedActor:
    """A source or the destination.

    type: as Airbyte calls the connector; definition: its id, where given. written: the configuration as the
    file has it, with the names of secrets in it.
    """

    kind: str  # source | destination
    name: str
    type: str | None
    definition: str | None
    configuration: Json
    written: Json


@dataclass(frozen=True)
class WantedConnection:
    """broken: streams whose files cannot be read, so that nobody knows what they are to be."""

    name: str
    source: str
    streams: Sequence[Stream]
    schedule: Json
    broken: frozenset[str]


@dataclass(frozen=True)
class Wanted:
    """names: of all connections that the repository has a file for, also where the file is wrong."""

    actors: list[WantedActor]
    connections: list[WantedConnection]
    names: set[str]
    problems: list[str]
    secrets: list[str]


def connection_name(source: str) -> str:
    return f"{source} to {DESTINATION}"


def wanted(
    jobs: Sequence[tuple[Source, Sequence[Stream]]],
    broken_files: Mapping[Path, ConfigError],
    settings: Settings,
    environment: Mapping[str, str],
) -> Wanted:
    """A source whose file says what no server can do is left out, and told.

    broken_files: of sources and of streams. Raises ConfigError for a setting that no server can do.
    """
    s3, shown = _s3(settings)
    made = Wanted([WantedActor("destination", DESTINATION, "s3", None, s3, shown)], [], set(), [], [])
    for secret in (settings.s3.secret_access_key, settings.airbyte_s3_secret_access_key):
        if secret is not None:
            made.secrets.append(secret.get_secret_value())
    for path, error in broken_files.items():
        made.problems.append(str(error))
        if path.parent.name == "sources":
            made.names.add(connection_name(path.stem))
    for source, streams in jobs:
        name = connection_name(source.name)
        made.names.add(name)
        try:
            configuration, secrets = source.resolved(environment)
            schedule = _schedule(source)
        except ConfigError as error:
            made.problems.append(str(error))
            continue
        made.secrets.extend(secrets)
        kind, definition = source.airbyte_type, source.config.definition_id
        written = dict(source.config.config)
        made.actors.append(WantedActor("source", source.name, kind, definition, configuration, written))
        broken = frozenset(path.stem for path in broken_files if path.parent.name == source.name)
        made.connections.append(WantedConnection(name, source.name, streams, schedule, broken))
    return made


def _schedule(source: Source) -> Json:
    if source.config.schedule is None:
        return {"scheduleType": "manual"}
    try:
        return {"scheduleType": "cron", "cronExpression": as_quartz(source.config.schedule)}
    except ValueError as error:
        raise ConfigError(
            f'{source.path}: "schedule" is {source.config.schedule!r}: {error}',
            hint=f"or leave it out, and have a scheduler run lakeward airbyte sync {source.name}",
        ) from error


def _s3(settings: Settings) -> tuple[Json, Json]:
    """The destination's configuration, and the same with the names of its secrets."""
    address = urlsplit(settings.landing_url)
    if address.scheme != "s3":
        raise ConfigError(
            f"landing_url is {settings.landing_url}: an Airbyte server lands in a bucket only",
            hint="set landing_url to s3://bucket/prefix; without a server, lakeward sync lands in a folder",
        )
    store = access(settings, settings.landing_url)
    folder = address.path.strip("/")
    found: Json = {
        "s3_bucket_name": address.netloc,
        "s3_bucket_path": f"{folder}/raw" if folder else "raw",
        "s3_bucket_region": store.region,
        "s3_path_format": "${NAMESPACE}/${STREAM_NAME}/year=${YEAR}/month=${MONTH}/day=${DAY}/",
        "file_name_pattern": "{sync_id}_{timestamp:millis}_part_{part_number}{format_extension}",
        "format": {"format_type": "Parquet", "compression_codec": "ZSTD"},
    }
    if store.endpoint_url:
        found["s3_endpoint"] = store.endpoint_url
    key, secret = settings.airbyte_s3_access_key_id, settings.airbyte_s3_secret_access_key
    prefix = "LAKEWARD_AIRBYTE_S3"
    if (key is None) != (secret is None):
        raise ConfigError(
            "of airbyte_s3_access_key_id and airbyte_s3_secret_access_key one alone is set",
            hint="set both, or neither: then the AWS_* variables are the destination's",
        )
    if key is None and secret is None:
        key, secret, prefix = settings.s3.access_key_id, settings.s3.secret_access_key, "AWS"
    if not key or secret is None:
        return found, found
    keys = {"access_key_id": key, "secret_access_key": secret.get_secret_value()}
    return found | keys, found | {name: f"${{{prefix}_{name.upper()}}}" for name in keys}
