"""Plain dbt inside orchestration/: no wrapper, no flags, no exported variables; same ledger, same safety."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.functional.conftest import shipped_lake
from tests.scratch import APPEND, MODEL, ScratchLake

SEED_SNIPPET = """
{{ config(tags=['enriched'], materialized='table') }}

select
    o.order_id,
    o.order_date,
    o.gross_sales,
    o.discounts,
    coalesce(r.returns, 0) as returns,
    o.gross_sales - o.discounts - coalesce(r.returns, 0) as net_sales

from {{ ref('int_shopify__orders') }} o
left join {{ ref('int_shopify__order_refunds') }} r on o.order_id = r.order_id

order by order_date
"""


def test_every_dbt_command_works_on_the_shipped_lake_with_the_embedded_catalog(
    embedded_lake: ScratchLake, sample_shop: Path
) -> None:
    lake = shipped_lake(embedded_lake, sample_shop, "shopify", "klaviyo")
    lake.write("dag/enriched/sales/fct_scratch.sql", SEED_SNIPPET)  # the seed's, verbatim
    lake.dbt("parse")
    files = [str(path) for path in sorted((lake.landing / "raw/shopify/orders").rglob("*.parquet"))]
    lake.dbt("run", "--select", "tag:shopify__orders", "--vars", json.dumps({"files": files[:2]}))
    assert len(lake.events()) == 2
    lake.dbt("run", "--select", "tag:shopify__orders")  # absent: what is pending
    assert len(lake.events()) == len(files)
    lake.dbt("run", "--full-refresh", "-s", "int_shopify__orders")
    assert lake.cli("feed", "shopify/orders").stdout.startswith("nothing pending")
    lake.dbt("build")
    lake.dbt("run", "--select", "tag:enriched")
    lake.dbt("test")
    lake.dbt("docs", "generate")
    assert lake.query("select count(*) > 0, count(*) = count(distinct order_id) from fct_sales") == [
        (True, True)
    ]
    one_per_order = (
        "select count(*) from fct_sales where order_id in (select order_id from int_shopify__orders)"
    )
    assert lake.query(one_per_order) == lake.query("select count(*) from int_shopify__orders")


def test_files_typed_by_hand_are_loaded_once_however_often_they_are_given(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=APPEND)
    path = lake.land("shop/items", 1, "a.parquet", range(10))
    given = ["--vars", json.dumps({"files": [str(path)]})]
    lake.dbt("run", "--select", "tag:shop__items", *given)
    lake.dbt("run", "--select", "tag:shop__items", *given)
    assert lake.query("select count(*) from int_shop__items") == [(10,)]
    assert lake.feed()["shop/items"].batches == 0


def test_a_file_outside_the_streams_root_is_refused_by_name(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.add_stream("shop/others")
    lake.land("shop/items", 1, "a.parquet", range(10))
    foreign = lake.land("shop/others", 1, "b.parquet", range(10))
    done = lake.dbt(
        "run", "--select", "tag:shop__items", "--vars", json.dumps({"files": [str(foreign)]}), check=False
    )
    assert done.returncode == 1
    assert "b.parquet does not belong to shop/items" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_run_while_nothing_has_landed_is_a_clear_error_and_compile_works(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.dbt("compile")
    done = lake.dbt("run", check=False)
    assert done.returncode == 1
    assert "nothing has landed yet for shop/items" in done.stdout
    assert "Traceback" not in done.stdout


def test_other_variables_and_defaults_behave_as_in_dbt(lake: ScratchLake) -> None:
    lake.add_stream(
        "shop/items", model=MODEL.replace("word,", 'word, \'{{ var("colour", "red") }}\' as colour,')
    )
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.dbt("run", "--vars", "{colour: blue}")
    assert lake.query("select distinct colour from int_shop__items") == [("blue",)]
    lake.add_stream("shop/items", model=MODEL.replace("word,", "word, '{{ var(\"colour\") }}' as colour,"))
    done = lake.dbt("run", check=False)
    assert "Required var 'colour' not found" in done.stdout


def test_a_table_dropped_by_hand_is_built_again_from_everything(lake: ScratchLake) -> None:
    from lakeward.lake import open_lake

    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.feed()
    with open_lake(lake.project().settings) as opened:
        assert opened is not None
        opened.query("drop table main.int_shop__items")
    lake.land("shop/items", 2, "b.parquet", range(10, 12))
    lake.feed()
    assert len(lake.table("int_shop__items")) == 12
    assert lake.query("select distinct build from meta.feeder_files") == [(2,)]


def test_a_shop_without_refunds_has_its_fct_sales_with_returns_zero(shopify: ScratchLake) -> None:
    import shutil

    shutil.rmtree(shopify.landing / "raw/shopify/order_refunds")
    shopify.cli("run")
    assert shopify.query("select count(*) from int_shopify__order_refunds") == [(0,)]
    rows, returned = shopify.query("select count(*), sum(returns) from fct_sales")[0]
    assert rows > 0
    assert returned == 0


@pytest.mark.slow
def test_nothing_but_the_catalog_is_written_outside_the_lake(embedded_lake: ScratchLake) -> None:
    """No extension, spill or settings file lands in the home folder."""
    embedded_lake.add_stream("shop/items")
    embedded_lake.land("shop/items", 1, "a.parquet", range(3))
    home = embedded_lake.root / "home"
    home.mkdir()
    import os
    import subprocess
    import sys

    for program in (["lakeward", "feed"], ["lakeward", "status"]):
        subprocess.run(
            [str(Path(sys.executable).parent / program[0]), program[1]],
            cwd=embedded_lake.root, check=True, capture_output=True, env={**os.environ, "HOME": str(home)},
        )  # fmt: skip
    assert list(home.rglob("*")) == []


def test_a_mart_built_empty_is_to_be_built_again(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.write("dag/enriched/fct_items.sql", "{{ config(tags=['enriched'], materialized='table') }}\n"
               "select item_id from {{ ref('int_shop__items') }}")  # fmt: skip
    lake.land("shop/items", 1, "a.parquet", range(3))
    assert "int_shop__items: 1 files to load" in lake.dbt("run").stdout
    lake.dbt("run", "--empty", "-s", "fct_items")
    assert "built fct_items (its last build failed)" in lake.cli("build").stdout
    assert lake.query("select count(*) from fct_items") == [(3,)]


def test_a_day_is_that_of_utc_whatever_the_machine_takes_for_its_zone(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    shown = subprocess.run(
        [
            Path(sys.executable).with_name("dbt"), "--quiet", "show", "--output", "json", "--inline",
            "select '2026-11-25 23:30:00+00'::timestamptz::date::varchar as day, "
            "current_setting('ducklake_max_retry_count') as retries",
        ],
        cwd=lake.project_dir, env=dict(os.environ) | {"TZ": "Asia/Tokyo"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout)["show"] == [{"day": "2026-11-25", "retries": 100}]
