"""Performs a plan, change by change, and remembers in the lake what was applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lakeward.airbyte.plan import Change, Found, fingerprint, stream_body
from lakeward.airbyte.wanted import DESTINATION, Wanted, WantedActor, WantedConnection
from lakeward.errors import AirbyteError, ConfigError
from lakeward.meta import META, is_set_up, set_up

if TYPE_CHECKING:
    from lakeward.airbyte.client import Airbyte
    from lakeward.lake import Lake

Json = dict[str, Any]


def find(airbyte: Airbyte, wanted: Wanted, lake: Lake | None) -> Found:
    """The server as it is. Reads only; a discovery that was never made is made, which takes minutes."""
    sources, destinations = airbyte.all("sources"), airbyte.all("destinations")
    ours = next((each["destinationId"] for each in destinations if each["name"] == DESTINATION), None)
    streams = {}
    for connection in wanted.connections:
        for source in sources:
            if source["name"] == connection.source:
                key = source["sourceId"]
                streams[key] = _offered(airbyte, key, ours, connection)
    known = "airbyte_log" in _tables(lake)
    rows = (
        lake.query(f"select id, max_by(fingerprint, rowid) from {META}.airbyte_log group by id")
        if lake is not None and known
        else []
    )
    return Found(sources, destinations, airbyte.all("connections"), streams, dict(rows))


def apply(
    changes: Sequence[Change], found: Found, airbyte: Airbyte, lake: Lake, done: Callable[[Change], None]
) -> None:
    """All changes, in their order. Raises AirbyteError at the first that fails, with what was not done."""
    set_up(lake, [])
    ids = {("source", each["name"]): each["sourceId"] for each in found.sources}
    ids |= {("destination", each["name"]): each["destinationId"] for each in found.destinations}
    for number, change in enumerate(changes):
        try:
            key = _perform(change, ids, airbyte)
        except (AirbyteError, ConfigError) as error:
            rest = ", ".join(f"{each.sign} {each.kind} {each.name}" for each in changes[number:])
            raise AirbyteError(
                f"{change.sign} {change.kind} {change.name}: {error}",
                hint=f"{number} of {len(changes)} changes were made; not made: {rest}",
            ) from error
        ids[change.kind, change.name] = key
        mark = fingerprint(change.wanted.configuration, key) if isinstance(change.wanted, WantedActor) else ""
        lake.query(
            f"insert into {META}.airbyte_log select ?, ?, ?, ?, ?, now()",
            [
                change.kind,
                change.name,
                key,
                {"+": "created", "~": "updated", "-": "deleted"}[change.sign],
                mark,
            ],
        )
        done(change)


def _perform(change: Change, ids: dict[tuple[str, str], str], airbyte: Airbyte) -> str:
    """The server's id of what was changed."""
    path = f"/{change.kind}s"
    if change.sign == "-":
        airbyte.call("DELETE", f"{path}/{change.id}")
        return str(change.id)
    if change.sign == "~":
        # A source's PATCH would merge, and could take no key out; a connection knows no PUT.
        method = "PATCH" if change.kind == "connection" else "PUT"
        airbyte.call(method, f"{path}/{change.id}", change.body)
        return str(change.id)
    body = change.body
    if isinstance(change.wanted, WantedConnection):
        ends = {
            "sourceId": ids["source", change.wanted.source], "destinationId": ids["destination", DESTINATION],
        }  # fmt: skip
        body = body | ends
        if "configurations" not in body:
            body = body | {"configurations": {"streams": _streams(change.wanted, ends, airbyte)}}
        if not body["configurations"]["streams"]:  # the server would take all there are
            raise ConfigError("it has no streams", hint=f"add dag/streams/{change.wanted.source}/*.json")
    return str(airbyte.call("POST", path, body)[f"{change.kind}Id"])


def _streams(connection: WantedConnection, ends: dict[str, str], airbyte: Airbyte) -> list[Json]:
    """Of a source that was not there when the plan was made."""
    offered = airbyte.streams(ends["sourceId"], ends["destinationId"])
    bodies = []
    for stream in connection.streams:
        if stream.name not in offered:
            raise ConfigError(
                f"{stream.path}: the source has no stream {stream.name}",
                hint=f"it has: {', '.join(sorted(offered)) or 'none'}; some need more permissions",
            )
        bodies.append(stream_body(stream, offered[stream.name], None)[0])
    return bodies


def _offered(
    airbyte: Airbyte, source: str, destination: str | None, connection: WantedConnection
) -> dict[str, Json]:
    """As last discovered; discovered again where a wanted stream is not among them."""
    to = destination or ""
    offered = airbyte.streams(source, to)
    if any(stream.name not in offered for stream in connection.streams):
        offered = airbyte.streams(source, to, look=True)
    return offered


def _tables(lake: Lake | None) -> set[str]:
    if lake is None or not is_set_up(lake):
        return set()
    rows = lake.query(
        "select table_name from information_schema.tables "
        "where table_catalog = 'lakehouse' and table_schema = 'meta'"
    )
    return {name for (name,) in rows}
