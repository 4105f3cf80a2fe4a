"""The shipped flows under `lakeward up`, as a person meets them: files land, and the graph shows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.functional.conftest import shipped_flows
from tests.functional.serving import Up, serving
from tests.scratch import REPOSITORY, remove_catalog, scratch_lake

PICTURES = REPOSITORY / "tests" / "pictures"  # what the tests have seen; git-ignored


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, sample_shop: Path) -> Iterator[Up]:
    lake = scratch_lake(tmp_path_factory.mktemp("up"))
    shipped_flows(lake, "shopify")
    with serving(lake) as served:
        for stream in ("orders", "order_refunds"):
            shutil.copytree(sample_shop / "raw/shopify" / stream, lake.landing / "raw/shopify" / stream)
        yield served
    remove_catalog(lake.root)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield browser.new_page(viewport={"width": 2200, "height": 1000})
        browser.close()


def test_what_lands_is_in_fct_sales_with_no_hand(up: Up) -> None:
    up.wait(lambda: "fct_sales" in up.lake.tables())
    ((landed,),) = up.lake.query("select count(*) from int_shopify__orders")
    assert up.lake.query("select count(*) from fct_sales") == [(landed,)]
    assert landed > 100
    up.wait(lambda: {status for _, status in up.runs()} == {"SUCCESS"})
    assert up.builds("fct_sales") == ["built"]


def test_the_graph_shows_landing_feeders_models_and_mart_with_their_status(up: Up, page: Page) -> None:
    up.wait(lambda: "fct_sales" in up.lake.tables())
    page.goto(f"{up.url}/asset-groups")
    page.get_by_text("Skip", exact=True).click(timeout=60_000)  # its welcome
    page.get_by_text("sales", exact=True).first.wait_for(timeout=60_000)
    page.keyboard.press("Alt+e")  # all groups expanded
    for name in ("orders", "shopify_orders", "int_shopify__orders", "order_refunds", "fct_sales"):
        page.get_by_text(name, exact=True).first.wait_for(timeout=60_000)
    materialized = page.get_by_text("Materialized", exact=True)
    materialized.nth(4).wait_for(timeout=60_000)  # two feeders, their models, the mart
    PICTURES.mkdir(exist_ok=True)
    page.screenshot(path=PICTURES / "graph.png")
    assert materialized.count() == 5


def test_the_form_of_a_replay_is_filled_in(up: Up, page: Page) -> None:
    page.goto(f"{up.url}/locations/definitions.py/jobs/replay/playground")
    page.get_by_text("shopify/customers").first.wait_for(timeout=60_000)
    page.screenshot(path=PICTURES / "replay.png")
    page.get_by_role("button", name="Launch Run").wait_for()
