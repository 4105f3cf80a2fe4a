"""The made-up shop as an Airbyte source: `spec`, `check`, `discover` and `read`, a JSON message per line.

Its configuration names the app (shopify or klaviyo) and how many days the shop has lived; a read goes on
after the day its state names. The records are those that shop.py lands; started by the program beside it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from duckdb import DuckDBPyConnection

from samples.shop import _HERE, _LATE_OF, _LATE_ON, _SYNC_AT, START, STREAMS, _connect, _midnight, _millis

Json = dict[str, Any]

SPEC = {
    "type": "object",
    "required": ["app"],
    "additionalProperties": False,
    "properties": {
        "app": {"enum": ["shopify", "klaviyo"], "description": "Which of the shop's two apps."},
        "days": {"type": "integer", "default": 14, "description": "How many days it has lived."},
        "orders_per_day": {"type": "integer", "default": 60},
        "seed": {"type": "integer", "default": 7, "description": "Another seed is another shop."},
    },
}
_WORDS = {"bigint": "integer", "integer": "integer", "double": "number", "boolean": "boolean"}


def main() -> None:
    command, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    given = {name.removeprefix("--"): json.loads(Path(path).read_text()) for name, path in options.items()}
    if command == "spec":
        _say("SPEC", spec={"connectionSpecification": SPEC})
    elif command == "check":
        _say("CONNECTION_STATUS", connectionStatus={"status": "SUCCEEDED"})
    elif command == "discover":
        with _open(given["config"]) as con:
            _say("CATALOG", catalog={"streams": list(_catalog(con, given["config"]["app"]))})
    else:
        with _open(given["config"]) as con:
            for entry in given["catalog"]["streams"]:
                _read(con, given["config"], entry, given.get("state", []))


def _open(config: Json) -> DuckDBPyConnection:
    con = _connect(config.get("seed", 7), START, config.get("days", 14), config.get("orders_per_day", 60))
    con.execute("set timezone = 'UTC'")
    for name in ("story.sql", "klaviyo.sql"):
        con.execute((_HERE / name).read_text())
    return con


def _catalog(con: DuckDBPyConnection, app: str) -> Iterator[Json]:
    for stream in STREAMS:
        if stream.startswith(f"{app}/"):
            rows = con.sql(f"select * exclude _at from {_rows(con, stream, 0)}")
            names = dict(zip(rows.columns, map(_schema, rows.types), strict=True))
            yield {
                "name": stream.partition("/")[2],
                "json_schema": {"type": "object", "properties": names},
                "supported_sync_modes": ["full_refresh", "incremental"],
                "source_defined_cursor": True,
                "default_cursor_field": [
                    next(n for n in ("updated_at", "updated", "datetime", "created_at") if n in names)
                ],
                "source_defined_primary_key": [["id"]],
            }


def _schema(kind: Any) -> Json:
    if kind.id == "struct":
        return {
            "type": ["null", "object"],
            "properties": {name: _schema(inner) for name, inner in kind.children},
        }
    if kind.id == "list":
        return {"type": ["null", "array"], "items": _schema(kind.children[0][1])}
    if kind.id == "timestamp with time zone":
        return {"type": ["null", "string"], "format": "date-time"}
    return {"type": ["null", _WORDS.get(kind.id, "string")]}


def _read(con: DuckDBPyConnection, config: Json, entry: Json, states: list[Json]) -> None:
    """A state per day: the day is over, and is not read again."""
    name = entry["stream"]["name"]
    stream = f"{config['app']}/{name}"
    known = {
        state["stream"]["stream_descriptor"]["name"]: state["stream"]["stream_state"]["days"]
        for state in states
    }
    first = known.get(name, 0) if entry["sync_mode"] == "incremental" else 0
    _status(name, "STARTED")
    for day in range(first, config.get("days", 14)):
        synced = _midnight(START, day) + _SYNC_AT + timedelta(seconds=7 * list(STREAMS).index(stream))
        lines = _lines(con, name, _rows(con, stream, day), synced)
        if stream == "shopify/orders" and day == _LATE_ON:  # an older version of some, and a few nobody saw
            con.execute(f"create or replace temp table states as from late_orders({_LATE_OF})")
            late = _midnight(START, _LATE_OF) + _SYNC_AT - timedelta(minutes=5)
            lines += _lines(con, name, "order_rows('states')", late)
        for line in lines:
            print(line)
        state = {"stream_descriptor": {"name": name}, "stream_state": {"days": day + 1}}
        stats = {"recordCount": float(len(lines))}
        _say("STATE", state={"type": "STREAM", "stream": state, "sourceStats": stats})
    _status(name, "COMPLETE")


def _lines(con: DuckDBPyConnection, name: str, rows: str, synced: datetime) -> list[str]:
    con.execute(f"create or replace temp table sync as from {rows} order by _at, id")
    found = con.execute(
        """
        select '{"type":"RECORD","record":{"stream":"' || $name || '","data":' || to_json(data)::varchar
            || ',"emitted_at":' || ($millis + n // 100) || '}}'
        from (select data, row_number() over () - 1 as n from (select * exclude _at from sync) as data)""",
        {"name": name, "millis": _millis(synced)},
    ).fetchall()
    return [line for (line,) in found]


def _rows(con: DuckDBPyConnection, stream: str, day: int) -> str:
    if stream != "shopify/orders":
        return f"{STREAMS[stream]}({day})"
    con.execute(f"create or replace temp table states as from changed_orders({day})")
    return "order_rows('states')"


def _status(name: str, word: str) -> None:
    inner = {"stream_descriptor": {"name": name}, "status": word}
    _say("TRACE", trace={"type": "STREAM_STATUS", "emitted_at": 0.0, "stream_status": inner})


def _say(kind: str, **inside: object) -> None:
    print(json.dumps({"type": kind, **inside}), flush=True)


if __name__ == "__main__":
    main()
