"""A lake that was lost is restored from yesterday's backup, and catches up with today's landing zone."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.functional.test_doctor import looked
from tests.functional.test_two_writers import held
from tests.scratch import APPEND, ScratchLake
from tests.servers import PostgresServer

MODELS = ("int_shop__items", "int_shop__items_log", "fct_words")


@pytest.fixture
def kept(lake: ScratchLake) -> ScratchLake:
    """Three days fed, into a model with a key, one without, and a mart."""
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    lake.write("dag/processed/shop/int_shop__items_log.sql", APPEND.replace("SOURCE__STREAM", "shop__items"))
    lake.write(
        "dag/enriched/fct_words.sql",
        "{{ config(tags=['enriched'], materialized='table') }} "
        "select word, count(*) as rows from {{ ref('int_shop__items') }} group by word",
    )
    for day in range(1, 4):
        lake.land("shop/items", day, "0.parquet", range(day * 10, day * 10 + 15), word=f"day {day}")
    lake.cli("run")
    return lake


def tables(lake: ScratchLake) -> dict[str, list[tuple[object, ...]]]:
    return {model: lake.query(f"select * from {model} order by all") for model in MODELS}


def test_a_restored_catalog_and_todays_landing_zone_end_in_the_right_tables(
    kept: ScratchLake, postgres: PostgresServer
) -> None:
    name = os.environ["LAKEWARD_CATALOG_URL"].rpartition("/")[2]
    data, copy = kept.root / ".lake" / "data", kept.root / "copy"
    kept.land("shop/items", 4, "0.parquet", range(35, 60), word="day 4")
    with held(kept, "commit", "lakeward", "feed") as feeding:  # a batch is at work meanwhile
        dump = postgres.dump(name)
    assert feeding.wait(120).returncode == 0
    shutil.copytree(data, copy)

    kept.land("shop/items", 2, "late.parquet", range(20, 25), word="late", at="2026-11-05 12:00:00+00")
    kept.land("shop/items", 5, "0.parquet", range(50, 80), word="day 5")
    kept.cli("refresh", "shop/items")
    kept.cli("run")
    wanted = tables(kept)

    postgres.drop_database(name)
    shutil.rmtree(data)
    postgres.restore(dump, name)
    shutil.copytree(copy, data)
    found = looked(kept, "--deep")
    assert found.keys() == {"landed files"}
    assert "3 of 6 are not in the ledger" in found["landed files"]["told"]
    assert "day 5" not in str(tables(kept))
    kept.cli("run")
    assert tables(kept) == wanted
    assert looked(kept, "--deep") == {}
    assert "nothing pending" in kept.cli("feed").stdout


def test_data_that_is_older_than_its_catalog_is_noticed(kept: ScratchLake, postgres: PostgresServer) -> None:
    data, copy = kept.root / ".lake" / "data", kept.root / "copy"
    shutil.copytree(data, copy)
    kept.land("shop/items", 4, "0.parquet", range(35, 60), word="day 4")
    kept.cli("feed")
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    found = looked(kept, "--deep")["data files"]
    assert found["state"] == "failed"
    assert "are not there" in found["told"]
    kept.cli("refresh", "shop/items")
    assert len(kept.table("int_shop__items")) == 50
