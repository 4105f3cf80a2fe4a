"""Shopify's REST Admin API as airbyte-source-shopify reads it: orders with refunds in them, customers."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

from tests.standins import UNUSUAL, Answer, Record, Request, Standin, id_maker

_SHOP = "lakeward-standin"
_ZONE = timezone(timedelta(hours=-5))  # a shop's own: every time it gives has it
_FILTERS = {"updated_at_min": "updated_at", "created_at_min": "created_at"}


@contextlib.contextmanager
def shopify_standin(*, count: int = 8, page_size: int = 3) -> Iterator[Shopify]:
    """Serves `count` customers and orders, half as many refunds, the first of each older than start_date."""
    api = Shopify(page_size=page_size)
    api.populate("customers", count)
    api.populate("orders", count)
    api.populate("order_refunds", count // 2)
    with api.serving():
        yield api


class Shopify(Standin):
    """Ids are numbers. `records["events"]` is no stream: the deletions that the orders stream reads too.

    The API gives refunds only as part of their order, so a new refund moves the order's `updated_at`.
    """

    host = "*.myshopify.com"
    program = "source-shopify"
    streams = ("customers", "orders", "order_refunds")

    def __init__(self, *, page_size: int) -> None:
        super().__init__(page_size=page_size)
        self.records = {stream: {} for stream in (*self.streams, "events")}
        self._ids = id_maker("shopify")

    @property
    def config(self) -> Record:
        credentials = {"auth_method": "api_password", "api_password": self.secret}
        return {"shop": _SHOP, "credentials": credentials, "start_date": f"{self.start:%Y-%m-%d}"}

    def add(self, stream: str, *, at: datetime | None = None) -> int:
        """A refund goes to the order that was last changed before it."""
        at = at or datetime.now(UTC)
        n, identity = len(self.records[stream]), next(self._ids)
        make = {"customers": self._customer, "orders": self._order, "order_refunds": self._refund}[stream]
        self.records[stream][identity] = make(n, identity, at)
        return identity

    def touch(self, stream: str, identity: int, **fields: Any) -> None:
        """Change fields of a record, and date it, or a refund's order, now."""
        record = self.records[stream][identity]
        record.update(fields)
        changed = self.records["orders"][record["order_id"]] if stream == "order_refunds" else record
        changed["updated_at"] = _time(datetime.now(UTC))

    def delete(self, identity: int) -> None:
        """Delete an order: what is left is the event that says so."""
        order, event = self.records["orders"].pop(identity), next(self._ids)
        self.records["events"][event] = {
            "id": event,
            "subject_id": identity,
            "subject_type": "Order",
            "verb": "destroy",
            "created_at": _time(datetime.now(UTC)),
            "message": f"Order {order['name']} was deleted.",
            "description": None,
        }

    def answer(self, request: Request) -> Answer:
        if request.headers["X-Shopify-Access-Token"] != self.secret:
            return self.failure(401)
        match request.path.split("/")[1:]:
            case ["admin", "oauth", "access_scopes.json"]:
                return Answer({"access_scopes": [{"handle": "read_orders"}, {"handle": "read_customers"}]})
            case ["admin", "api", _, "shop.json"]:
                return Answer({"shop": {"id": 1, "name": _SHOP, "currency": "EUR"}}, headers=_CALLS)
            case ["admin", "api", _, "orders.json" | "customers.json" | "events.json"]:
                return self._page(request)
        return self.failure(404)

    def failure(self, status: int) -> Answer:
        return Answer(
            {"errors": f"refused with {status}"}, status, {"Retry-After": "1"} if status == 429 else {}
        )

    def _page(self, request: Request) -> Answer:
        query, begin = dict(request.query), 0
        if "page_info" in query:
            if set(query) - {"limit", "page_info"}:
                return self.failure(400)
            query, begin = json.loads(base64.urlsafe_b64decode(query["page_info"]))
        found = [record for record in self.records[request.subject].values() if _meets(record, query)]
        if order := query.get("order"):
            key, _, direction = order.partition(" ")
            found.sort(key=lambda record: _moment(record[key]), reverse=direction == "desc")
        if request.subject == "orders":
            found = [self._with_refunds(order) for order in found]
        limit = int(request.query.get("limit", 50))
        end = begin + min(self.page_size, limit)
        headers = dict(_CALLS)
        if end < len(found):
            place = base64.urlsafe_b64encode(json.dumps([query, end]).encode()).decode()
            following = urlencode({"limit": limit, "page_info": place})
            headers["Link"] = f'<https://{_SHOP}.myshopify.com{request.path}?{following}>; rel="next"'
        return Answer({request.subject: found[begin:end]}, headers=headers)

    def _with_refunds(self, order: Record) -> Record:
        refunds = self.records["order_refunds"].values()
        return {**order, "refunds": [refund for refund in refunds if refund["order_id"] == order["id"]]}

    def _customer(self, n: int, identity: int, at: datetime) -> Record:
        consent = {"state": "subscribed", "opt_in_level": "single_opt_in", "consent_updated_at": _time(at)}
        address = {"id": identity + 1, "customer_id": identity, **_address(n), "default": True}
        return {
            **_named("Customer", identity),
            "email": f"person{n}@example.com" if n % 3 else None,
            "created_at": _time(at - timedelta(days=1)),
            "updated_at": _time(at),
            "first_name": UNUSUAL["text"] if n == 2 else f"Person {n}",
            "last_name": None if n == 3 else "O'Neil",
            "orders_count": n,
            "state": "enabled",
            "total_spent": f"{n * 19.9:.2f}",
            "last_order_id": None,
            "note": UNUSUAL["long"] if n == 2 else None,
            "tax_exempt": False,
            "tags": "vip, été",
            "currency": "EUR",
            "phone": "+4512345678",
            "addresses": [address],
            "tax_exemptions": [],
            "email_marketing_consent": consent,
            "sms_marketing_consent": {**consent, "consent_collected_from": "SHOPIFY"} if n % 2 else None,
            "default_address": address,
            "not_in_any_schema": UNUSUAL if n == 2 else "x",
        }

    def _order(self, n: int, identity: int, at: datetime) -> Record:
        customers = list(self.records["customers"].values())
        lines = [self._line(n, line) for line in range(1 + n % 3)]
        price = f"{sum(float(line['price']) * line['quantity'] for line in lines):.2f}"
        totals = ("subtotal_price", "total_line_items_price", "total_price", "current_total_price")
        zeros = ("total_discounts", "total_tax", "current_total_tax", "current_total_discounts")
        return {
            **_named("Order", identity),
            **dict.fromkeys(totals, price),
            **{f"{key}_set": _money(price) for key in totals},
            **dict.fromkeys(zeros, "0.00"),
            **{f"{key}_set": _money("0.00") for key in zeros},
            **dict.fromkeys(("app_id", "cancel_reason", "cancelled_at", "fulfillment_status", "phone")),
            "browser_ip": "127.0.0.1",
            "buyer_accepts_marketing": False,
            "client_details": {"accept_language": "fr-FR", "browser_height": None, "browser_width": 1280},
            "closed_at": _time(at) if n % 2 else None,
            "confirmed": True,
            "created_at": _time(at - timedelta(hours=2)),
            "currency": "EUR",
            "discount_applications": [_DISCOUNT] if n % 2 else [],
            "discount_codes": [{"code": "ÉTÉ-10", "amount": "1.25", "type": "percentage"}] if n % 2 else [],
            "email": f"person{n}@example.com",
            "financial_status": "paid",
            "name": f"#{1001 + n}",
            "note": UNUSUAL["long"] if n == 2 else None,
            "note_attributes": [{"name": "gift-wrap", "value": UNUSUAL["text"]}] if n == 2 else [],
            "number": n + 1,
            "order_number": 1001 + n,
            "payment_gateway_names": ["bogus", "gift_card"],
            "processed_at": _time(at - timedelta(hours=2)),
            "source_name": "web",
            "tags": "",
            "tax_lines": [],
            "taxes_included": True,
            "test": False,
            "total_weight": 400 * n,
            "updated_at": _time(at),
            "billing_address": _address(n),
            "shipping_address": _address(n) if n % 3 else None,
            "customer": customers[n % len(customers)] if n % 4 else None,
            "fulfillments": [],
            "line_items": lines,
            "shipping_lines": [],
            "not_in_any_schema": UNUSUAL if n == 2 else "x",
        }

    def _line(self, n: int, line: int) -> Record:
        return {
            **_named("LineItem", next(self._ids)),
            "fulfillable_quantity": line,
            "grams": 200,
            "name": "T-shirt / 東京",
            "price": f"{12.5 * (line + 1):.2f}",
            "price_set": _money(f"{12.5 * (line + 1):.2f}"),
            "product_id": 632910392 + line if n != 5 else None,
            "properties": [{"name": "engraving", "value": "❤"}] if line else [],
            "quantity": 1 + line,
            "sku": f"00{n}-{line}",
            "taxable": True,
            "title": "T-shirt",
            "variant_id": None,
            "vendor": None,
            "tax_lines": [{"title": "VAT", "price": "2.50", "rate": 0.2, "price_set": _money("2.50")}],
            "discount_allocations": [],
        }

    def _refund(self, n: int, identity: int, at: datetime) -> Record:
        before = [order for order in self.records["orders"].values() if _moment(order["updated_at"]) <= at]
        order = max(before, key=lambda order: _moment(order["updated_at"]))
        order["updated_at"] = _time(at)
        line = order["line_items"][0]
        back = {"id": next(self._ids), "line_item_id": line["id"], "line_item": line, "quantity": 1}
        amount = {"subtotal": float(line["price"]), "subtotal_set": _money(line["price"]), "total_tax": 0.0}
        paid = {"amount": line["price"], "currency": "EUR", "kind": "refund", "status": "success"}
        return {
            **_named("Refund", identity),
            "order_id": order["id"],
            "created_at": _time(at),
            "processed_at": _time(at),
            "note": UNUSUAL["text"] if n == 2 else None,
            "restock": bool(n % 2),
            "user_id": None,
            "order_adjustments": [],
            "refund_line_items": [back | amount],
            "transactions": [{**_named("OrderTransaction", next(self._ids)), **paid}],
            "duties": [],
            "total_duties_set": _money("0.00"),
            "not_in_any_schema": "x",
        }


