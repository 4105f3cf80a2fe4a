"""A fake of Airbyte's public API that keeps state, and is as treacherous as the real one.

Its behavior was read in airbyte-platform's source at 310e6cb6; no real server was compared with it.
"4.4 rule N" counts as our notes on Airbyte do. Two things differ on purpose: a body that breaks
airbyte_requests.json is told why (the real answer is an error id alone), and so is an unknown key
(the real server ignores it, and so does this one when `lenient`).
"""

from __future__ import annotations

import base64
import copy
import json
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

Json = dict[str, Any]
Query = dict[str, str]

_ROOT = "/api/public/v1"
_SCHEMA = json.loads(Path(__file__).with_name("airbyte_requests.json").read_text())
_MASK = "**********"
_SECRETS = {"api_key", "api_password", "access_token", "client_id", "client_secret", "password",
            "access_key_id", "secret_access_key"}  # fmt: skip
# What a connector's configuration cannot do without, and the id of its definition.
_REQUIRED = {"klaviyo": ["api_key"], "shopify": ["shop"], "faker": [],
             "s3": ["s3_bucket_name", "s3_bucket_path", "s3_bucket_region", "format"]}  # fmt: skip
_DEFINITIONS = {"klaviyo": "95e8cffd-b8c4-4039-968e-d32fb4a69bde", "shopify": "9da77001-af33-4bcd-be46-6252bf9342b9",
                "faker": "dfd88b22-b603-4c3d-aad7-3701784586b1", "s3": "4816b78f-1489-44c1-9060-4b19d5fa9362"}  # fmt: skip  # noqa: E501
_ENDED = {"succeeded", "failed", "cancelled"}
_TITLES = {400: "bad-request", 404: "resource-not-found", 409: "state-conflict", 422: "unprocessable-entity"}


@dataclass(frozen=True)
class Discovered:
    """A stream as its source's discovery finds it."""

    name: str
    fields: tuple[str, ...] = ("id", "updated_at")
    namespace: str | None = None
    modes: tuple[str, ...] = ("full_refresh", "incremental")
    cursor: tuple[str, ...] = ("updated_at",)
    cursor_is_fixed: bool = True
    key: tuple[str, ...] = ("id",)


@dataclass(frozen=True)
class Request:
    """What arrived. `path` begins after /api/public/v1; header names are lower case."""

    method: str
    path: str
    query: Query
    body: Any
    headers: dict[str, str]


@dataclass(frozen=True)
class _Fault:
    kind: str
    on: str
    status: int = 500
    body: Json | str | None = None
    retry_after: float | None = None
    performed: bool = False


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


def _problem(status: int, message: str, kind: str = "", data: Json | None = None) -> Problem:
    title = _TITLES.get(status, "unexpected-problem")
    kind = kind or f"https://reference.airbyte.com/reference/errors#{title}"
    shown = {"message": message} if data is None else data
    return Problem(status, {"status": status, "type": kind, "title": title, "detail": f"The {title} of the type.",
                            "documentationUrl": None, "data": shown})  # fmt: skip


def _among(query: Query, name: str, values: set[str]) -> bool:
    return not query.get(name) or not values.isdisjoint(query[name].split(","))


def _page(rows: list[Json], query: Query, path: str) -> Json:
    """`next` follows every page that is not empty, the last one too, and names a host inside the cluster."""
    limit, offset = int(query.get("limit", 20)), int(query.get("offset", 0))
    if not 1 <= limit <= 100:
        raise Problem(400, {"errorId": str(uuid.uuid4())})
    data, url = rows[offset : offset + limit], f"http://localhost:8001{_ROOT}/{path}?limit={limit}&offset="
    return {"data": data, "next": f"{url}{offset + limit}" if data else "",
            "previous": f"{url}{max(offset - limit, 0)}" if offset else ""}  # fmt: skip


class _Resource(dict[str, Json]):
    """The records of one collection by id. Keys that begin with _ are never answered."""

    def __init__(self, server: FakeAirbyte, noun: str) -> None:
        super().__init__()
        self.server, self.noun = server, noun

    def find(self, key: str) -> Json:
        if key not in self:
            raise _problem(404, "", data={"resourceType": self.noun, "resourceId": key})
        return self[key]

    def read(self, key: str) -> Json:
        return self.view(self.find(key))

    def view(self, record: Json) -> Json:
        return {k: v for k, v in copy.deepcopy(record).items() if v is not None and not k.startswith("_")}

    def index(self, query: Query) -> Json:
        rows = [
            self.view(record)
            for record in self.values()
            if (query.get("includeDeleted") == "true" or not record.get("_deleted"))
            and _among(query, "workspaceIds", {record["workspaceId"]})
            and _among(query, "tagIds", set(record.get("_tags", [])))
        ]
        return _page(rows, query, f"{self.noun}s")


