"""What Airbyte's S3 destination makes of a stream's JSON schema: an imitation, read off its source code.

airbytehq/airbyte: AirbyteTypeToAvroSchema.kt, AirbyteValueCoercer.kt, docs/integrations/destinations/s3.md.
Nobody has compared it with a file of a real destination yet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lakeward.errors import ConnectorError
from lakeward.sql import quote_identifier

Schema = Mapping[str, Any]
# Gives back the very same object where it fits as it is; otherwise one that fits, or None, and appends the
# paths of the fields that had to become null.
Fit = Callable[[Any, list[str]], Any]


@dataclass(frozen=True)
class Shape:
    """columns: DuckDB types by column, in the schema's order; a key that has no column is dropped.

    words: the same in the words of a stream file's `fields`.
    """

    columns: dict[str, str]
    words: dict[str, Any]
    fit: Fit


@dataclass(frozen=True)
class _Kind:
    type: str  # as DuckDB writes it
    word: str  # as Airbyte writes it: the member of a union
    words: Any  # as a stream file's `fields` write it: the word, or what it consists of
    accepts: Callable[[Any], bool]  # is this the member of a union that a value belongs to?
    fit: Fit | None = None  # None: DuckDB takes whatever it is


def shape(schema: Schema) -> Shape:
    """Of a stream's records: `json_schema` as `discover` gives it. Raises ConnectorError for what is none."""
    try:
        kinds = _kinds(schema, "")
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError) as error:
        raise ConnectorError(f"its JSON schema is none: {error}") from error
    columns, words = {}, {}
    for _, name, kind in kinds:
        columns[name], words[name] = kind.type, kind.words
    return Shape(columns, words, _fit_object(kinds, ""))


