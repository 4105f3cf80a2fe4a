"""Performs a plan, change by change, and remembers in the lake what was applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lakeward.airbyte.plan import Change, Found, Plan, fingerprint, only, stream_bodies
from lakeward.airbyte.wanted import DESTINATION, Wanted, WantedActor, WantedConnection, connection_name
from lakeward.errors import AirbyteError, ConfigError
from lakeward.meta import META, relations, set_up

if TYPE_CHECKING:
    from lakeward.airbyte.client import Airbyte
    from lakeward.lake import Lake

Json = dict[str, Any]


def find(airbyte: Airbyte, wanted: Wanted, lake: Lake | None) -> Found:
    """The server as it is. Reads only; a discovery that was never made is made, which takes minutes."""
    sources, destinations = airbyte.all("sources"), airbyte.all("destinations")
    applied = _applied(lake)
    named = {(kind, name): key for kind, name, key, *_ in applied}
    ours = only("destination", DESTINATION, destinations, named)
    streams = {}
    for connection in wanted.connections:
        source = only("source", connection.source, sources, named)
        if source is not None and ours is not None:  # without both the server does not say how it can be read
            key, to = source["sourceId"], ours["destinationId"]
            streams[key] = _offered(airbyte, key, to, connection)
    return Found(
        sources,
        destinations,
        airbyte.all("connections"),
        streams,
        applied={key: fingerprint for _, _, key, fingerprint, *_ in applied},
        named=named,
        created={key for _, _, key, _, was_created in applied if was_created},
    )


def connection(source: str, airbyte: Airbyte, lake: Lake | None) -> Json:
    """The source's connection. Raises ConfigError when there is none, or more than one of its name."""
    named = {(kind, name): key for kind, name, key, *_ in _applied(lake)}
    name = connection_name(source)
    found = only("connection", name, airbyte.all("connections"), named)
    if found is None:
        raise ConfigError(f"Airbyte has no connection called {name}", hint="lakeward airbyte plan")
    return found


def _applied(lake: Lake | None) -> list[tuple[str, str, str, str, bool]]:
    """What lakeward made or changed and did not delete: kind, name, id, fingerprint, did it make it?"""
    if lake is None or ("meta", "airbyte_log") not in relations(lake):
        return []
    rows = lake.query(
        f"""
        select kind, name, id, max_by(fingerprint, rowid), bool_or(event = 'created')
        from {META}.airbyte_log group by all having max_by(event, rowid) <> 'deleted' order by max(rowid)"""
    )
    return [(kind, name, key, fingerprint, made) for kind, name, key, fingerprint, made in rows]


def apply(
    changes: Sequence[Change], found: Found, airbyte: Airbyte, lake: Lake, done: Callable[[Change], None]
) -> list[str]:
    """All changes, in their order; what a file must be edited for is told at the end, the rest is made.

    Raises AirbyteError at the first that the server refuses, with what was not done.
    """
    problems: list[str] = []
    set_up(lake, [])
    ids = {("source", each["name"]): each["sourceId"] for each in found.sources}
    ids |= {("destination", each["name"]): each["destinationId"] for each in found.destinations}
    ids |= {key: id_ for key, id_ in found.named.items() if id_ in ids.values()}
    for number, change in enumerate(changes):
        try:
            key = _perform(change, ids, airbyte, problems)
        except ConfigError as error:
            problems.append(str(error))
            continue
        except AirbyteError as error:
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
    return problems


def _perform(change: Change, ids: dict[tuple[str, str], str], airbyte: Airbyte, problems: list[str]) -> str:
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
        if "configurations" not in body:  # the source or the destination was not there when it was planned
            offered = airbyte.streams(ends["sourceId"], ends["destinationId"])
            streams = stream_bodies(change.wanted, offered, None, Plan([], [], problems))
            body = body | {"configurations": {"streams": streams}}
        if not body["configurations"]["streams"]:  # the server would take all there are
            raise ConfigError("it has no streams", hint=f"add dag/streams/{change.wanted.source}/*.json")
    return str(airbyte.call("POST", path, body)[f"{change.kind}Id"])


def _offered(
    airbyte: Airbyte, source: str, destination: str, connection: WantedConnection
) -> dict[str, Json]:
    """As last discovered; discovered again where a wanted stream is not among them."""
    offered = airbyte.streams(source, destination)
    if any(stream.name not in offered for stream in connection.streams):
        offered = airbyte.streams(source, destination, look=True)
    return offered
