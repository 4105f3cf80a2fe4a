"""Which streams a lake has, and what `dag/streams/{source}/{stream}.json` may say about one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from lakeward.errors import ConfigError
from lakeward.partitions import stream_root
from lakeward.settings import unknown_key, validation_error
from lakeward.sql import quote_identifier

# Airbyte's type words and the DuckDB types of the Parquet its S3 destination writes for them
# (airbytehq/airbyte, AirbyteTypeToAvroSchema.kt; docs/integrations/destinations/s3-migrations.md).
_TYPES = {
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "date": "DATE",
    "time_with_timezone": "TIME",
    "time_without_timezone": "TIME",
    "timestamp_with_timezone": "TIMESTAMP WITH TIME ZONE",
    "timestamp_without_timezone": "TIMESTAMP WITH TIME ZONE",
    "object": "VARCHAR",  # without declared properties: JSON text
    "array": "VARCHAR",  # without declared items: JSON text
}

# The columns Airbyte writes before the stream's own.
META_COLUMNS = {
    "_airbyte_raw_id": "VARCHAR",
    "_airbyte_extracted_at": "TIMESTAMP WITH TIME ZONE",
    "_airbyte_meta": "STRUCT(sync_id BIGINT, "
    'changes STRUCT("field" VARCHAR, "change" VARCHAR, reason VARCHAR)[])',
    "_airbyte_generation_id": "BIGINT",
}

NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")


def _duration(value: object) -> object:
    """`15m`, `24h`, `2d`: the way Snowflake's TARGET_LAG and cron users write one."""
    found = re.fullmatch(r"\s*(\d{1,9})\s*(s|m|h|d)\s*", value, re.ASCII) if isinstance(value, str) else None
    if found is None and value is not None:
        raise ValueError("write a duration as in 30m, 24h or 2d")
    if found is None:
        return None
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
    return timedelta(**{unit: int(found[1])})