def column_names(keys: Iterable[str]) -> dict[str, str]:
    """Columns and the keys they come from, in order. Names that Avro allows, no two alike in any case."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = re.sub(r"\W", "_", key, flags=re.ASCII)
        name = f"_{name}" if not name or name[0].isdigit() else name
        while name.lower() in taken:
            name += "_1"
        taken.add(name.lower())
        found[name] = key
    return found


def _kinds(schema: Schema, path: str) -> list[tuple[str, str, _Kind]]:
    """(key, column, kind) of each property."""
    properties = schema.get("properties") or {}
    return [
        (key, name, _kind(properties[key], f"{path}{key}")) for name, key in column_names(properties).items()
    ]


def _kind(schema: Schema | bool, path: str) -> _Kind:
    options = _options(schema if isinstance(schema, Mapping) else {})
    members = {kind.word: kind for kind in (_simple(word, inner, path) for word, inner in options)}
    if len(members) == 1:
        return next(iter(members.values()))
    return _union(list(members.values()), path) if members else _text()


def _options(schema: Schema) -> list[tuple[str, Schema]]:
    """(type word, schema) of everything it may be, null left out; objects of a union are merged first."""
    listed = schema.get("oneOf") or schema.get("anyOf")
    if listed:
        options = [option for inner in listed if isinstance(inner, Mapping) for option in _options(inner)]
    else:
        declared: str | list[str] = schema.get("type") or ("object" if "properties" in schema else [])
        words = [declared] if isinstance(declared, str) else list(declared)
        options = [(word, schema) for word in words if word != "null"]
    objects = [inner for word, inner in options if word == "object"]
    if len(objects) > 1:
        merged: dict[str, Any] = {}
        for inner in objects:
            merged |= inner.get("properties", {})
        options = [option for option in options if option[0] != "object"] + [
            ("object", {"type": "object", "properties": merged})
        ]
    return options


def _simple(word: str, schema: Schema, path: str) -> _Kind:
    if word == "object" and schema.get("properties"):
        kinds = _kinds(schema, f"{path}.")
        inside = ", ".join(f"{quote_identifier(name)} {kind.type}" for _, name, kind in kinds)
        words = {name: kind.words for _, name, kind in kinds}
        return _Kind(f"STRUCT({inside})", word, words, _is(dict), _fit_object(kinds, path))
    if word == "array" and isinstance(schema.get("items"), Mapping) and schema["items"]:
        item = _kind(schema["items"], path)
        return _Kind(f"{item.type}[]", word, [item.words], _is(list), _fit_list(item.fit, path))
    if word in ("object", "array"):
        return _Kind("VARCHAR", word, word, _is(dict if word == "object" else list))  # JSON text
    if word == "integer" or (word == "number" and schema.get("airbyte_type") == "integer"):
        return _Kind("BIGINT", "integer", "integer", _is(int), _fitting(_integer, path))
    if word == "number":
        return _Kind("DOUBLE", word, word, _is(int, float), _fitting(_number, path))
    if word == "boolean":
        return _Kind("BOOLEAN", word, word, _is(bool), _fitting(_boolean, path))
    if word == "string" and schema.get("format") in _MOMENTS:
        kind, name, moment = _MOMENTS[schema["format"]]
        if schema["format"] != "date":
            zoneless = str(schema.get("airbyte_type", "")).endswith("without_timezone")
            name += "_without_timezone" if zoneless else "_with_timezone"
        return _Kind(kind, name, name, lambda value: moment(value) is not None, _fitting(moment, path))
    return _text()


def _text() -> _Kind:
    """DuckDB turns whatever is no text into its JSON."""
    return _Kind("VARCHAR", "string", "string", _is(str))


def _is(*types: type) -> Callable[[Any], bool]:
    """Of just these types: True is no integer."""
    return lambda value: type(value) in types


def _fit_object(kinds: list[tuple[str, str, _Kind]], path: str) -> Fit:
    checked = [(key, kind.fit) for key, _, kind in kinds if kind.fit is not None]
    renamed = {key: name for key, name, _ in kinds if key != name}
    moved = {*renamed, *renamed.values()}

    def fit(value: Any, nulled: list[str]) -> Any:
        if type(value) is not dict:
            nulled.append(path)
            return None
        made = value
        for key, fit_one in checked:
            old = value.get(key)
            if old is not None:
                new = fit_one(old, nulled)
                if new is not old:
                    if made is value:
                        made = dict(value)
                    made[key] = new
        if moved and not value.keys().isdisjoint(moved):
            values = {name: made[key] for key, name in renamed.items() if key in made}
            made = {key: inner for key, inner in made.items() if key not in moved} | values
        return made

    return fit


def _fit_list(item: Fit | None, path: str) -> Fit:
    def fit(value: Any, nulled: list[str]) -> Any:
        if type(value) is not list:
            nulled.append(path)
            return None
        if item is None:
            return value
        made = [None if inner is None else item(inner, nulled) for inner in value]
        return value if all(a is b for a, b in zip(made, value, strict=True)) else made

    return fit


def _fitting(convert: Callable[[Any], Any], path: str) -> Fit:
    def fit(value: Any, nulled: list[str]) -> Any:
        new = convert(value)
        if new is None:
            nulled.append(path)
        return new

    return fit


def _union(members: list[_Kind], path: str) -> _Kind:
    """A struct that names the member a value belongs to, and holds it there."""
    inside = ", ".join(f"{quote_identifier(kind.word)} {kind.type}" for kind in members)
    by_name = {kind.word: kind for kind in members}
    # What is text only has its turn after what is written as text.
    ordered = sorted(members, key=lambda kind: (kind.word == "string", kind.word == "number"))

    def fit(value: Any, nulled: list[str]) -> Any:
        for kind in ordered:
            if kind.accepts(value):
                made = kind.fit(value, nulled) if kind.fit is not None else value
                return None if made is None else {"type": kind.word, kind.word: made}
        if "string" in by_name:
            return {"type": "string", "string": value}
        nulled.append(path)
        return None

    words = {"type": "string"} | {kind.word: kind.words for kind in members}
    return _Kind(f"STRUCT(type VARCHAR, {inside})", "union", words, lambda _: True, fit)


def _integer(value: Any) -> int | None:
    """Whole numbers that 64 bits hold, also where they came as 3.0 or "3"."""
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else None
    if (type(value) is str and re.fullmatch(r"[+-]?\d{1,19}", value, re.ASCII)) or (
        type(value) is float and value.is_integer()
    ):
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _number(value: Any) -> float | int | None:
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return None
    if type(value) is int:
        return value if -(2**53) <= value <= 2**53 else _number(_float(value))
    return value if type(value) is float and math.isfinite(value) else None


def _float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _boolean(value: Any) -> bool | None:
    if type(value) is str and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value if type(value) is bool else None


_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DATE_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:([T ]\d\d:\d\d)(:\d\d(?:\.\d+)?)?( ?)(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)
_TIME = re.compile(r"(\d\d:\d\d(?::\d\d(?:\.\d+)?)?) ?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)


def _date_time(value: Any) -> str | None:
    """A time without a zone is UTC. DuckDB wants seconds, and no space, before a zone."""
    found = _DATE_TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, seconds, space, zone = found.groups()
    moment = f"{day}{clock}{seconds or ':00'}{zone}" if zone and (space or not seconds) else value
    return moment if _exists(moment) else None


def _date(value: Any) -> str | None:
    moment = _date_time(value)
    return moment if moment is None or _DATE.fullmatch(moment) else moment[:10]


def _time(value: Any) -> str | None:
    """Of the zone's own clock turned to UTC, as in `12:30:00+02:00`."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None or not _exists(f"2000-01-01T{found[1]}{found[2] or ''}"):
        return None
    if found[2] is None:
        return found[0]
    return datetime.fromisoformat(f"2000-01-01T{found[1]}{found[2]}").astimezone(UTC).time().isoformat()


def _exists(moment: str) -> bool:
    """Is there such a day, and such a time in it?"""
    try:
        datetime.fromisoformat(moment)
    except ValueError:
        return False
    return True


_MOMENTS: dict[str, tuple[str, str, Callable[[Any], str | None]]] = {
    "date": ("DATE", "date", _date),
    "date-time": ("TIMESTAMP WITH TIME ZONE", "timestamp", _date_time),
    "time": ("TIME", "time", _time),
}


def as_line(record: Mapping[str, Any]) -> bytes:
    """JSON that DuckDB reads: half of a surrogate pair becomes `?`."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
