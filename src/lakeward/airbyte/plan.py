"""What must change in an Airbyte server: wanted against found, as data. Performs nothing.

Everything is found by its name, and compared as sets: the server keeps neither order nor names unique.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakeward.airbyte.wanted import DESTINATION, Wanted, WantedActor, WantedConnection
from lakeward.errors import ConfigError
from lakeward.shapes import column_names
from lakeward.streams import how_to_read, no_such_stream

if TYPE_CHECKING:
    from lakeward.streams import Stream

Json = dict[str, Any]

_MASK = "**********"
_KEPT_OF_A_STREAM = ("namespace", "mappers", "includeFiles", "destinationObjectName")  # set by others


@dataclass(frozen=True)
class Found:
    """The server's side. streams: of each source that exists, by its id and their names, as discovered.

    applied: what lakeward has last applied, by server id: a fingerprint of a configuration, or "". named: the
    ids of what it has applied, by kind and name. created: of what it has made itself.
    """

    sources: Sequence[Json]
    destinations: Sequence[Json]
    connections: Sequence[Json]
    streams: Mapping[str, Mapping[str, Json]]
    applied: Mapping[str, str]
    named: Mapping[tuple[str, str], str]
    created: Collection[str]


@dataclass(frozen=True)
class Change:
    """sign: + (create), ~ (update), - (delete). lines: what changes, never a secret.

    body: what the server is to be sent; a connection's ids, and its streams where they cannot be known yet,
    are filled in when it is performed. wanted: what it comes from.
    """

    sign: str
    kind: str
    name: str
    lines: list[str]
    id: str | None = None
    body: Json = field(default_factory=dict)
    wanted: WantedActor | WantedConnection | None = None


@dataclass(frozen=True)
class Plan:
    """problems: what a file must be edited for; the rest of the plan stands. notes: what is left as it is."""

    changes: list[Change]
    notes: list[str]
    problems: list[str]


def plan(wanted: Wanted, found: Found, workspace: str, *, prune: bool) -> Plan:
    """Raises ConfigError where a name stands for two things at once."""
    made = Plan([], [], list(wanted.problems))
    ids: dict[tuple[str, str], str] = {}
    for actor in wanted.actors:
        there = found.sources if actor.kind == "source" else found.destinations
        known = only(actor.kind, actor.name, there, found.named)
        if known is None:
            made.changes.append(_new_actor(actor, workspace))
        else:
            ids[actor.kind, actor.name] = known[f"{actor.kind}Id"]
            made.changes.extend(_changed_actor(actor, known, found.applied, made.problems))
    for connection in wanted.connections:
        _plan_connection(connection, found, ids, made)
    kept = {change.id for change in made.changes}
    names = {key: name for (kind, name), key in found.named.items() if kind == "connection"}
    for known in found.connections:
        key = known["connectionId"]
        ours = names.get(key)
        if ours is None or ours in wanted.names or key in kept or known.get("status") == "deprecated":
            continue
        told = f"{known['name']} is no longer in the repository"
        if key not in found.created:
            made.notes.append(f"{told}; lakeward did not make it, so it stays")
        elif prune:
            made.changes.append(Change("-", "connection", ours, [], key))
        elif known.get("status") != "inactive":
            made.notes.append(f"{told}; kept, and still syncing: --prune deletes it")
    return made


def _plan_connection(
    connection: WantedConnection, found: Found, ids: Mapping[tuple[str, str], str], made: Plan
) -> None:
    known = only("connection", connection.name, found.connections, found.named)
    ends = ids.get(("source", connection.source)), ids.get(("destination", DESTINATION))
    offered = found.streams.get(ends[0] or "") if None not in ends else None
    streams = None if offered is None else stream_bodies(connection, offered, known, made)
    if known is None and not (connection.streams if streams is None else streams):
        made.problems.append(
            f"{connection.source} has no streams to connect: add dag/streams/{connection.source}/*.json"
        )
    elif known is None:
        made.changes.append(_new_connection(connection, streams))
    elif ends != (known.get("sourceId"), known.get("destinationId")):
        made.problems.append(
            f"Airbyte's connection {known['name']} does not go from the source {connection.source} "
            f"to the destination {DESTINATION}: rename it there, or delete it"
        )
    else:
        made.changes.extend(_changed_connection(connection, known, streams))
    made.notes.extend(_rivals(connection, known, found, ends))


def fingerprint(configuration: Json, salt: str) -> str:
    """Of a configuration with its secrets: tells whether they have changed, and not what they are."""
    text = json.dumps(configuration, sort_keys=True).encode()
    return hashlib.scrypt(text, salt=salt.encode(), n=2**14, r=8, p=1, dklen=16).hex()


def _stream_body(stream: Stream, offered: Json, known: Json | None) -> tuple[Json, str | None]:
    """A stream as a connection is sent it, and what its owner may not expect of it.

    Never without a mode: the server's own would be full_refresh_overwrite. The source's own key and cursor
    are left to it. Raises ConfigError for what cannot be.
    """
    modes = {mode.partition("_")[0] for mode in offered.get("syncModes") or ["incremental_", "full_"]}
    # A field may be told with its inner ones; the order is not the source's.
    columns = column_names(sorted({path[0] for path in offered.get("propertyFields") or []}))
    how = how_to_read(
        stream,
        modes=[mode for mode in ("incremental", "full_refresh") if mode.partition("_")[0] in modes],
        cursor=offered.get("defaultCursorField") or [],
        cursor_is_fixed=bool(offered.get("sourceDefinedCursorField")),
        columns=columns,
    )
    body: Json = {key: known[key] for key in _KEPT_OF_A_STREAM if known and known.get(key)}
    body |= {"name": stream.name, "syncMode": f"{how.mode}_{stream.config.destination_sync_mode}"}
    if how.mode == "incremental" and how.cursor:
        body["cursorField"] = how.cursor
    if stream.config.primary_key and not offered.get("sourceDefinedPrimaryKey"):
        body["primaryKey"] = stream.config.primary_key
    if stream.config.fields is not None:
        body["selectedFields"] = [{"fieldPath": [columns[name]]} for name in stream.config.fields]
    return body, f"{stream.id}: {how.note}" if how.note else None


def only(kind: str, name: str, there: Sequence[Json], applied: Mapping[tuple[str, str], str]) -> Json | None:
    """The one that lakeward has applied under that name, whatever it is called now; else by its name."""
    alive = [each for each in there if each.get("status") != "deprecated"]
    ours = [each for each in alive if each[f"{kind}Id"] == applied.get((kind, name))]
    named = [each for each in alive if each["name"] == name]
    if not ours and len(named) > 1:
        ids = ", ".join(each[f"{kind}Id"] for each in named)
        raise ConfigError(
            f"Airbyte has {len(named)} {kind}s called {name}: {ids}", hint="rename or delete all but one"
        )
    return next(iter(ours or named), None)


def _new_actor(actor: WantedActor, workspace: str) -> Change:
    typed = {f"{actor.kind}Type": actor.type} if actor.type and not actor.definition else {}
    body: Json = {
        "name": actor.name, "workspaceId": workspace, "configuration": actor.configuration | typed,
    }  # fmt: skip
    if actor.definition:
        body["definitionId"] = actor.definition
    lines = [f"connector: {actor.definition or actor.type}"]
    return Change("+", actor.kind, actor.name, lines, None, body, actor)


def _changed_actor(
    actor: WantedActor, known: Json, applied: Mapping[str, str], problems: list[str]
) -> list[Change]:
    key = known[f"{actor.kind}Id"]
    is_other = (
        actor.definition != known.get("definitionId")
        if actor.definition
        else actor.type is not None and known.get(f"{actor.kind}Type") not in (actor.type, "", None)
    )
    if is_other:
        there = known.get(f"{actor.kind}Type") or "custom connector"
        problems.append(
            f"Airbyte's {actor.kind} {actor.name} is a {there}, not {actor.definition or actor.type}; "
            "rename it there, or mend the source file"
        )
        return []
    there = known.get("configuration") or {}
    lines = [] if known["name"] == actor.name else [f"name: {known['name']} -> {actor.name}"]
    lines += _differences(actor.configuration, there, actor.written, "config")
    if not lines and applied.get(key) != fingerprint(actor.configuration, key):
        lines = [
            "config: a secret, or a key that was taken out" if key in applied else "config: adopted as it is"
        ]
    body = {"name": actor.name, "configuration": actor.configuration}
    return [Change("~", actor.kind, actor.name, lines, key, body, actor)] if lines else []


def _differences(wanted: Any, known: Any, written: Any, where: str) -> list[str]:
    """Only of what the file says: the server adds defaults of its own, and masks what is secret."""
    if isinstance(wanted, dict) and isinstance(known, dict):
        return [
            line
            for key in wanted
            for line in _differences(wanted[key], known.get(key), written[key], f"{where}.{key}")
        ]
    if known in (_MASK, wanted):
        return []
    was = "..." if "${" in json.dumps(written) else "(not set)" if known is None else json.dumps(known)
    return [f"{where}: {was} -> {json.dumps(written)}"]


def stream_bodies(
    connection: WantedConnection, offered: Mapping[str, Json], known: Json | None, made: Plan
) -> list[Json] | None:
    """None where a stream of the connection has a problem: then its streams stay as they are."""
    bodies, unclear = [], set(connection.broken)
    there = {each["name"]: each for each in _configured(known)} if known else {}
    for stream in connection.streams:
        try:
            if stream.name not in offered:
                raise no_such_stream(stream, offered)
            body, note = _stream_body(stream, offered[stream.name], there.get(stream.name))
        except ConfigError as error:
            made.problems.append(str(error))
            unclear.add(stream.name)
            continue
        bodies.append(body)
        if note:
            made.notes.append(note)
    if unclear & set(there):
        made.notes.append(f"the streams of {connection.name} stay as they are until that is mended")
        return None
    return bodies


def _new_connection(connection: WantedConnection, streams: list[Json] | None) -> Change:
    body = _settled(connection) | {"name": connection.name, "status": "active"}
    if streams is not None:
        body["configurations"] = {"streams": streams}
    lines = [f"schedule: {_schedule(body['schedule'])}"]
    if streams is None:
        lines += [f"stream {stream.name}: as the source offers it" for stream in connection.streams]
    lines += [f"stream {each['name']}: {each['syncMode']}" for each in streams or []]
    return Change("+", "connection", connection.name, lines, None, body, connection)


def _changed_connection(
    connection: WantedConnection, known: Json, streams: list[Json] | None
) -> list[Change]:
    lines, body = [], {}
    aims: Json = {"name": connection.name} | _settled(connection)
    for key, value in aims.items():
        has = known.get(key)
        if key == "schedule":
            if _schedule(has or {}) != _schedule(value):
                lines.append(f"schedule: {_schedule(has or {})} -> {_schedule(value)}")
                body[key] = value
        elif has != value:
            lines.append(f"{key}: {has} -> {value}")
            body[key] = value
    if streams is not None:
        status = "active" if streams else "inactive"  # the last stream cannot be taken out
        if known.get("status") != status:
            lines.append(f"status: {known.get('status')} -> {status}")
            body["status"] = status
        told = _stream_lines(known, streams) if streams else []
        if told:
            body["configurations"] = {"streams": streams}  # all of them: what is left out is dropped
        lines += told
    change = Change("~", "connection", connection.name, lines, known["connectionId"], body, connection)
    return [change] if lines else []


def _stream_lines(known: Json, streams: list[Json]) -> list[str]:
    before = {each["name"]: _comparable(each) for each in _configured(known)}
    after = {each["name"]: _comparable(each) for each in streams}
    told = [f"stream + {name}: {after[name]['syncMode']}" for name in after if name not in before]
    told += [f"stream - {name}" for name in before if name not in after]
    return told + [
        f"stream ~ {name}: {key}: {_told(before[name].get(key))} -> {_told(value)}"
        for name in after
        if name in before
        for key, value in after[name].items()
        if before[name].get(key) != value
    ]


def _settled(connection: WantedConnection) -> Json:
    return {
        "schedule": connection.schedule,
        "namespaceDefinition": "custom_format",
        "namespaceFormat": connection.source,
        "prefix": "",
        "nonBreakingSchemaUpdatesBehavior": "propagate_columns",
    }


def _configured(connection: Json) -> list[Json]:
    return list((connection.get("configurations") or {}).get("streams") or [])


def _comparable(stream: Json) -> Json:
    """What lakeward decides of a stream; no selection is all fields, however the server writes that."""
    selected = frozenset(each["fieldPath"][0] for each in stream.get("selectedFields") or [])
    own = {key: stream[key] for key in ("cursorField", "primaryKey") if stream.get(key)}
    return {"syncMode": stream.get("syncMode"), "fields": selected} | own


def _told(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "all"
    if isinstance(value, list):
        return ", ".join(".".join(each) if isinstance(each, list) else str(each) for each in value)
    return str(value)


def _schedule(schedule: Json) -> str:
    """The server puts a time zone behind an expression."""
    if schedule.get("scheduleType") == "cron":
        return str(schedule.get("cronExpression", "")).removesuffix("UTC").strip()
    timing = schedule.get("basicTiming")
    return f"{schedule.get('scheduleType', 'manual')}{f' ({timing})' if timing else ''}"


def _rivals(
    connection: WantedConnection, known: Json | None, found: Found, ends: tuple[str | None, str | None]
) -> list[str]:
    """Other connections that land the same source in the same place."""
    return [
        f"{each['name']} also brings {connection.source} to lakeward: its records land twice"
        for each in found.connections
        if None not in ends
        and (each.get("sourceId"), each.get("destinationId")) == ends
        and (known is None or each["connectionId"] != known["connectionId"])
        and each.get("status") == "active"
    ]
