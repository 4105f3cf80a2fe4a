"""The nine flows of this repository, read by Airbyte's own connectors from stand-ins of the vendors' APIs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lakeward.connector import install
from lakeward.settings import inherited
from tests.e2e.connectors import INSTALLED, needed_python
from tests.scratch import REPOSITORY, ScratchLake
from tests.standins import Standin
from tests.standins.klaviyo import klaviyo_standin
from tests.standins.shopify import shopify_standin

CONNECTORS = {"klaviyo": "airbyte-source-klaviyo==2.13.1", "shopify": "airbyte-source-shopify==4.3.0"}
KEYS = {
    "klaviyo/profiles": "profile_id", "klaviyo/events": "event_id", "klaviyo/campaigns": "campaign_id",
    "klaviyo/flows": "flow_id", "klaviyo/metrics": "metric_id", "klaviyo/lists": "list_id",
    "shopify/orders": "order_id", "shopify/customers": "customer_id", "shopify/order_refunds": "refund_id",
}  # fmt: skip
# What is changed between the syncs, and the column that shows it. Events never change, and the connector does
# not read a refund again.
CHANGED = {
    "klaviyo/profiles": ("first_name", "first_name"), "klaviyo/campaigns": ("name", "campaign_name"),
    "klaviyo/flows": ("name", "flow_name"), "klaviyo/metrics": ("name", "metric_name"),
    "klaviyo/lists": ("name", "list_name"), "shopify/orders": ("note", "note"),
    "shopify/customers": ("last_name", "last_name"),
}  # fmt: skip


class Shop:
    def __init__(self, lake: ScratchLake, standins: dict[str, Standin]) -> None:
        self.lake = lake
        self.standins = standins
        shutil.copytree(REPOSITORY / "orchestration" / "dag", lake.project_dir / "dag", dirs_exist_ok=True)
        python = needed_python(">=3.10,<3.12") if sys.version_info[:2] >= (3, 12) else None
        for name, standin in standins.items():
            program = install(CONNECTORS[name], python, INSTALLED, inherited())
            reached = "\n".join(f"export {key}='{value}'" for key, value in standin.environment.items())
            through = lake.root / f"source-{name}"
            through.write_text(f'#!/bin/sh\n{reached}\nexec "{program}" "$@"\n')
            through.chmod(0o755)
            lake.write(
                f"sources/{name}.yml",
                json.dumps({"connector": f"./{through.name}", "config": _without_secrets(standin.config)}),
            )

    def sync_and_feed(self) -> dict[str, Any]:
        """What the sync reported, by stream."""
        done = self.lake.cli("sync", "--json")
        fed = self.lake.feed()
        assert not [report for report in fed.values() if report.failed or report.quarantined]
        return {
            report["stream"]: report
            for source in json.loads(done.stdout)["sources"]
            for report in source["streams"]
        }

    def sent(self) -> dict[str, set[str]]:
        """Ids of all records that a sync may bring, by stream."""
        return {
            stream: {str(one) for one in standin.records[name]} - {str(standin.too_old[name])}
            for stream, standin, name in self._streams()
        }

    def held(self) -> dict[str, set[str]]:
        return {
            stream: {str(one) for (one,) in self.lake.query(f"select {key} from {_table(stream)}")}
            for stream, key in KEYS.items()
        }

    def change(self) -> None:
        """One record of each stream changes, where it can, and one is new."""
        for stream, standin, name in self._streams():
            if stream in CHANGED:
                first = next(one for one in standin.records[name] if one != standin.too_old[name])
                standin.touch(name, first, **{CHANGED[stream][0]: "changed between the syncs"})
            standin.add(name)

    def _streams(self) -> Iterator[tuple[str, Standin, str]]:
        for stream in KEYS:
            source, _, name = stream.partition("/")
            yield stream, self.standins[source], name


@pytest.fixture
def shop(lake: ScratchLake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with ExitStack() as running:
        standins: dict[str, Standin] = {
            "klaviyo": running.enter_context(klaviyo_standin()),
            "shopify": running.enter_context(shopify_standin()),
        }
        monkeypatch.setenv("STANDIN_KEY", Standin.secret)
        yield Shop(lake, standins)


def test_nine_streams_hold_what_the_vendors_hold_after_each_of_two_syncs(shop: Shop) -> None:
    first = shop.sync_and_feed()
    assert shop.held() == shop.sent()
    assert {stream for stream, report in first.items() if report["sent"] == report["records"]} == {*KEYS}
    assert not [report for report in first.values() if report["error"] or report["nulled"]]

    shop.change()
    second = shop.sync_and_feed()
    assert shop.held() == shop.sent()
    for stream, (_, column) in CHANGED.items():
        counted = f"select count(*) from {_table(stream)} where {column} = 'changed between the syncs'"
        assert shop.lake.query(counted) == [(1,)], stream
        assert 2 <= second[stream]["records"] <= first[stream]["records"], stream
    ((orders, sales),) = shop.lake.query(
        "select count(*), sum(gross_sales) > 0 from int_shopify__orders where order_date is not null"
    )
    assert (orders, sales) == (len(shop.sent()["shopify/orders"]), True)


@pytest.mark.slow
def test_a_vendor_that_is_away_for_a_while_costs_patience_and_nothing_else(shop: Shop) -> None:
    shop.standins["klaviyo"].fail_next(2, 429, subject="profiles")
    shop.standins["shopify"].fail_next(1, 500, subject="orders")
    shop.sync_and_feed()
    assert shop.held() == shop.sent()


@pytest.mark.slow
def test_a_key_that_is_wrong_is_said_in_the_vendors_words(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_KEY", "of-another-shop")
    wrong = shop.lake.cli("sync", "klaviyo/profiles", check=False)
    assert wrong.returncode == 1
    assert "klaviyo/profiles: " in wrong.stderr
    assert "of-another-shop" not in wrong.stderr


def _without_secrets(config: Any) -> Any:
    """A configuration as a source file may have it."""
    if isinstance(config, dict):
        return {key: _without_secrets(value) for key, value in config.items()}
    return "${STANDIN_KEY}" if config == Standin.secret else config


def _table(stream: str) -> str:
    return f"int_{stream.replace('/', '__')}"
