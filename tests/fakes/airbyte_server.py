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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from jsonschema import Draft202012Validator, FormatChecker

Json = dict[str, Any]
Body = Json | str | None
Query = dict[str, str]

_ROOT = "/api/public/v1"
_SCHEMA = json.loads(Path(__file__).with_name("airbyte_requests.json").read_text())
_MASK = "**********"
_SECRETS = {"api_key", "api_password", "access_token", "client_secret", "access_key_id", "secret_access_key"}
_CONNECTORS = {  # the id of its definition, and what its configuration cannot do without
    "klaviyo": ("95e8cffd-b8c4-4039-968e-d32fb4a69bde", ["api_key"]),
    "shopify": ("9da77001-af33-4bcd-be46-6252bf9342b9", ["shop"]),
    "faker": ("dfd88b22-b603-4c3d-aad7-3701784586b1", []),
    "s3": (
        "4816b78f-1489-44c1-9060-4b19d5fa9362",
        ["s3_bucket_name", "s3_bucket_path", "s3_bucket_region", "format"],
    ),
}
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
    body: Body = None
    retry_after: float | None = None
    performed: bool = False


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


def _problem(status: int, message: str, kind: str = "", data: Json | None = None) -> Problem:
    """The useful words are in data.message, except where other data are called for, or none are."""
    title = _TITLES.get(status, "unexpected-problem")
    kind = kind or f"https://reference.airbyte.com/reference/errors#{title}"
    shown = {"message": message} if message else data
    body = {"type": kind, "title": title, "detail": f"There is a {title}.", "documentationUrl": None}
    return Problem(status, {"status": status, **body, "data": shown})


def _among(query: Query, name: str, values: set[str]) -> bool:
    return not query.get(name) or not values.isdisjoint(query[name].split(","))


def _page(rows: list[Json], query: Query, path: str) -> Json:
    """`next` follows every page that is not empty, the last one too, and names a host inside the cluster."""
    limit, offset = int(query.get("limit", 20)), int(query.get("offset", 0))
    if not 1 <= limit <= 100:
        raise Problem(400, {"errorId": str(uuid.uuid4())})
    data, url = rows[offset : offset + limit], f"http://localhost:8001{_ROOT}/{path}?limit={limit}&offset="
    previous = f"{url}{max(offset - limit, 0)}" if offset else ""
    return {"data": data, "next": f"{url}{offset + limit}" if data else "", "previous": previous}


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
            if (query.get("includeDeleted") == "true" or record.get("status") != "deprecated")
            and _among(query, "workspaceIds", {record["workspaceId"]})
            and _among(query, "tagIds", set(record.get("_tags", [])))
        ]
        return _page(rows, query, f"{self.noun}s")


