"""What must change in an Airbyte server: wanted against found, as data. Performs nothing.

Everything is found by its name, and compared as sets: the server keeps neither order nor names unique.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakeward.airbyte.wanted import Wanted, WantedActor, WantedConnection
from lakeward.errors import ConfigError

if TYPE_CHECKING:
    from lakeward.streams import Stream

Json = dict[str, Any]

_MASK = "**********"
_KEPT_OF_A_STREAM = ("namespace", "mappers", "includeFiles", "destinationObjectName")  # set by others


@dataclass(frozen=True)
class Found:
    """The server's side. streams: of each source that exists, by its id and their names, as discovered.

    applied: what lakeward has last applied, by server id: a fingerprint of a configuration, or "".
    """

    sources: Sequence[Json]
    destinations: Sequence[Json]
    connections: Sequence[Json]
    streams: Mapping[str, Mapping[str, Json]]
    applied: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """sign: + (create), ~ (update), - (delete). lines: what changes, never a secret.

    body: what the server is to be sent; a connection's ids and, for one of a new source, its streams are
    filled in when it is performed. configuration: of a source or destination, to be remembered.
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
        known = _only(actor.kind, actor.name, there)
        if known is None:
            made.changes.append(_new_actor(actor, workspace))
        else:
            ids[actor.kind, actor.name] = known[f"{actor.kind}Id"]
            made.changes.extend(_changed_actor(actor, known, found.applied, made.problems))
    for connection in wanted.connections:
        known = _only("connection", connection.name, found.connections)
        streams = found.streams.get(ids.get(("source", connection.source), ""))
        sent = None if streams is None else _streams(connection, streams, known, made)
        if known is None:
            made.changes.append(_new_connection(connection, sent))
        else:
            made.changes.extend(_changed_connection(connection, known, sent or []))
        made.notes.extend(_rivals(connection, found, ids))
    for known in found.connections:
        if known["name"] not in wanted.names and known["connectionId"] in found.applied:
            told = f"{known['name']} is no longer in the repository"
            if prune:
                made.changes.append(Change("-", "connection", known["name"], [], known["connectionId"]))
            elif known.get("status") != "inactive":
                made.notes.append(f"{told}; kept, and still syncing: --prune deletes it")
    return made


def fingerprint(configuration: Json, salt: str) -> str:
    """Of a configuration with its secrets: tells whether they have changed, and not what they are."""
    text = json.dumps(configuration, sort_keys=True).encode()
    return hashlib.scrypt(text, salt=salt.encode(), n=2**14, r=8, p=1, dklen=16).hex()


def stream_body(stream: Stream, offered: Json, known: Json | None) -> tuple[Json, str | None]:
    """A stream as a connection is sent it, and what its owner may not expect of it.

    Never without a mode: the server's own would be full_refresh_overwrite. The source's own key and cursor
    are left to it. Raises ConfigError for what cannot be.
    """
    config, note = stream.config, None
    modes = offered.get("syncModes") or []
    mode = f"{config.sync_mode}_{config.destination_sync_mode}"
    if modes and mode not in modes and mode == "incremental_append":
        mode, note = (
            "full_refresh_append",
            f"{stream.id}: the source cannot read it incrementally: all each time",
        )
    body: Json = {key: known[key] for key in _KEPT_OF_A_STREAM if known and known.get(key)}
    body |= {"name": stream.name, "syncMode": mode}
    cursor = config.cursor_field or offered.get("defaultCursorField") or []
    if mode == "incremental_append" and not offered.get("sourceDefinedCursorField"):
        if not cursor:
            raise ConfigError(
                f'{stream.path}: "cursor_field" is not set, and the source defines none',
                hint='name the column that grows with every change: "cursor_field": ["updated_at"]',
            )
        body["cursorField"] = cursor
    if config.primary_key and not offered.get("sourceDefinedPrimaryKey"):
        body["primaryKey"] = config.primary_key
    if config.fields is not None:
        offers = {path[0] for path in offered.get("propertyFields") or []}
        missing = [name for name in config.fields if name not in offers]
        if mode == "incremental_append" and cursor and cursor[0] not in config.fields:
            missing.append(f"not {cursor[0]}, its cursor")
        if missing:
            raise ConfigError(
                f'{stream.path}: "fields" has {", ".join(missing)}',
                hint=f"the source has: {', '.join(offers)}",
            )
        body["selectedFields"] = [{"fieldPath": [name]} for name in config.fields]
    return body, note


def _only(kind: str, name: str, there: Sequence[Json]) -> Json | None:
    found = [each for each in there if each["name"] == name and each.get("status") != "deprecated"]
    if len(found) > 1:
        ids = ", ".join(each[f"{kind}Id"] for each in found)
        raise ConfigError(
            f"Airbyte has {len(found)} {kind}s called {name}: {ids}", hint="rename or delete all but one"
        )
    return found[0] if found else None


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
    lines = _differences(actor.configuration, known.get("configuration") or {}, "config", actor.secrets)
    if not lines and applied.get(key) != fingerprint(actor.configuration, key):
        lines = [
            "config: a secret, or a key that was taken out" if key in applied else "config: adopted as it is"
        ]
    body = {"name": actor.name, "configuration": actor.configuration}
    return [Change("~", actor.kind, actor.name, lines, key, body, actor)] if lines else []


