"""What is fuzzed: a function of bytes per parser. It returns, or raises what its parser promises to raise.

Anything else is a finding, as is an assertion that fails.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from functools import cache
from pathlib import Path

from lakeward.attaching import postgres_uri
from lakeward.cron import as_quartz, is_cron
from lakeward.errors import ConfigError, ConnectorError
from lakeward.masking import Mask
from lakeward.partitions import is_landed_name, partition_date, partition_folder, partition_number
from lakeward.protocol import Decoder, complaint
from lakeward.schemas import compatible, grouped, merged, narrowed
from lakeward.settings import load_settings
from lakeward.shapes import as_line, shape
from lakeward.sources import load_source
from lakeward.sql import quote_identifier
from lakeward.streams import load_stream


@cache
def _folder() -> Path:
    return Path(
        tempfile.mkdtemp(prefix="lakeward-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    )


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def protocol(data: bytes) -> None:
    decode = Decoder()
    for line in data.split(b"\n"):
        with suppress(ValueError):
            message = decode(line)
            if message is not None:
                assert isinstance(message["type"], str)
                found = complaint(message)
                assert found is None or isinstance(found[1], str)


def shapes(data: bytes) -> None:
    """A line with the schema, and lines with records: what fits once fits again."""
    first, *lines = data.split(b"\n")
    try:
        schema = json.loads(first)
    except (ValueError, RecursionError):
        return
    if not isinstance(schema, dict):
        return
    with suppress(ConnectorError):
        made = shape(schema)
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                fitted = made.fit(record, [])
                json.loads(as_line(fitted))


def partitions(data: bytes) -> None:
    text = _text(data)
    is_landed_name(text)
    partition_number(text)
    found = partition_date(text)
    if found is not None:
        assert date(1000, 1, 1) <= found
        assert partition_date(f"{partition_folder(found)}x") == found


def settings(data: bytes) -> None:
    _file("project/lakeward.toml", data)
    with suppress(ConfigError):
        load_settings(_folder() / "project", {})


def urls(data: bytes) -> None:
    landing, _, place = _text(data.replace(b"\0", b"")).partition("\n")
    with suppress(ConfigError):
        found = load_settings(_folder(), {"LAKEWARD_LANDING_URL": landing, "LAKEWARD_DATA_URL": place})
        for url in (found.landing_url, found.data_url):
            assert url.startswith("/" if "://" not in url else ("s3://", "gs://", "az://"))
            assert ".." not in url.split("/")


def catalog_url(data: bytes) -> None:
    with suppress(ConfigError):
        assert postgres_uri(_text(data)).startswith(("postgresql://", "postgres://"))


def streams(data: bytes) -> None:
    with suppress(ConfigError):
        stream = load_stream(_file("shop/items.json", data))
        assert stream.columns is None or all(stream.columns)


def sources(data: bytes) -> None:
    with suppress(ConfigError):
        source = load_source(_file("shop.yml", data))
        with suppress(ConfigError):
            source.resolved({"A": "secret"})


def cron(data: bytes) -> None:
    text = _text(data)
    if is_cron(text):
        with suppress(ValueError):
            assert len(as_quartz(text).split(" ")) == 6


def column_types(data: bytes) -> None:
    """Types as DuckDB writes them, made of the bytes: taken apart and put together they are the same."""
    one, other = _type(bytearray(data)), _type(bytearray(data[::-1]))
    assert compatible(one, one)
    assert merged(one, one) == one
    assert narrowed(one, one) == one
    both = merged(one, other)
    assert merged(both, other) == both
    assert grouped({"a": one}, (("A", other),)) == {"a": both}


def _type(data: bytearray, depth: int = 0) -> str:
    kind = data.pop() if data else 0
    if kind % 4 == 1 and depth < 4:
        return f"{_type(data, depth + 1)}[]"
    if kind % 4 == 2 and depth < 4:
        fields: dict[str, str] = {}
        for _ in range(kind // 4 % 4 + 1):
            length = data.pop() % 8 + 1 if data else 1
            name = _text(bytes(data[:length])).replace("\0", "") or f"f{len(fields)}"
            del data[:length]
            fields[name] = _type(data, depth + 1)
        inside = ", ".join(f"{quote_identifier(name)} {inner}" for name, inner in fields.items())
        return f"STRUCT({inside})"
    return ("BIGINT", "VARCHAR", "DECIMAL(18,3)", "TIMESTAMP WITH TIME ZONE", "MAP(VARCHAR, BIGINT)")[
        kind % 5
    ]


def masking(data: bytes) -> None:
    word, _, text = _text(data).partition("\n")
    if len(word) < 4 or "*" in word:
        return
    forms = (word, json.dumps(word), repr(word))
    for shown in (text, *(f"{text}{form}{text}" for form in forms)):
        assert word not in Mask([word])(shown)


# Each with what to begin from.
TARGETS: dict[Callable[[bytes], None], list[bytes]] = {
    protocol: [
        b'{"type": "RECORD", "record": {"stream": "items", "data": {"a": NaN}, "emitted_at": 1}}',
        b'{"type": "STATE", "state": {"type": "STREAM", "stream": {"stream_descriptor": {"name": "a"}}, '
        b'"sourceStats": {"recordCount": 2.0}}}',
        b'{"type": "TRACE", "trace": {"type": "ERROR", "error": {"message": "x", "internal_message": "y", '
        b'"stream_descriptor": {"name": "a"}}}}',
        b'{"type": "CATALOG", "catalog": {"streams": [{"name": "a", "json_schema": {}}]}}',
    ],
    shapes: [
        b'{"properties": {"a": {"type": ["null", "integer"]}, "b": {"oneOf": [{"type": "string", "format": '
        b'"date-time"}, {"type": "object", "properties": {"c": {"type": "number"}}}]}, "d": {"type": '
        b'"array", "items": {"type": "boolean"}}}}\n{"a": "1", "b": {"c": 1.5}, "d": [true, "false", 1]}',
        b'{"properties": {"a b": {"type": "string", "format": "time"}, "A_b": {"type": "string", "format": '
        b'"date"}}}\n{"a b": "12:30:00+02:00", "A_b": "2026-01-01T00:00 Z"}',
    ],
    partitions: [b"raw/s/t/year=2026/month=03/day=01/0.parquet-1", b"month=12"],
    settings: [b'landing_url = "s3://b/landing"\nworkers = 2\ncatalog_url = "postgresql://u:p@h/d"\n'],
    urls: [b"s3://b/landing\ns3://b/data", b".lake/landing\nfile:///data", b"s3://k:s@b/x/../y?a#b%2e\n/"],
    catalog_url: [b"postgresql://user:pass%20word@[::1]:5432/lake?sslmode=require", b"postgres://h:1/d"],
    streams: [
        b'{"sync_mode": "full_refresh", "fields": {"a": "string", "b": [{"c": "integer"}]}, '
        b'"target_lag": "2d"}',
        b'{"primary_key": [["id"]], "cursor_field": ["at"], "lookback_days": 3}',
    ],
    sources: [
        b'connector: airbyte-source-faker==7.2.1\nschedule: "15 * * * *"\n'
        b"config:\n  a: ${A}\n  b: [1, {c: !!int 2}]",
        b"connector: ./x\nconfig: &a {b: 2026-01-01, <<: {c: .nan}}\n",
    ],
    cron: [b"*/20 0-5,7 1,15 * 1/3", b"0 6 * * 0-7"],
    column_types: [bytes(range(64)), b"\x06\x02ab\x06\x03a, b\x02"],
    masking: [b'p@ss w"ord\nthe text', b"secret\nse\\u0063ret"],
}