class Actors(_Resource):
    """Sources, or destinations."""

    def create(self, body: Json) -> Json:
        kind, definition = body["configuration"].get(f"{self.noun}Type"), body.get("definitionId")
        if definition is None and kind is None:
            raise _problem(422, "The body of the request was not understood")
        if definition is None and kind not in _CONNECTORS:
            raise _problem(400, "", data={"value": kind})
        definition = definition or _CONNECTORS[kind][0]
        known = {id_: name for name, (id_, _) in _CONNECTORS.items()} | self.server.custom_definitions
        if definition not in known:
            raise _problem(404, "", data={"resourceType": "ActorDefinition", "resourceId": definition})
        self.server.workspaces.find(body["workspaceId"])
        key = str(uuid.uuid4())
        record = {f"{self.noun}Id": key, f"{self.noun}Type": known[definition], "definitionId": definition}
        record |= {"name": body["name"], "workspaceId": body["workspaceId"], "createdAt": int(time.time())}
        self._configure(record, body["configuration"])
        self[key] = record  # 4.4 rule 11: a name may be had twice
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
        self.find(key).update(configuration={}, status="deprecated")
        for connection in self.server.connections.values():
            if connection[f"{self.noun}Id"] == key:
                connection["status"] = "deprecated"

    def view(self, record: Json) -> Json:
        masked = record | {"configuration": _masked(record["configuration"]), "status": None}
        return super().view(masked)  # 4.4 rule 9; and nothing tells that one was deleted

    def _configure(self, record: Json, configuration: Json) -> None:
        kept = {k: v for k, v in configuration.items() if k != f"{self.noun}Type"}
        for name in _CONNECTORS.get(record[f"{self.noun}Type"], ("", []))[1]:
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
        found, asked = self.server.discover(source), body.get("configurations", {}).get("streams")
        if not asked:  # 4.4 rule 1
            asked = [{"name": stream.name, "namespace": stream.namespace} for stream in found]
        key = str(uuid.uuid4())
        record = {
            "connectionId": key,
            "name": f"{source['name']} <> {destination['name']}",
            "workspaceId": source["workspaceId"],
            "status": "active",
            "namespaceDefinition": "destination",
            "prefix": "",
            "nonBreakingSchemaUpdatesBehavior": "ignore",
            "createdAt": int(time.time()),
            "sourceId": body["sourceId"],
            "destinationId": body["destinationId"],
            **_plain(body),
            "schedule": schedule,
            "_tags": self._tags(body.get("tags", [])),
            "_streams": self._streams(asked, found, body["destinationId"]),
        }
        self[key] = record  # 4.4 rule 11: a second one like it is a second one
        return self.view(record)

    def patch(self, key: str, body: Json) -> Json:
        changes, record = _plain(body), self.find(key)
        if "schedule" in body:
            changes["schedule"] = self._schedule(body["schedule"])
        if record["status"] == "locked":  # 4.4 rule 8
            raise _problem(409, "", "error:connection/locked", {"connectionId": key, "statusReason": None})
        asked = body.get("configurations", {}).get("streams")
        if asked:  # 4.4 rule 1: an empty list changes nothing
            found = self.server.discover(self.server.sources.find(record["sourceId"]))
            # 4.4 rule 3: what is not among them is dropped
            changes["_streams"] = self._streams(asked, found, record["destinationId"])
            before = {stream["name"]: _reads(stream["syncMode"]) for stream in record["_streams"]}
            self.server.forgotten += [
                (key, stream["name"])
                for stream in changes["_streams"]
                if before.get(stream["name"]) not in {None, _reads(stream["syncMode"])}
            ]
        if "tags" in body:
            changes["_tags"] = self._tags(body["tags"])
        record.update(changes)
        return self.view(record)

    def delete(self, key: str) -> None:
        self.find(key)["status"] = "deprecated"

    def view(self, record: Json) -> Json:
        show = super().view
        streams = [show(stream) for stream in reversed(record["_streams"])]  # 4.4 rule 10
        tags = [self.server.tags.read(tag) for tag in record["_tags"]]
        shown = show(record | {"configurations": {"streams": streams}, "tags": tags})
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
        # 4.4 rule 6. Of seven fields the minutes are looked at here; six meet another check, further in.
        if not all(field.isdigit() for field in fields[: len(fields) - 5]):
            raise _problem(
                400, f"The cron expression {cron} is not valid or is less than the one hour minimum"
            )
        if not fields[1].isdigit() and not self.server.allows_sub_hourly:
            why = {"validationErrorMessage": "Cron executions must be at least 1 hour apart"}
            kind = "error:cron-validation/under-one-hour-not-allowed"
            raise _problem(400, "", kind, {"cronExpression": expression} | why)
        return {"scheduleType": "cron", "cronExpression": expression}

    def _streams(self, asked: list[Json], found: list[Discovered], destination_id: str) -> list[Json]:
        streams: dict[Discovered, Json] = {}
        for wanted in asked:
            name, namespace = wanted["name"], wanted.get("namespace")
            named = [stream for stream in found if stream.name == name]
            if len(named) != 1:  # a namespace matters only where the name is not enough
                named = [stream for stream in named if stream.namespace == namespace]
            if len(named) != 1:  # 4.4 rule 3: it may be there by now, but was not at the last discovery
                raise _problem(400, f"No streams found with name [{name}] and namespace [{namespace}].")
            if named[0] in streams:  # 4.4 rule 5
                raise _problem(400, f"Duplicate stream found in configuration for stream name [{name}].")
            streams[named[0]] = self._stream(wanted, named[0], self.server.modes_of(named[0], destination_id))
        return list(streams.values())

    def _stream(self, asked: Json, found: Discovered, allowed: list[str]) -> Json:
        mode, key = asked.get("syncMode", "full_refresh_overwrite"), asked.get("primaryKey")  # 4.4 rule 2
        if mode not in {"full_refresh_overwrite", *allowed}:
            raise _problem(400, f"Cannot set sync mode to {mode} for stream {found.name}. Valid: {allowed}")
        cursor, keys = _cursor(asked, found), [[field] for field in found.key]
        # 4.4 rule 4: where the mode needs no key, one that is not the source's own goes unnoticed
        if key and keys and (self.server.refuses_any_key or ("dedup" in mode and key != keys)):
            raise _problem(400, f"Primary key for stream: {found.name} is already pre-defined.")
        if "dedup" in mode and not key and not keys:
            raise _problem(400, f"No default primary key for stream: {found.name}.")
        return {
            "name": found.name,
            "namespace": found.namespace,
            "syncMode": mode,
            "cursorField": cursor,
            "primaryKey": keys or key or [],
            "selectedFields": _selection(asked, found, cursor),
            "mappers": asked.get("mappers", []),
            "includeFiles": asked.get("includeFiles", False),
            "destinationObjectName": asked.get("destinationObjectName"),
        }