_CALLS = {"X-Shopify-Shop-Api-Call-Limit": "1/40"}  # without it the connector sleeps a second per answer
_DISCOUNT = {
    "type": "discount_code",
    "code": "ÉTÉ-10",
    "value": "10.0",
    "value_type": "percentage",
    "allocation_method": "across",
}


def _meets(record: Record, query: dict[str, str]) -> bool:
    """Open orders only, unless any status is asked for, as the API has it."""
    if query.get("status") != "any" and (record.get("closed_at") or record.get("cancelled_at")):
        return False
    asked = [(record[field], query[name]) for name, field in _FILTERS.items() if name in query]
    return all(_moment(value) >= _moment(limit) for value, limit in asked)


def _money(amount: str) -> Record:
    money = {"amount": amount, "currency_code": "EUR"}
    return {"shop_money": money, "presentment_money": {**money}}


def _named(kind: str, identity: int) -> Record:
    return {"id": identity, "admin_graphql_api_id": f"gid://shopify/{kind}/{identity}"}


def _address(n: int) -> Record:
    return {
        "first_name": f"Person {n}",
        "last_name": "O'Neil",
        "address1": "12 Rue de l'Église",
        "address2": None,
        "city": "København",
        "zip": "0999",
        "country": "Denmark",
        "country_code": "DK",
        "phone": None,
    }


def _time(at: datetime) -> str:
    return at.astimezone(_ZONE).isoformat(timespec="seconds")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=_ZONE)