class Actors(_Resource):
    """Sources, or destinations."""

    def create(self, body: Json) -> Json:
        kind = body["configuration"].get(f"{self.noun}Type")
        definition = body.get("definitionId") or _DEFINITIONS.get(kind)
        if definition is None:
            raise _problem(*((422, "not understood") if kind is None else (400, "")), data={"value": kind})
        known = {id_: name for name, id_ in _DEFINITIONS.items()} | self.server.custom_definitions
        if definition not in known:
            raise _problem(404, "", data={"resourceType": "ActorDefinition", "resourceId": definition})
        self.server.workspaces.find(body["workspaceId"])
        record = {f"{self.noun}Id": str(uuid.uuid4()), "name": body["name"], f"{self.noun}Type": known[definition],
                  "definitionId": definition, "workspaceId": body["workspaceId"], "createdAt": int(time.time())}  # fmt: skip  # noqa: E501
        self._configure(record, body["configuration"])
        self[record[f"{self.noun}Id"]] = record  # 4.4 rule 11: a name may be had twice
        return self.view(record)

    def patch(self, key: str, body: Json) -> Json:
        """Merges: a key can be changed and added, not removed. A mask that is sent back is the new secret."""
        record = self.find(key)
        self._configure(record, _merged(record["configuration"], body.get("configuration", {})))
        record["name"] = body.get("name", record["name"])
        return self.view(record)

    def replace(self, key: str, body: Json) -> Json:
        """Replaces. A mask that is sent back means the secret there was."""
        record = self.find(key)
        self._configure(record, _unmasked(body["configuration"], record["configuration"]))
        record["name"] = body["name"]
        return self.view(record)

    def delete(self, key: str) -> None:
        self.find(key).update(configuration={}, _deleted=True)
        for connection in self.server.connections.values():
            if connection[f"{self.noun}Id"] == key:
                connection.update(status="deprecated", _deleted=True)

    def view(self, record: Json) -> Json:
        return super().view(record | {"configuration": _masked(record["configuration"])})  # 4.4 rule 9

    def _configure(self, record: Json, configuration: Json) -> None:
        kept = {k: v for k, v in configuration.items() if k != f"{self.noun}Type"}
        for name in _REQUIRED.get(record[f"{self.noun}Type"], []):
            if name not in kept:
                raise _problem(422, f"json schema validation failed: required property '{name}' not found")
        record["configuration"] = copy.deepcopy(kept)


def _masked(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _MASK if key in _SECRETS else _masked(inner) for key, inner in value.items()}


def _unmasked(new: Any, old: Any) -> Any:
    if not isinstance(new, dict) or not isinstance(old, dict):
        return old if new == _MASK and old is not None else new
    return {key: _unmasked(value, old.get(key)) for key, value in new.items()}


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