def _plain(body: Json) -> Json:
    patched = ("name", "namespaceDefinition", "namespaceFormat", "prefix", "status")
    return {key: body[key] for key in (*patched, "nonBreakingSchemaUpdatesBehavior") if key in body}


def _reads(mode: str) -> str:
    return "incremental" if mode.startswith("incremental") else "full_refresh"


def _cursor(asked: Json, found: Discovered) -> list[str]:
    """The cursor that is used: the source's own where it insists."""
    cursor, own = asked.get("cursorField") or [], list(found.cursor)
    if _reads(asked.get("syncMode", "")) == "full_refresh":
        return own
    if found.cursor_is_fixed and cursor and set(cursor) != set(own):
        raise _problem(400, f"Cursor Field {cursor} is already defined by source for stream: {found.name}.")
    used = own if found.cursor_is_fixed else cursor or own
    if not used or used[0] not in found.fields:
        raise _problem(400, f"Invalid or no default cursor field for stream: {found.name}.")
    return used


def _selection(asked: Json, found: Discovered, cursor: list[str]) -> list[Json]:
    if "selectedFields" not in asked:
        return []  # 4.4 rule 5: what a GET answers for all of them, and what must not be sent back
    paths = [field.get("fieldPath", []) for field in asked["selectedFields"]]
    names = {path[0] for path in paths if len(path) == 1}
    if not paths or len(names) != len(paths) or not names <= set(found.fields):  # 4.4 rule 5
        raise _problem(400, f"No, nested, duplicate or invalid fields selected for stream {found.name}.")
    if _reads(asked.get("syncMode", "")) == "incremental" and cursor[0] not in names:
        raise _problem(400, f"Cursor field is not selected properly for stream: {found.name}.")
    return [
        {"fieldPath": [name]} for name in sorted(names, key=lambda name: (len(name), name))
    ]  # 4.4 rule 10


class Tags(_Resource):
    def index(self, query: Query) -> Json:
        rows = [tag for tag in self.values() if _among(query, "workspaceIds", {tag["workspaceId"]})]
        return {"data": [self.view(tag) for tag in rows]}

    def create(self, body: Json) -> Json:
        self.server.workspaces.find(body["workspaceId"])
        if len(body["name"]) > 30:
            raise _problem(400, "", "error:tag-name-too-long")
        if not re.fullmatch("[0-9A-Fa-f]{6}", body["color"]):
            raise _problem(400, "", "error:tag-invalid-hex-color")
        if any(
            tag["name"] == body["name"] for tag in self.index({"workspaceIds": body["workspaceId"]})["data"]
        ):
            raise _problem(409, "", "error:tag-already-exists")
        key = str(uuid.uuid4())
        self[key] = {"tagId": key, **{name: body[name] for name in ("workspaceId", "name", "color")}}
        return self.view(self[key])


