"""What the repository wants of an Airbyte server: a source and a connection per source file, a destination.

The destination writes hive-style folders, and a sync's number into every file name: names cannot collide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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

    type: as Airbyte calls the connector; definition: its id, where given. secrets: words of the configuration
    that nobody may see.
    """

    kind: str  # source | destination
    name: str
    type: str | None
    definition: str | None
    configuration: Json
    secrets: Sequence[str]


@dataclass(frozen=True)
class WantedConnection:
    name: str
    source: str
    streams: Sequence[Stream]
    schedule: Json
    namespace: str


@dataclass(frozen=True)
class Wanted:
    """names: of all connections that the repository has a file for, also where the file is wrong."""

    actors: list[WantedActor]
    connections: list[WantedConnection]
    names: set[str]
    problems: list[str]


def connection_name(source: str) -> str:
    return f"{source} to {DESTINATION}"


def wanted(
    jobs: Sequence[tuple[Source, Sequence[Stream]]], settings: Settings, environment: Mapping[str, str]
) -> Wanted:
    """A source whose file says what no server can do is left out, and told.

    Raises ConfigError for a setting that does.
    """
    s3 = settings.s3
    secrets = [s3.secret_access_key.get_secret_value()] if s3.secret_access_key else []
    made = Wanted(
        [WantedActor("destination", DESTINATION, "s3", None, _s3(settings), secrets)], [], set(), []
    )
    for source, streams in jobs:
        name = connection_name(source.name)
        made.names.add(name)
        try:
            configuration, secrets = source.resolved(environment)
            schedule = _schedule(source)
        except ConfigError as error:
            made.problems.append(str(error))
            continue
        kind, definition = source.airbyte_type, source.config.definition_id
        made.actors.append(WantedActor("source", source.name, kind, definition, configuration, secrets))
        made.connections.append(WantedConnection(name, source.name, streams, schedule, source.name))
    return made


def _schedule(source: Source) -> Json:
    """Five fields, as cron has them, become the six of Quartz: seconds first, `?` for the day not meant."""
    if source.config.schedule is None:
        return {"scheduleType": "manual"}
    minute, hour, day, month, weekday = source.config.schedule.split()
    if not minute.isdigit():
        raise ConfigError(
            f'{source.path}: "schedule" is {source.config.schedule!r}: Airbyte syncs once an hour at most',
            hint="give one minute, as in `15 * * * *`; for more, leave it out and have a scheduler run "
            f"lakeward airbyte sync {source.name}",
        )
    if "/" in weekday:
        raise ConfigError(
            f'{source.path}: "schedule" has a step in the day of the week: Airbyte counts days otherwise',
            hint="list the days, as in 1,3,5",
        )
    if day != "*" and weekday != "*":
        raise ConfigError(
            f'{source.path}: "schedule" names a day of the month and one of the week: Airbyte takes one',
            hint="write * for the other",
        )
    quartz = ["0", minute, hour, "?" if weekday != "*" else day, month, _quartz_weekday(weekday)]
    return {"scheduleType": "cron", "cronExpression": " ".join(quartz)}


def _quartz_weekday(weekday: str) -> str:
    """Cron counts Sunday as 0 or 7, Quartz as 1."""
    if weekday == "*":
        return "?"
    return "".join(str(int(letter) % 7 + 1) if letter.isdigit() else letter for letter in weekday)


def _s3(settings: Settings) -> Json:
    address = urlsplit(settings.landing_url)
    if address.scheme != "s3":
        raise ConfigError(
            f"landing_url is {settings.landing_url}: an Airbyte server lands in a bucket only",
            hint="set landing_url to s3://bucket/prefix; without a server, lakeward sync lands in a folder",
        )
    s3 = settings.s3
    prefix = address.path.strip("/")
    found: Json = {
        "s3_bucket_name": address.netloc,
        "s3_bucket_path": f"{prefix}/raw" if prefix else "raw",
        "s3_bucket_region": s3.region,
        "s3_path_format": "${NAMESPACE}/${STREAM_NAME}/year=${YEAR}/month=${MONTH}/day=${DAY}/",
        "file_name_pattern": "{sync_id}_{timestamp:millis}_part_{part_number}{format_extension}",
        "format": {"format_type": "Parquet", "compression_codec": "ZSTD"},
    }
    if s3.endpoint_url:
        found["s3_endpoint"] = s3.endpoint_url
    if s3.access_key_id and s3.secret_access_key:
        found["access_key_id"] = s3.access_key_id
        found["secret_access_key"] = s3.secret_access_key.get_secret_value()
    return found