class Connections(_Resource):
    def create(self, body: Json) -> Json:
        schedule = self._schedule(body.get("schedule", {"scheduleType": "manual"}))
        source = self.server.sources.find(body["sourceId"])
        destination = self.server.destinations.find(body["destinationId"])
        record = {"connectionId": str(uuid.uuid4()), "name": f"{source['name']} <> {destination['name']}",
                  "workspaceId": source["workspaceId"], "status": "active", "namespaceDefinition": "destination",
                  "prefix": "", "nonBreakingSchemaUpdatesBehavior": "ignore", "createdAt": int(time.time()),
                  **{k: v for k, v in body.items() if k not in {"configurations", "tags", "dataResidency"}},
                  "schedule": schedule, "_tags": self._tags(body.get("tags", []))}  # fmt: skip
        asked = body.get("configurations", {}).get("streams")
        if not asked:  # 4.4 rule 1
            found = self.server.discover(source)
            asked = [{"name": stream.name, "namespace": stream.namespace} for stream in found]
        record["_streams"] = self._streams(asked, record)
        self[record["connectionId"]] = record  # 4.4 rule 11
        return self.view(record)

    def patch(self, key: str, body: Json) -> Json:
        changes = {k: v for k, v in body.items() if k not in {"configurations", "tags", "dataResidency"}}
        if "schedule" in body:
            changes["schedule"] = self._schedule(body["schedule"])
        record = self.find(key)
        if record["status"] == "locked":  # 4.4 rule 8
            raise _problem(409, "", "error:connection/locked", {"connectionId": key, "statusReason": None})
        if asked := body.get("configurations", {}).get("streams"):  # 4.4 rule 1: an empty list changes nothing
            changes["_streams"] = self._streams(asked, record)  # 4.4 rule 3: a stream left out is dropped
            before = {stream["name"]: stream["syncMode"][:4] for stream in record["_streams"]}
            self.server.forgotten += [(key, stream["name"]) for stream in changes["_streams"]
                                      if before.get(stream["name"]) not in {None, stream["syncMode"][:4]}]  # fmt: skip
        if "tags" in body:
            changes["_tags"] = self._tags(body["tags"])
        record.update(changes)
        return self.view(record)

    def delete(self, key: str) -> None:
        self.find(key).update(status="deprecated", _deleted=True)

    def view(self, record: Json) -> Json:
        streams = [super(Connections, self).view(stream) for stream in reversed(record["_streams"])]  # 4.4 rule 10
        tags = [self.server.tags.read(tag) for tag in record["_tags"]]
        shown = super().view(record | {"configurations": {"streams": streams}, "tags": tags})
        if cron := shown["schedule"].get("cronExpression"):
            shown["schedule"]["cronExpression"] = f"{cron} UTC"  # 4.4 rule 7
        return shown

    def _tags(self, asked: list[Json]) -> list[str]:
        if any(tag["tagId"] not in self.server.tags for tag in asked):
            raise _problem(500, "violates foreign key constraint")
        return [tag["tagId"] for tag in asked]

    def _schedule(self, asked: Json) -> Json:
        if asked["scheduleType"] == "manual":
            return {"scheduleType": "manual"}
        cron = asked.get("cronExpression", "")
        expression = cron.replace("UTC", "").strip() if cron.endswith("UTC") else cron  # 4.4 rule 7
        fields = expression.split()
        if len(fields) not in {6, 7}:
            raise _problem(400, f"Cron expression contains {len(fields)} parts but we expect one of [6, 7].")
        # 4.4 rule 6. Only of seven fields are the minutes looked at here; six meet the next check, further in.
        if not all(field.isdigit() for field in fields[: len(fields) - 5]):
            raise _problem(400, f"The cron expression {cron} is not valid or is less than the one hour minimum.")
        if not fields[1].isdigit() and not self.server.allows_sub_hourly:
            data = {"cronExpression": expression, "validationErrorMessage": "Cron executions must be at least 1 hour apart"}  # noqa: E501
            raise _problem(400, "", "error:cron-validation/under-one-hour-not-allowed", data)
        return {"scheduleType": "cron", "cronExpression": expression}

    def _streams(self, asked: list[Json], connection: Json) -> list[Json]:
        found = self.server.discover(self.server.sources.find(connection["sourceId"]))  # 4.4 rule 3: may be stale
        allowed = self.server.modes_of(connection["destinationId"])
        streams: dict[Discovered, Json] = {}
        for wanted in asked:
            name, namespace = wanted["name"], wanted.get("namespace")
            named = [stream for stream in found if stream.name == name]
            if len(named) != 1:  # a namespace matters only where the name is not enough
                named = [stream for stream in named if stream.namespace == namespace]
            if len(named) != 1:
                raise _problem(400, f"No streams found with name [{name}] and namespace [{namespace}].")
            stream = self._stream(wanted, named[0], [mode for mode in allowed if mode.startswith(named[0].modes)])
            if named[0] in streams:  # 4.4 rule 5
                raise _problem(400, f"Duplicate stream found in configuration for stream name [{name}].")
            streams[named[0]] = stream
        return list(streams.values())

    def _stream(self, asked: Json, found: Discovered, allowed: list[str]) -> Json:
        mode = asked.get("syncMode", "full_refresh_overwrite")  # 4.4 rule 2
        cursor, key = asked.get("cursorField") or [], asked.get("primaryKey") or []
        selected = _selection(asked, found)
        if mode not in {"full_refresh_overwrite", *allowed}:
            raise _problem(400, f"Cannot set sync mode to {mode} for stream {found.name}. Valid ones: {allowed}")
        if mode.startswith("incremental"):
            if found.cursor_is_fixed and cursor and set(cursor) != set(found.cursor):
                raise _problem(400, f"Cursor Field {cursor} is already defined by source for stream: {found.name}.")
            if not found.cursor_is_fixed and not (cursor or found.cursor and [found.cursor[0]])[:1] <= list(found.fields):
                raise _problem(400, f"Invalid or no default cursor field for stream: {found.name}.")
        keys = [[field] for field in found.key]
        if key and keys and (self.server.refuses_any_key or ("dedup" in mode and key != keys)):  # 4.4 rule 4
            raise _problem(400, f"Primary key for stream: {found.name} is already pre-defined.")
        if "dedup" in mode and not key and not keys:
            raise _problem(400, f"No default primary key for stream: {found.name}.")
        return {"name": found.name, "namespace": found.namespace, "syncMode": mode, "primaryKey": keys or key,
                "cursorField": list(found.cursor) if found.cursor_is_fixed else cursor or list(found.cursor),
                "selectedFields": selected, "mappers": asked.get("mappers", []),
                "includeFiles": asked.get("includeFiles", False)}  # fmt: skip