class StreamConfig(BaseModel):
    """One stream. Every key has a default: `{}` is complete."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sync_mode: Literal["incremental", "full_refresh"] = Field(
        default="incremental", description="How Airbyte reads the source."
    )
    destination_sync_mode: Literal["append", "overwrite"] = Field(
        default="append", description="What Airbyte does with files it wrote before; S3 knows no others."
    )
    cursor_field: list[str] | None = Field(
        default=None, description="Airbyte's cursor, where the source does not define one."
    )
    primary_key: list[list[str]] | None = Field(
        default=None,
        description='Airbyte\'s key, where the source does not define one: `[["id"]]`.',
    )
    on_refresh: Literal["keep", "replace"] = Field(
        default="keep",
        description="What becomes of older rows once the stream was read anew from the start (a refresh in "
        "Airbyte, or `lakeward sync --refresh`): they stay, or those go that were not read again.",
    )
    selected: bool = Field(
        default=True, description="`false`: Airbyte does not sync the stream; what has landed is still fed."
    )
    fields: dict[str, JsonValue] | None = Field(
        default=None,
        description="Columns and their Airbyte types (" + ", ".join(f"`{word}`" for word in _TYPES) + "); "
        "an object with known properties is a nested `{}`, a list of something `[type]`. "
        "A stream whose fields are known is an empty table before anything has landed.",
    )
    lookback_days: int | None = Field(
        default=None,
        ge=0,
        le=36_500,
        description="Overrides `lookback_days` of lakeward.toml for this stream.",
    )
    batch_max_bytes: int | None = Field(
        default=None, gt=0, description="Overrides `batch_max_bytes` of lakeward.toml for this stream."
    )
    target_lag: Annotated[timedelta | None, BeforeValidator(_duration)] = Field(
        default=None,
        description="How old the newest applied record may be (`30m`, `24h`, `2d`) before `status` exits 1.",
    )


@dataclass(frozen=True)
class Stream:
    source: str
    name: str
    path: Path
    config: StreamConfig

    @property
    def id(self) -> str:
        """`shopify/orders`: how the CLI names a stream."""
        return f"{self.source}/{self.name}"

    @property
    def tag(self) -> str:
        """`shopify__orders`: how dbt selects its models."""
        return f"{self.source}__{self.name}"

    @property
    def root(self) -> str:
        return stream_root(self.source, self.name)

    @property
    def columns(self) -> dict[str, str] | None:
        """Landed columns and their DuckDB types as far as `fields` tells them."""
        if self.config.fields is None:
            return None
        where = f'{self.path}: "fields"'
        return META_COLUMNS | {
            _column(name, where=where): _duckdb_type(kind, where=f"{where}.{name}")
            for name, kind in self.config.fields.items()
        }


@dataclass(frozen=True)
class HowToRead:
    """mode: incremental or full_refresh. cursor: None where the source's own is used.

    note: what the stream's owner may not expect of it.
    """

    mode: str
    cursor: list[str] | None
    note: str | None


def how_to_read(
    stream: Stream,
    *,
    modes: Sequence[str],
    cursor: list[str],
    cursor_is_fixed: bool,
    columns: Mapping[str, str],
) -> HowToRead:
    """What the stream's file asks for, as far as the source can do it.

    modes, cursor, columns: what the source offers; columns by name, each with the key it comes from.
    cursor_is_fixed: it insists on its own. Raises ConfigError for a cursor that nobody names, and for fields
    that the source does not have.
    """
    config, mode, note = stream.config, stream.config.sync_mode, None
    if mode not in modes:
        note = f"the source cannot read it {mode.replace('_', ' ')}: all of it is read and landed each time"
        mode = "full_refresh"
    if config.destination_sync_mode == "overwrite" and config.on_refresh == "keep":
        note = 'what was landed before stays: "on_refresh": "replace" takes its rows out'
    used = None if cursor_is_fixed else config.cursor_field or cursor
    if mode == "incremental" and used == []:
        raise ConfigError(
            f'{stream.path}: "cursor_field" is not set, and the source defines none',
            hint='name the column that grows with every change: "cursor_field": ["updated_at"]',
        )
    needed = (used or cursor)[:1] if mode == "incremental" else []
    missing = [name for name in config.fields or {} if name not in columns]
    if missing:
        raise ConfigError(
            f'{stream.path}: "fields" has {", ".join(missing)}, which the source does not',
            hint=f"it has: {', '.join(sorted(columns))}",
        )
    if config.fields is not None and not set(needed) <= {columns[name] for name in config.fields}:
        raise ConfigError(
            f'{stream.path}: "fields" leaves out {needed[0]}, the cursor', hint=f'add "{needed[0]}" to them'
        )
    return HowToRead(mode, used, note)


def no_such_stream(stream: Stream, offered: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"{stream.path}: the source has no stream {stream.name}",
        hint=f"it has: {', '.join(sorted(offered)) or 'none'}; some need more permissions of the account",
    )


def load_streams(project_dir: Path) -> tuple[list[Stream], dict[Path, ConfigError]]:
    """Every stream, in path order, and what is wrong with the files that name none."""
    streams, errors = [], {}
    for path in stream_files(project_dir):
        try:
            streams.append(load_stream(path))
        except ConfigError as error:
            errors[path] = error
    return streams, errors


def stream_files(project_dir: Path) -> list[Path]:
    return sorted((project_dir / "dag" / "streams").glob("*/*.json"))


def stream_of_tag(project_dir: Path, tag: str) -> Stream:
    """The stream that `shopify__orders` names. Raises ConfigError when it has no (usable) file."""
    source, _, name = tag.partition("__")
    path = project_dir / "dag" / "streams" / source / f"{name}.json"
    if not (NAME.fullmatch(source) and NAME.fullmatch(name) and path.is_file()):
        raise ConfigError(
            f"the tag {tag} names no stream: no {path}", hint="create it with {}, or mend the tag"
        )
    return load_stream(path)


def load_stream(path: Path) -> Stream:
    """Raises ConfigError naming the file, the key and the remedy."""
    source, name = path.parent.name, path.stem
    for part in (source, name):
        if not NAME.fullmatch(part):
            raise ConfigError(
                f'{path}: "{part}" cannot name a source or stream',
                hint="use lower-case letters, digits and single underscores, as in shopify/order_refunds",
            )
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}", hint="`{}` is a complete stream file") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a JSON object", hint="`{}` is a complete stream file")
    known = list(StreamConfig.model_fields)
    for key in values:
        if key not in known:
            raise unknown_key(key, known, where=str(path))
    try:
        config = StreamConfig(**values)
    except ValidationError as error:
        raise validation_error(error, where=str(path)) from error
    if (config.sync_mode, config.destination_sync_mode) == ("incremental", "overwrite"):
        raise ConfigError(
            f'{path}: "destination_sync_mode" is overwrite, which only a full refresh can be',
            hint='set "sync_mode": "full_refresh" as well',
        )
    stream = Stream(source, name, path, config)
    stream.columns  # noqa: B018 - a wrong type word is an error of the file, so it is raised here
    return stream


def find_stream(project_dir: Path, streams: list[Stream], wanted: str) -> Stream:
    """`shopify/orders` among the streams; ConfigError lists the known ones, or says what is wrong with it."""
    for stream in streams:
        if stream.id == wanted:
            return stream
    path = project_dir / "dag" / "streams" / f"{wanted}.json"
    if path in stream_files(project_dir):
        return load_stream(path)
    raise ConfigError(
        f'no stream "{wanted}"',
        hint=f"known streams: {', '.join(stream.id for stream in streams) or 'none'}",
    )


def _column(name: str, *, where: str) -> str:
    if not name or "\0" in name or not name.isprintable():
        raise ConfigError(f"{where}: {name!r} cannot name a column", hint="call it as the landed file does")
    return name


def _duckdb_type(kind: JsonValue, *, where: str) -> str:
    if isinstance(kind, dict):
        if not kind:
            raise ConfigError(
                f"{where}: an object without properties", hint='write "object": it is JSON text'
            )
        inside = (
            f"{quote_identifier(_column(k, where=where))} {_duckdb_type(v, where=f'{where}.{k}')}"
            for k, v in kind.items()
        )
        return f"STRUCT({', '.join(inside)})"
    if isinstance(kind, list):
        if len(kind) != 1:
            raise ConfigError(f"{where}: a list names one item type", hint='as in ["string"]')
        return _duckdb_type(kind[0], where=where) + "[]"
    if not isinstance(kind, str) or kind not in _TYPES:
        raise unknown_key(str(kind), list(_TYPES), where=where, kind="type")
    return _TYPES[kind]
