"""Klaviyo's JSON:API as airbyte-source-klaviyo reads it: filters, sort order, cursors of links.next."""

from __future__ import annotations

import base64
import contextlib
import operator
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from tests.standins import UNUSUAL, Answer, Record, Request, Standin, id_maker

_URL = "https://a.klaviyo.com/api"
_CURSORS = {"events": "datetime", "campaigns": "updated_at"}
_COMPARISONS = {"greater-than": operator.gt, "greater-or-equal": operator.ge, "less-or-equal": operator.le}
_CONDITION = re.compile(r"(greater-than|greater-or-equal|less-or-equal|equals)\(([\w.]+),'?([^,()']*)'?\)")


@contextlib.contextmanager
def klaviyo_standin(*, count: int = 8, page_size: int = 3) -> Iterator[Klaviyo]:
    """Serves `count` records of each stream, the first of them older than the config's start_date."""
    api = Klaviyo(page_size=page_size)
    for stream in api.streams:
        api.populate(stream, count)
    with api.serving():
        yield api


class Klaviyo(Standin):
    """`records["campaign-messages"]` is no stream: it tells which channel a campaign belongs to."""

    host = "a.klaviyo.com"
    program = "source-klaviyo"
    streams = ("metrics", "lists", "profiles", "events", "campaigns", "flows")

    def __init__(self, *, page_size: int) -> None:
        super().__init__(page_size=page_size)
        self.records = {stream: {} for stream in (*self.streams, "campaign-messages")}
        self._ids = id_maker("klaviyo")

    @property
    def config(self) -> Record:
        return {"api_key": self.secret, "start_date": self.start.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def add(self, stream: str, *, at: datetime | None = None) -> str:
        at = at or datetime.now(UTC)
        n = len(self.records[stream])
        identity = (
            f"01K{next(self._ids):023d}" if stream in {"profiles", "campaigns"} else f"{next(self._ids):X}"
        )
        made = {
            "metrics": self._metric,
            "lists": self._list,
            "profiles": self._profile,
            "events": self._event,
            "campaigns": self._campaign,
            "flows": self._flow,
        }[stream](n, identity, at)
        link = {"self": f"{_URL}/{stream}/{identity}/"}
        record = {"type": stream.removesuffix("s"), "id": identity, **made, "links": link}
        self.records[stream][identity] = record
        return identity

    def touch(self, stream: str, identity: str, **attributes: Any) -> None:
        """Change attributes of a record, and date it now."""
        moment = {_cursor(stream): _time(stream, datetime.now(UTC))}
        self.records[stream][identity]["attributes"].update(attributes | moment)

    def answer(self, request: Request) -> Answer:
        if request.headers["Authorization"] != f"Klaviyo-API-Key {self.secret}":
            return self.failure(401)
        stream = request.subject
        if request.path.rstrip("/") != f"/api/{stream}" or stream not in self.streams:
            return self.failure(404)
        asked = request.query.get("filter", "")
        if not request.headers["Revision"] or re.sub(r"and\(|[,)]", "", _CONDITION.sub("", asked)):
            return self.failure(400)
        found = [record for record in self.records[stream].values() if self._meets(record, asked)]
        if order := request.query.get("sort"):
            key = order.removeprefix("-")
            found.sort(key=lambda record: _moment(record, key), reverse=order.startswith("-"))
        begin = _decoded(request.query.get("page[cursor]"))
        end = begin + min(self.page_size, int(request.query.get("page[size]", 100)))
        following = {**request.query, "page[cursor]": _encoded(end)}
        links = {
            "self": f"{_URL}/{stream}?{urlencode(request.query)}",
            "next": f"{_URL}/{stream}?{urlencode(following)}" if end < len(found) else None,
            "prev": None,
        }
        body: Record = {"data": [_shown(record, request) for record in found[begin:end]], "links": links}
        if "metric" in request.query.get("include", ""):
            named = {record["relationships"]["metric"]["data"]["id"] for record in found[begin:end]}
            body["included"] = [self.records["metrics"][identity] for identity in sorted(named)]
        return Answer(body)

    def failure(self, status: int) -> Answer:
        error = {"id": str(uuid.uuid4()), "status": status, "code": "error", "title": "Refused", "detail": ""}
        return Answer({"errors": [error]}, status, {"Retry-After": "1"} if status == 429 else {})

    def _meets(self, record: Record, conditions: str) -> bool:
        for name, field, value in _CONDITION.findall(conditions):
            if name == "equals":
                met = value in self._values(record, field)
            else:
                moment = record["attributes"].get(field) and _moment(record, field)
                met = moment is not None and _COMPARISONS[name](moment, datetime.fromisoformat(value))
            if not met:
                return False
        return True

    def _values(self, record: Record, field: str) -> set[str]:
        if field == "archived":
            return {str(record["attributes"]["archived"]).lower()}
        messages = record["relationships"]["campaign-messages"]["data"]
        known = self.records["campaign-messages"]
        return {known[message["id"]]["attributes"]["channel"] for message in messages}

    def _metric(self, n: int, identity: str, at: datetime) -> Record:
        name = ("Placed Order", "Opened Email", "Viewed Product", "Refunded Order")[n % 4]
        integration = {"object": "integration", "id": "0eMvjm", "name": "Shopify", "category": "eCommerce"}
        return {
            "attributes": {
                "name": name,
                "created": _time("metrics", at),
                "updated": _time("metrics", at),
                "integration": integration if n % 3 else None,
            },
            "relationships": {"flow-triggers": _related("metrics", identity, "flow-triggers")},
        }

    def _list(self, n: int, identity: str, at: datetime) -> Record:
        times = {"created": _time("lists", at), "updated": _time("lists", at)}
        kind = "double_opt_in" if n % 2 else "single_opt_in"
        names = ("profiles", "tags", "flow-triggers")
        return {
            "attributes": {"name": f"Liste n° {n} — été", **times, "opt_in_process": kind},
            "relationships": {name: _related("lists", identity, name) for name in names},
        }

    def _profile(self, n: int, identity: str, at: datetime) -> Record:
        place = {
            **dict.fromkeys(("address2", "region", "ip")),
            "address1": "12 Rue de l'Église",
            "city": "København",
            "country": "Denmark",
            "latitude": 55.6761 if n % 2 else "55.6761",
            "longitude": 12.5683,
            "zip": "0999",
            "timezone": "Europe/Copenhagen",
        }
        return {
            "attributes": {
                **dict.fromkeys(("anonymous_id", "organization", "title", "image")),
                "email": f"person{n}@example.com",
                "phone_number": "+4512345678" if n % 2 else None,
                "external_id": f"{n:08d}",
                "first_name": UNUSUAL["text"] if n == 2 else f"Person {n}",
                "last_name": "O'Neil",
                "locale": "da-DK",
                "created": _time("profiles", at),
                "updated": _time("profiles", at),
                "last_event_date": None,
                "location": place if n % 3 else None,
                "properties": {"$source": -6, "Favourite colour": "grøn", **(UNUSUAL if n == 2 else {})},
                "not_in_any_schema": {"since": "yesterday"},
                "predictive_analytics": {"historic_clv": 93.87, "historic_number_of_orders": n}
                if n
                else None,
            },
            "relationships": {name: _related("profiles", identity, name) for name in ("lists", "segments")},
        }

    def _event(self, n: int, identity: str, at: datetime) -> Record:
        metrics, profiles = list(self.records["metrics"]), list(self.records["profiles"])
        metric, profile = metrics[n % len(metrics)], profiles[n % len(profiles)]
        items = [{"SKU": "A-1", "Quantity": n, "ItemPrice": 12.5, "Categories": ["Sale", "T-shirts"]}]
        return {
            "attributes": {
                "timestamp": int(at.timestamp()),
                "event_properties": {
                    "$event_id": f"{n}:1",
                    "$value": 12.5 * n,
                    "Items": items,
                    "$extra": None,
                },
                "datetime": _time("events", at),
                "uuid": str(uuid.UUID(int=next(self._ids))),
            },
            "relationships": {
                "profile": _related("events", identity, "profile", {"type": "profile", "id": profile}),
                "metric": _related("events", identity, "metric", {"type": "metric", "id": metric}),
                "attributions": _related("events", identity, "attributions", []),
            },
        }

    def _campaign(self, n: int, identity: str, at: datetime) -> Record:
        message = f"01M{next(self._ids):023d}"
        channel = {"channel": "sms" if n % 3 == 0 else "email"}
        self.records["campaign-messages"][message] = {"id": message, "attributes": channel}
        time = _time("campaigns", at)
        data = [{"type": "campaign-message", "id": message}]
        return {
            "attributes": {
                "name": f"Été {n} 🌞",
                "status": "Sent" if n % 2 else "Draft",
                "archived": n % 4 == 3,
                "audiences": {"included": ["Y6nRLr"], "excluded": []},
                "send_options": {"use_smart_sending": True},
                "tracking_options": {"add_tracking_params": False, "custom_tracking_params": None},
                "send_strategy": {"method": "immediate"} if n % 2 else None,
                "created_at": time,
                "scheduled_at": None,
                "updated_at": time,
                "send_time": time if n % 2 else None,
            },
            "relationships": {
                "campaign-messages": _related("campaigns", identity, "campaign-messages", data),
                "tags": _related("campaigns", identity, "tags"),
            },
        }

    def _flow(self, n: int, identity: str, at: datetime) -> Record:
        actions = [{"type": "flow-action", "id": str(number)} for number in range(n % 3)]
        return {
            "attributes": {
                "name": f"Welcome series {n}",
                "status": ("draft", "manual", "live")[n % 3],
                "archived": n % 4 == 3,
                "created": _time("flows", at),
                "updated": _time("flows", at),
                "trigger_type": "Added to List",
            },
            "relationships": {
                "flow-actions": _related("flows", identity, "flow-actions", actions),
                "tags": _related("flows", identity, "tags"),
            },
        }


def _related(stream: str, identity: str, name: str, data: Any = None) -> Record:
    base = f"{_URL}/{stream}/{identity}"
    links = {"self": f"{base}/relationships/{name}/", "related": f"{base}/{name}/"}
    return {"links": links} if data is None else {"data": data, "links": links}


def _shown(record: Record, request: Request) -> Record:
    """Predictive analytics only where they are asked for."""
    if request.query.get("additional-fields[profile]") == "predictive_analytics":
        return record
    shown = {key: value for key, value in record["attributes"].items() if key != "predictive_analytics"}
    return {**record, "attributes": shown}


def _cursor(stream: str) -> str:
    return _CURSORS.get(stream, "updated")


def _time(stream: str, at: datetime) -> str:
    """As each stream writes it: events with a space, campaigns with microseconds."""
    precision = "microseconds" if stream == "campaigns" else "seconds"
    return at.isoformat(sep=" " if stream == "events" else "T", timespec=precision)


def _moment(record: Record, field: str) -> datetime:
    return datetime.fromisoformat(record["attributes"][field])


def _encoded(position: int) -> str:
    return base64.urlsafe_b64encode(f"next::{position}".encode()).decode()


def _decoded(cursor: str | None) -> int:
    return int(base64.urlsafe_b64decode(cursor).decode().rpartition(":")[2]) if cursor else 0
