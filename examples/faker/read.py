"""Reads an Airbyte source from PyPI and lands its records: an imitation of Airbyte's S3 destination.

It speaks Airbyte's protocol to the connector's own program and writes the Parquet that the destination's
source code says it would write (airbytehq/airbyte, AirbyteTypeToAvroSchema.kt). Nobody has compared it with a
file of a real destination yet, and it refuses what it does not imitate (unions). `python read.py --help`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb  # noqa: TID251 - no part of lakeward

Message = dict[str, Any]
Schemas = dict[str, dict[str, Any]]  # JSON schema by stream

_WORDS = {"string": "VARCHAR", "boolean": "BOOLEAN", "integer": "BIGINT", "number": "DOUBLE"}
_FORMATS = {"date": "DATE", "date-time": "TIMESTAMPTZ", "time": "TIME"}


class ConnectorFailed(Exception):
    """The connector said so, or left with a bad exit code; its last words are the message."""


@dataclass
class Landed:
    files: list[Path] = field(default_factory=list)
    records: dict[str, int] = field(default_factory=dict)
    states: dict[str, Message] = field(default_factory=dict)  # where the next read continues, by stream


def discover(program: Path, config: dict[str, Any]) -> Message:
    """The CATALOG message: the source's streams and their JSON schemas."""
    with tempfile.TemporaryDirectory() as folder:
        messages = _run(program, "discover", "--config", _file(folder, "config", config))
        (catalog,) = [message for message in messages if message["type"] == "CATALOG"]
    return catalog


def read(
    program: Path, config: dict[str, Any], catalog: Message, states: dict[str, Message]
) -> Iterator[Message]:
    """The catalog, then every RECORD and STATE of one incremental read of all its streams, in order."""
    yield catalog
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", _file(folder, "config", config)]
        arguments += ["--catalog", _file(folder, "catalog", _configured(catalog))]
        if states:
            arguments += ["--state", _file(folder, "state", list(states.values()))]
        for message in _run(program, "read", *arguments):
            if message["type"] in ("RECORD", "STATE"):
                yield message


def land(
    messages: Iterable[Message], landing: Path, source: str, *, at: datetime, rows_per_file: int = 100_000
) -> Landed:
    """Write a read's records below `landing`; every file is complete before its states are returned.

    The partition is the day the read began, whatever the records say: Airbyte freezes it likewise.
    """
    done = Landed()
    schemas: Schemas = {}
    with tempfile.TemporaryDirectory() as folder:
        spools: dict[str, Path] = {}
        for message in messages:
            if message["type"] == "CATALOG":
                schemas = {each["name"]: each["json_schema"] for each in message["catalog"]["streams"]}
            elif message["type"] == "STATE":
                state = message["state"]
                done.states[state["stream"]["stream_descriptor"]["name"]] = state
            else:
                record = message["record"]
                stream = record["stream"]
                done.records[stream] = count = done.records.get(stream, 0) + 1
                spool = spools.setdefault(stream, Path(folder, f"{stream}.ndjson"))
                row = {"raw_id": str(uuid.uuid4()), "emitted": record["emitted_at"], "data": record["data"]}
                with spool.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                if count % rows_per_file == 0:
                    done.files.append(_write(spools.pop(stream), schemas[stream], landing, source, at))
        for stream, spool in spools.items():
            done.files.append(_write(spool, schemas[stream], landing, source, at))
    return done