class Jobs(_Resource):
    """A job goes one step on whenever it is read by its id; a list moves nothing."""

    def index(self, query: Query) -> Json:
        order = re.fullmatch(r"(createdAt|updatedAt)\|(ASC|DESC)", query.get("orderBy", "createdAt|ASC"))
        if order is None:
            raise _problem(400, f"Invalid order by clause provided: {query['orderBy']}")
        names = ("connectionId", "jobType", "status")
        rows = [job for job in self.values() if all(_among(query, name, {job[name]}) for name in names)]
        rows.sort(key=lambda job: (job[f"_{order[1]}"], job["jobId"]), reverse=order[2] == "DESC")
        return _page([self.view(job) for job in rows], query, "jobs")

    def create(self, body: Json) -> Json:
        key, kind = body["connectionId"], body["jobType"]
        active = self.server.connections.find(key)["status"] == "active"
        if kind == "refresh":
            raise _problem(422, "Refreshes are not supported in the public API")
        if kind == "sync" and not active:
            raise _problem(409, "Could not fulfill request")
        running = [job for job in self.values() if job["connectionId"] == key and job["status"] not in _ENDED]
        if kind == "sync" and running:
            raise _problem(409, f"A sync is already running for: {key}")
        steps, rows, size = self.server.scripts.pop(0) if self.server.scripts else self.server.usual_script
        number, now = len(self) + 1, self.server.now()
        job = {"jobId": number, "connectionId": key, "jobType": "sync" if kind == "sync" else "reset"}
        job |= {"startTime": _instant(now), "_createdAt": now, "_steps": [*steps[1:]], "_total": (rows, size)}
        self[str(number)] = job
        return self._move(job, steps[0])

    def read(self, key: str) -> Json:
        job = self.find(key)
        return self._move(job, job["_steps"].pop(0)) if job["_steps"] else self.view(job)

    def delete(self, key: str) -> Json:
        job = self.find(key)
        if job["status"] in _ENDED:
            raise _problem(409, "Job is not currently running")
        job["_steps"].clear()
        return self._move(job, "cancelled")

    def _move(self, job: Json, status: str) -> Json:
        now: datetime = self.server.now()
        job.update(status=status, _updatedAt=now, lastUpdatedAt=_instant(now) if status in _ENDED else None)
        if status not in {"pending", "queued"}:
            part = 1 if status == "succeeded" else 2
            rows, size = job["_total"]
            job["duration"] = f"PT{(now - job['_createdAt']).seconds}S"
            if rows is not None:
                job.update(rowsSynced=rows // part, bytesSynced=size // part)
        return self.view(job)


def _instant(moment: datetime) -> str:
    """As Java prints it: without the seconds where they are zero."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").replace(":00Z", "Z")


class Streams(_Resource):
    """Not kept: what discovery finds. A bare list, and the namespace's field is spelt as it is."""

    def index(self, query: Query) -> Any:
        source = self.server.sources.find(query.get("sourceId", ""))
        rows = [
            {
                "streamName": stream.name,
                "streamnamespace": stream.namespace,
                "syncModes": self.server.modes_of(stream, to) if (to := query.get("destinationId")) else None,
                "defaultCursorField": list(stream.cursor),
                "sourceDefinedCursorField": stream.cursor_is_fixed,
                "sourceDefinedPrimaryKey": [[field] for field in stream.key],
                "propertyFields": [[name] for name in reversed(stream.fields)],  # 4.4 rule 10
            }
            for stream in self.server.discover(source, ignore_cache=query.get("ignoreCache") == "true")
        ]
        return [self.view(row) for row in reversed(rows)]  # 4.4 rule 10


class FakeAirbyte:
    """`with FakeAirbyte() as server:` listens at `server.url`; the API is below /api/public/v1."""

    def __init__(self, *, token_seconds: float = 900) -> None:
        self.token_seconds = token_seconds
        self.client_id, self.client_secret = str(uuid.uuid4()), secrets.token_hex(8)
        self.username, self.password = "airbyte", secrets.token_hex(8)
        self.workspaces, self.tags = _Resource(self, "workspace"), Tags(self, "tag")
        self.sources, self.destinations = Actors(self, "source"), Actors(self, "destination")
        self.connections, self.jobs = Connections(self, "connection"), Jobs(self, "job")
        self.streams = Streams(self, "stream")
        self.workspace_id = self.add_workspace("default")
        self.requests: list[Request] = []
        self.catalogs: dict[str, list[Discovered]] = {}  # by the source's name: what a discovery finds
        self.discoveries: list[str] = []  # the sources that were asked, rather than the cache
        self.forgotten: list[tuple[str, str]] = []  # (connection, stream): a change of mode lost its state
        self.custom_definitions: dict[str, str] = {}  # id -> type, which the real server gives as ""
        self.scripts: list[tuple[Sequence[str], int | None, int]] = []
        self.usual_script: tuple[Sequence[str], int | None, int] = (
            ("pending", "running", "succeeded"),
            100,
            10_000,
        )
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.lenient = False
        self.refuses_any_key = False  # 4.4 rule 4: older servers, of the source's own key too
        self.allows_sub_hourly = False  # 4.4 rule 6: what a server may be set to, for six fields
        self._cache: dict[tuple[str, str], list[Discovered]] = {}
        self._tokens: dict[str, float] = {}
        self._faults: list[_Fault] = []
        self._lock, self._closing = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.fake = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def add_workspace(self, name: str) -> str:
        key = str(uuid.uuid4())
        about = {"name": name, "dataResidency": "auto", "notifications": {}}
        self.workspaces[key] = {"workspaceId": key, **about}
        return key

    def modes(self, connection_id: str) -> dict[str, str]:
        """The sync mode each stream of a connection would be run with."""
        return {stream["name"]: stream["syncMode"] for stream in self.connections[connection_id]["_streams"]}

    def next_job(self, *statuses: str, rows: int | None = 100, size: int = 10_000) -> None:
        """The statuses that the next job to be created goes through, the first at once. rows None: untold."""
        self.scripts.append((statuses, rows, size))

    def fail_next(
        self, status: int, times: int = 1, *, body: Body = None, on: str = "", retry_after: float | None = 1
    ) -> None:
        """Answer so instead. `on` is how "METHOD /path" begins; without it, any request but a token's."""
        self._faults += [_Fault("fail", on, status, body, retry_after)] * times

    def hang_next(self, times: int = 1, *, on: str = "") -> None:
        """Take the request and never answer, until the server closes."""
        self._faults += [_Fault("hang", on)] * times

    def drop_next(self, times: int = 1, *, on: str = "", performed: bool = False) -> None:
        """Close the connection without an answer; `performed`: after doing what was asked."""
        self._faults += [_Fault("drop", on, performed=performed)] * times

    def expire_tokens(self) -> None:
        self._tokens.clear()

    def modes_of(self, stream: Discovered, destination_id: str) -> list[str]:
        modes = ["full_refresh_append", "full_refresh_overwrite", "incremental_append"]
        if self.destinations.find(destination_id)["destinationType"] != "s3":
            modes.append("incremental_deduped_history")
        return [mode for mode in modes if mode.startswith(stream.modes)]

    def discover(self, source: Json, *, ignore_cache: bool = False) -> list[Discovered]:
        """What was found when last looked; a configuration that was never looked at is looked at now."""
        key = (source["sourceId"], json.dumps(source["configuration"], sort_keys=True))
        if ignore_cache or key not in self._cache:
            self.discoveries.append(source["name"])
            self._cache[key] = list(self.catalogs.get(source["name"], []))
        return self._cache[key]

    def answer(self, request: Request) -> tuple[int, Any, dict[str, str]] | None:
        """Status, body and headers; None is no answer at all."""
        with self._lock:
            self.requests.append(request)
            fault = self._fault(f"{request.method} {request.path}")
            if fault is None or fault.performed:
                try:
                    status, body = self._perform(request)
                except Problem as problem:
                    status, body = problem.status, problem.body
                return None if fault else (status, body, {})
        if fault.kind == "hang":
            self._closing.wait()
        if fault.kind != "fail":
            return None
        limited = {"message": "You are being rate limited."} if fault.status == 429 else None
        waits = fault.status in {429, 503} and fault.retry_after is not None
        headers = {"Retry-After": f"{fault.retry_after:g}"} if waits else {}
        return fault.status, fault.body or limited or _problem(fault.status, "injected").body, headers

    def _fault(self, line: str) -> _Fault | None:
        for at, fault in enumerate(self._faults):
            if line.startswith(fault.on) if fault.on else line != "POST /applications/token":
                return self._faults.pop(at)
        return None

    def _perform(self, request: Request) -> tuple[int, Any]:
        if (request.method, request.path) == ("GET", "/health"):
            return 200, "Successful operation"
        if (request.method, request.path) == ("POST", "/applications/token"):
            return 200, self._token(self._valid("token", request.body))
        if not self._knows(request.headers.get("authorization", "")):
            raise Problem(401, {"message": "Unauthorized"})
        noun, _, key = request.path.strip("/").partition("/")
        verbs = {"GET": "read", "PATCH": "patch", "PUT": "replace", "DELETE": "delete"}
        verb = (verbs if key else {"GET": "index", "POST": "create"}).get(request.method, "")
        resources = (self.workspaces, self.sources, self.destinations, self.connections, self.streams)
        found = [r for r in (*resources, self.tags, self.jobs) if f"{r.noun}s" == noun]
        perform = getattr(found[0], verb, None) if found else None
        if perform is None:
            raise Problem(404, {"message": "Not Found"})
        arguments: list[Any] = [key] if key else []
        if verb in {"create", "patch", "replace"}:
            arguments.append(self._valid(f"{verb}_{found[0].noun}", request.body))
        result = perform(*arguments, *([request.query] if verb == "index" else []))
        return 204 if result is None else 200, result

    def _valid(self, operation: str, body: Any) -> Json:
        schema = _SCHEMA | {"$ref": f"#/operations/{operation}"}
        for error in Draft202012Validator(schema, format_checker=FormatChecker()).iter_errors(body):
            if not (self.lenient and error.validator == "additionalProperties"):
                raise _problem(400, f"{operation}: {error.json_path}: {error.message}")
        return dict(body)

    def _token(self, asked: Json) -> Json:
        if (asked["client_id"], asked["client_secret"]) != (self.client_id, self.client_secret):
            raise Problem(401, {"errorId": str(uuid.uuid4())})
        token = secrets.token_hex(16)
        self._tokens[token] = time.monotonic() + self.token_seconds
        return {"access_token": token, "token_type": "Bearer", "expires_in": int(self.token_seconds)}

    def _knows(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        if scheme == "Basic":
            return value == base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return scheme == "Bearer" and self._tokens.get(value, 0) > time.monotonic()


class _Http(ThreadingHTTPServer):
    fake: FakeAirbyte


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer
    server: _Http

    def respond(self) -> None:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = {name: ",".join(values) for name, values in parse_qs(url.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = url.path.removeprefix(_ROOT) if url.path.startswith(_ROOT) else f"/outside{url.path}"
        request = Request(self.command, path, query, json.loads(raw) if raw else None, headers)
        answer = self.server.fake.answer(request)
        if answer is None:
            self.close_connection = True
            return
        status, body, more = answer
        text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = respond  # noqa: N815 - names that http.server asks for

    def log_message(self, *_: object) -> None:
        """Quiet: `requests` says what came."""