def _differences(wanted: Any, known: Any, where: str, secrets: Sequence[str]) -> list[str]:
    """Only of what the file says: the server adds defaults of its own, and masks what is secret."""
    if isinstance(wanted, dict) and isinstance(known, dict):
        return [
            line
            for key in wanted
            for line in _differences(wanted[key], known.get(key), f"{where}.{key}", secrets)
        ]
    if known in (_MASK, wanted):
        return []
    told = json.dumps(wanted)
    for word in secrets:
        told = told.replace(word, "****")
    return [f"{where}: {'(not set)' if known is None else json.dumps(known)} -> {told}"]


def _streams(
    connection: WantedConnection, offered: Mapping[str, Json], known: Json | None, made: Plan
) -> list[Json]:
    bodies = []
    there = {each["name"]: each for each in _configured(known)} if known else {}
    for stream in connection.streams:
        if stream.name not in offered:
            made.problems.append(
                f"{stream.path}: the source has no stream {stream.name}; it has: "
                f"{', '.join(sorted(offered)) or 'none'} (some need more permissions of the account)"
            )
            continue
        try:
            body, note = stream_body(stream, offered[stream.name], there.get(stream.name))
        except ConfigError as error:
            made.problems.append(str(error))
            continue
        bodies.append(body)
        if note:
            made.notes.append(note)
    return bodies


def _new_connection(connection: WantedConnection, streams: list[Json] | None) -> Change:
    body = _settled(connection) | {"name": connection.name, "status": "active"}
    if streams is not None:
        body["configurations"] = {"streams": streams}
    lines = [f"schedule: {_schedule(body['schedule'])}"]
    if streams is None:
        lines += [f"stream {stream.name}: as the new source offers it" for stream in connection.streams]
    lines += [f"stream {each['name']}: {each['syncMode']}" for each in streams or []]
    return Change("+", "connection", connection.name, lines, None, body, connection)


def _changed_connection(connection: WantedConnection, known: Json, streams: list[Json]) -> list[Change]:
    lines, body = [], {}
    for key, value in _settled(connection).items():
        has = known.get(key)
        if key == "schedule":
            if _schedule(has or {}) != _schedule(value):
                lines.append(f"schedule: {_schedule(has or {})} -> {_schedule(value)}")
                body[key] = value
        elif has != value:
            lines.append(f"{key}: {has} -> {value}")
            body[key] = value
    before = {each["name"]: _comparable(each) for each in _configured(known)}
    after = {each["name"]: _comparable(each) for each in streams}
    told = [f"stream + {name}: {after[name]['syncMode']}" for name in after if name not in before]
    told += [f"stream - {name}" for name in before if name not in after]
    for name in [each for each in after if each in before]:
        for key, value in after[name].items():
            if before[name].get(key) != value:
                told.append(f"stream ~ {name}: {key}: {_told(before[name].get(key))} -> {_told(value)}")
    if told and streams:
        body["configurations"] = {"streams": streams}  # all of them: what is left out is dropped
    status = "active" if streams else "inactive"  # the last stream cannot be taken out
    if known.get("status") != status:
        lines.append(f"status: {known.get('status')} -> {status}")
        body["status"] = status
    if not streams:
        told = []
    lines += told
    return (
        [Change("~", "connection", connection.name, lines, known["connectionId"], body, connection)]
        if lines
        else []
    )


def _settled(connection: WantedConnection) -> Json:
    return {
        "schedule": connection.schedule,
        "namespaceDefinition": "custom_format",
        "namespaceFormat": connection.namespace,
        "prefix": "",
        "nonBreakingSchemaUpdatesBehavior": "propagate_columns",
    }


def _configured(connection: Json) -> list[Json]:
    return list((connection.get("configurations") or {}).get("streams") or [])


def _comparable(stream: Json) -> Json:
    """What lakeward decides of a stream; no selection is all fields, however the server writes that."""
    selected = frozenset(each["fieldPath"][0] for each in stream.get("selectedFields") or [])
    return {"syncMode": stream.get("syncMode"), "fields": selected} | (
        {"cursorField": stream["cursorField"]} if stream.get("cursorField") else {}
    )


def _told(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "all"
    return ".".join(value) if isinstance(value, list) else str(value)


def _schedule(schedule: Json) -> str:
    """The server puts a time zone behind an expression."""
    if schedule.get("scheduleType") == "cron":
        return str(schedule.get("cronExpression", "")).removesuffix("UTC").strip()
    timing = schedule.get("basicTiming")
    return f"{schedule.get('scheduleType', 'manual')}{f' ({timing})' if timing else ''}"


def _rivals(connection: WantedConnection, found: Found, ids: Mapping[tuple[str, str], str]) -> list[str]:
    """Other connections that land the same source in the same place."""
    ends = ids.get(("source", connection.source)), ids.get(("destination", "lakeward"))
    return [
        f"{each['name']} also brings {connection.source} to lakeward: its records land twice"
        for each in found.connections
        if (each.get("sourceId"), each.get("destinationId")) == ends
        and each["name"] != connection.name
        and each.get("status") == "active"
    ]