def _write(spool: Path, schema: dict[str, Any], landing: Path, source: str, at: datetime) -> Path:
    """One landed file: Airbyte's four columns, then the declared ones; undeclared keys are dropped.

    A value that does not fit its type becomes NULL and is listed in `_airbyte_meta.changes`.
    """
    fields: dict[str, Any] = schema["properties"]
    changes = ", ".join(
        f"""case when json_type(data, {_text(f'$."{name}"')}) <> 'NULL' and typed.{_name(name)} is null then
            {{'field': {_text(name)}, 'change': 'NULLED', 'reason': 'DESTINATION_SERIALIZATION_ERROR'}} end"""
        for name in fields
    )
    structure = json.dumps({name: _type(kind, name) for name, kind in fields.items()})
    folder = landing / "raw" / source / spool.stem / f"year={at:%Y}" / f"month={at:%m}" / f"day={at:%d}"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{at:%Y%m%dT%H%M%S%f}_{len(list(folder.glob('*.parquet')))}.parquet"
    partial = folder / f".{name}.partial"
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")  # a time without a zone is UTC to Airbyte
        con.execute(
            f"""
            copy (
                select raw_id as _airbyte_raw_id,
                    make_timestamptz(emitted * 1000) as _airbyte_extracted_at,
                    {{'sync_id': {int(at.timestamp())}::bigint,
                      'changes': list_filter([{changes}], lambda change: change is not null)
                    }} as _airbyte_meta,
                    0::bigint as _airbyte_generation_id,
                    unnest(typed)
                from (
                    select *, json_transform(data, {_text(structure)}) as typed
                    from read_json(
                        {_text(str(spool))}, format='newline_delimited',
                        columns={{'raw_id': 'VARCHAR', 'emitted': 'BIGINT', 'data': 'JSON'}}
                    )
                )
            ) to {_text(str(partial))} (format parquet)"""
        )
    spool.unlink()
    return partial.rename(folder / name)


def _type(schema: dict[str, Any], name: str) -> Any:
    """The type Airbyte's S3 destination gives a field, in the words of DuckDB's `json_transform`."""
    declared = schema.get("type", [])
    words = {declared} if isinstance(declared, str) else {*declared}
    if len(words - {"null"}) != 1:
        raise NotImplementedError(f"{name}: a union ({schema}) is not imitated")
    (word,) = words - {"null"}
    if word == "object" and schema.get("properties"):
        return {key: _type(kind, f"{name}.{key}") for key, kind in schema["properties"].items()}
    if word == "array" and schema.get("items"):
        return [_type(schema["items"], f"{name}[]")]
    if word in ("object", "array"):
        return "VARCHAR"  # nothing declared inside: JSON text
    return _FORMATS.get(schema.get("format", ""), _WORDS[word]) if word == "string" else _WORDS[word]


def _configured(catalog: Message) -> dict[str, Any]:
    return {
        "streams": [
            {
                "stream": stream,
                "sync_mode": "incremental",
                "destination_sync_mode": "append",
                "cursor_field": stream["default_cursor_field"],
            }
            for stream in catalog["catalog"]["streams"]
        ]
    }


def _file(folder: str, name: str, value: object) -> str:
    path = Path(folder, f"{name}.json")
    path.write_text(json.dumps(value))
    return str(path)


def _run(program: Path, *arguments: str) -> Iterator[Message]:
    """What the connector prints, message by message; raises when it fails, after the last of them."""
    complaint = ""
    with subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True) as connector:
        assert connector.stdout is not None
        for line in connector.stdout:
            if not line.startswith("{"):
                continue
            message: Message = json.loads(line)
            if message["type"] == "TRACE" and message["trace"]["type"] == "ERROR":
                complaint = message["trace"]["error"]["message"]
            yield message
    if connector.returncode or complaint:
        raise ConnectorFailed(f"{program.name} {arguments[0]}: exit {connector.returncode}: {complaint}")


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def main() -> None:
    parser = argparse.ArgumentParser(description="Read source-faker once and land its records.")
    parser.add_argument("program", type=Path, help="the connector, as in .faker/bin/source-faker")
    parser.add_argument("lake", type=Path, help="root of the lake: the folder that orchestration/ lies in")
    parser.add_argument("--count", type=int, default=1000, help="users, and as many purchases")
    parser.add_argument("--seed", type=int, default=42, help="another seed is another person under each id")
    parser.add_argument("--always-updated", action="store_true", help="all records again, as changed now")
    options = parser.parse_args()

    memory = options.lake / ".lake" / "faker-state.json"
    states = json.loads(memory.read_text()) if memory.exists() else {}
    config = {
        "count": options.count, "seed": options.seed, "always_updated": options.always_updated,
        "parallelism": 1,
    }  # fmt: skip
    program = options.program.absolute()
    messages = read(program, config, discover(program, config), states)
    landed = land(messages, options.lake / ".lake" / "landing", "faker", at=datetime.now(UTC))
    memory.write_text(json.dumps(states | landed.states))
    print(f"{len(landed.files)} files; records: {landed.records or 'nothing new'}")  # noqa: T201


if __name__ == "__main__":
    main()
