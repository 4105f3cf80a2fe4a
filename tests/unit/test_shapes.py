"""What becomes of a record: types as the S3 destination has them, values that fit, and what does not."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakeward.lake import Lake
from lakeward.protocol import Decoder
from lakeward.shapes import shape
from lakeward.spool import Spool

RECORD: dict[str, Any] = {"type": "RECORD", "record": {"stream": "s", "emitted_at": 1}}


def written(tmp_path: Path, schema: dict[str, Any], *values: Any) -> list[tuple[Any, ...]]:
    """(value in Parquet, changed fields) of records {"a": value} whose field has the schema."""
    spool = Spool(tmp_path / "spool", shape({"properties": {"a": schema}}))
    target, decode = tmp_path / "file.parquet", Decoder()
    for value in values:
        line = json.dumps(RECORD | {"record": RECORD["record"] | {"data": {"a": value}}}).encode() + b"\n"
        message = decode(line)
        assert message is not None
        spool.add(line, message["record"], is_clean=decode.is_clean)
    with duckdb.connect() as con, closing(spool):
        con.execute("set timezone = 'UTC'")
        assert spool.write(Lake(con), target, sync_id=7, generation=0) == len(values)
        return con.execute(
            "select a, list_transform(_airbyte_meta.changes, lambda c: c.field) from read_parquet(?)",
            [str(target)],
        ).fetchall()


NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
DATE_TIME = {"type": "string", "format": "date-time"}


@pytest.mark.parametrize(
    ("schema", "value", "becomes"),
    [
        ({"type": "string"}, "a", "a"),
        ({"type": ["null", "string"]}, 5, "5"),
        ({"type": "string"}, {"b": [1, "x"]}, '{"b":[1,"x"]}'),
        ({"type": "string"}, "half \ud83d of a pair, \U0001f600 whole", "half ? of a pair, \U0001f600 whole"),
        ({"type": "integer"}, 2**63 - 1, 2**63 - 1),
        ({"type": "integer"}, 3.0, 3),
        ({"type": "integer"}, "3", 3),
        ({"type": "number", "airbyte_type": "integer"}, 3, 3),
        ({"type": "number"}, 3, 3.0),
        ({"type": "number"}, "1.5", 1.5),
        ({"type": "boolean"}, "True", True),
        (DATE_TIME, "2026-11-25T12:00:00Z", NOON),
        (DATE_TIME, "2026-11-25 12:00:00", NOON),
        (DATE_TIME, "2026-11-25T12:00", NOON),
        (DATE_TIME, "2026-11-25T14:00:00.000000000+02:00", NOON),
        (DATE_TIME, "2026-11-25T07:00:00-0500", NOON),
        (DATE_TIME, "2026-11-25 12:00:00 +0000", NOON),
        (DATE_TIME, "2026-11-25T12:00Z", NOON),
        (DATE_TIME, "2026-11-25 14:00 +02", NOON),
        (DATE_TIME, "2026-11-25", datetime(2026, 11, 25, tzinfo=UTC)),
        ({"type": "string", "format": "date"}, "2026-11-25", date(2026, 11, 25)),
        ({"type": "string", "format": "date"}, "2026-11-25T12:00:00Z", date(2026, 11, 25)),
        ({"type": "string", "format": "time"}, "12:30:00", time(12, 30)),
        ({"type": "string", "format": "time"}, "12:30:00+02:00", time(10, 30)),
        ({"type": "object"}, {"b": 1}, '{"b":1}'),
        ({"type": "array"}, [1, 2], "[1,2]"),
        ({}, {"b": 1}, '{"b":1}'),
        ({"type": "array", "items": {"type": "integer"}}, [1, None, "3"], [1, None, 3]),
        ({"type": "object", "properties": {"b-c": {"type": "integer"}}}, {"b-c": 1, "z": 2}, {"b_c": 1}),
        ({"properties": {"a-b": {"type": "integer"}}}, {"a_b": 7, "z": 1}, {"a_b": None}),
        ({"properties": {"Id": {}, "id": {}}}, {"Id": "1", "id": "2"}, {"Id": "1", "id_1": "2"}),
        (
            {"type": ["integer", "string"]},
            "x",
            {"type": "string", "integer": None, "string": "x"},
        ),
        (
            {"oneOf": [{"type": "string"}, DATE_TIME]},
            "2026-11-25T12:00:00Z",
            {"type": "timestamp_with_timezone", "string": None, "timestamp_with_timezone": NOON},
        ),
        (
            {"anyOf": [{"properties": {"b": {"type": "integer"}}}, {"properties": {"c": {}}}]},
            {"b": 1, "c": "x"},
            {"b": 1, "c": "x"},
        ),
    ],
)  # fmt: skip
def test_a_value_that_fits_is_kept(tmp_path: Path, schema: dict[str, Any], value: Any, becomes: Any) -> None:
    assert written(tmp_path, schema, value) == [(becomes, [])]


@pytest.mark.parametrize(
    ("schema", "value", "becomes", "fields"),
    [
        ({"type": "integer"}, 1.5, None, ["a"]),
        ({"type": "integer"}, 2**63, None, ["a"]),
        ({"type": "integer"}, True, None, ["a"]),
        ({"type": "integer"}, "x", None, ["a"]),
        ({"type": "number"}, "x", None, ["a"]),
        ({"type": "number"}, 10**400, None, ["a"]),
        ({"type": "boolean"}, 1, None, ["a"]),
        (DATE_TIME, "2026-02-30T12:00:00Z", None, ["a"]),
        (DATE_TIME, 1764072000, None, ["a"]),
        (DATE_TIME, "soon", None, ["a"]),
        ({"type": "string", "format": "time"}, "25:00", None, ["a"]),
        ({"type": "object", "properties": {"b": {"type": "integer"}}}, 7, None, ["a"]),
        ({"type": "object", "properties": {"b": {"type": "integer"}}}, {"b": "x"}, {"b": None}, ["a.b"]),
        ({"type": "array", "items": {"type": "integer"}}, {"b": 1}, None, ["a"]),
        ({"type": "array", "items": {"type": "integer"}}, [1, "x", "y"], [1, None, None], ["a"]),
        ({"type": ["integer", "boolean"]}, "x", None, ["a"]),
    ],
)
def test_a_value_that_does_not_fit_is_null_and_named(
    tmp_path: Path, schema: dict[str, Any], value: Any, becomes: Any, fields: list[str]
) -> None:
    assert written(tmp_path, schema, value, None) == [(becomes, fields), (None, [])]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.datetimes().map(str) | st.dates().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SCHEMAS = st.recursive(
    st.sampled_from([
        {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, DATE_TIME, {},
        {"type": "string", "format": "date"}, {"type": "string", "format": "time"},
        {"type": ["string", "integer", "null"]},
    ]),
    lambda inner: inner.map(lambda item: {"type": "array", "items": item})
    | st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3).map(
        lambda fields: {"type": "object", "properties": fields}
    ),
    max_leaves=5,
)  # fmt: skip


@given(schema=SCHEMAS, values=st.lists(ANYTHING, min_size=1, max_size=5))
def test_no_record_keeps_the_others_from_being_written(
    tmp_path_factory: pytest.TempPathFactory, schema: dict[str, Any], values: list[Any]
) -> None:
    rows = written(tmp_path_factory.mktemp("shapes"), schema, *values)
    for value, (kept, changes) in zip(values, rows, strict=True):
        assert kept is not None or value is None or changes == ["a"]
