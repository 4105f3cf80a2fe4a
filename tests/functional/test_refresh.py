"""Building a model anew beside its table: in batches, taken up after a kill, swapped in one snapshot."""

from __future__ import annotations

import json
import threading
import time

import pytest

from lakeward.lake import open_lake
from tests.scratch import APPEND, MODEL, ScratchLake, launcher

pytestmark = pytest.mark.every_setting

WITH_NOTE = MODEL.replace("as word,", "as word,\n    'new' as note,")
TESTED = """
models:
  - name: int_shop__items
    columns:
      - name: word
        data_tests:
          - accepted_values: {arguments: {values: [a, b]}}
"""


def test_a_refresh_rebuilds_from_everything_landed_under_one_snapshot(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    for day in (1, 2, 3):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 15), word="a")
    lake.feed()
    before = lake.table("int_shop__items")
    lake.add_stream("shop/items", config={"batch_max_bytes": 1}, model=WITH_NOTE)

    (done,) = json.loads(lake.cli("refresh", "shop/items", "--json").stdout)["models"]

    assert done == {"model": "int_shop__items", "files": 3, "rows": 35, "error": None}
    assert lake.table("int_shop__items") == before
    assert lake.query("select distinct note from int_shop__items") == [("new",)]
    files = lake.query("select build, status, count(*) from meta.feeder_files group by all order by all")
    assert files == [(2, "applied", 3)]
    swaps = lake.query("select count(*) from lakehouse.snapshots() where commit_message like 'refresh%'")
    assert swaps == [(1,)]
    tables = (
        "select table_name from duckdb_tables() where schema_name = 'main' and database_name = 'lakehouse'"
    )
    assert lake.query(tables) == [("int_shop__items",)]
    assert "nothing pending" in lake.cli("feed").stdout
    lake.land("shop/items", 4, "a.parquet", range(100, 105))
    assert lake.feed()["shop/items"].files == 1
    assert len(lake.table("int_shop__items")) == 40


def test_a_refresh_reads_in_groups_what_one_statement_cannot(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "struct.parquet", range(5), word="struct")
    text = (
        "'{\"word\": \"text\"}' as attributes, timestamptz '2026-11-02 12:00:00+00' as _airbyte_extracted_at"
    )
    lake.land_sql("shop/items", 2, "text.parquet", f"select i as id, {text} from range(3, 8) as t(i)")
    lake.feed()
    before = lake.table("int_shop__items")
    assert {word for _, word in before} == {"struct", "text"}
    lake.cli("refresh", "shop/items")
    assert lake.table("int_shop__items") == before


def test_a_new_table_that_fails_its_tests_is_not_swapped_in(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.write("dag/processed/shop/int_shop__items.yml", TESTED)
    lake.land("shop/items", 1, "a.parquet", range(5), word="a")
    lake.feed()
    lake.land("shop/items", 2, "b.parquet", range(5), word="forbidden")

    failed = lake.cli("refresh", "shop/items", check=False)

    assert failed.returncode == 1
    assert (
        "not rebuilt: its tests fail on the new table: accepted_values_int_shop__items_word" in failed.stdout
    )
    assert {word for _, word in lake.table("int_shop__items")} == {"a"}
    assert lake.query("select max(build) from meta.feeder_files where model = 'int_shop__items'") == [(1,)]
    lake.land("shop/items", 3, "c.parquet", range(5), word="b")
    lake.cli("refresh", "shop/items")  # taken up: only the last file was missing
    assert {word for _, word in lake.table("int_shop__items")} == {"b"}
    assert lake.query(
        "select count(*) from meta.feeder_log where model = 'int_shop__items__next' and event = 'applied'"
    ) == [(3,)]


def test_a_file_the_new_sql_cannot_load_keeps_the_old_table(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for day, word in ((1, "7"), (2, "8"), (3, "nine")):
        lake.land("shop/items", day, f"{word}.parquet", range(day * 10, day * 10 + 5), word=word)
    lake.feed()
    before = lake.table("int_shop__items")
    number = MODEL.replace("attributes::JSON->>'$.word'", "cast(attributes::JSON->>'$.word' as int)")
    lake.add_stream("shop/items", model=number)

    failed = lake.cli("refresh", "shop/items", check=False)

    assert failed.returncode == 1
    assert "nine.parquet" in failed.stdout
    assert lake.table("int_shop__items") == before
    assert (
        lake.cli("quarantine", "list", "--json").stdout.strip() == "[]"
    )  # the old table's files are all well
    forgiving = number.replace("cast(", "try_cast(", 1)
    lake.add_stream("shop/items", model=forgiving)
    lake.cli("refresh", "shop/items")
    assert lake.query("select distinct word from int_shop__items order by all") == [(7,), (8,), (None,)]


def test_a_killed_refresh_is_taken_up_where_it_was(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    for day in range(1, 9):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 10))
    lake.feed()
    before = lake.table("int_shop__items")
    applied = (
        "select count(*) from meta.feeder_log where model = 'int_shop__items__next' and event = 'applied'"
    )
    refreshing = launcher().start("lakeward", "refresh", "shop/items", cwd=lake.root)
    while lake.query(applied)[0][0] < 3:
        time.sleep(0.05)
    refreshing.kill()
    refreshing.wait()
    assert lake.table("int_shop__items") == before
    lake.cli("refresh", "shop/items")
    assert lake.table("int_shop__items") == before
    assert lake.query(applied) == [(8,)]


def test_what_a_killed_refresh_built_from_a_file_that_is_gone_is_built_anew(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=APPEND)
    lake.write("dag/processed/shop/int_shop__items.yml", TESTED)
    lake.land("shop/items", 1, "a.parquet", range(5), word="a")
    lake.feed()
    bad = lake.land("shop/items", 2, "b.parquet", range(5, 10), word="forbidden")
    assert lake.cli("refresh", "shop/items", check=False).returncode == 1
    bad.unlink()
    lake.land("shop/items", 2, "b.parquet", range(5, 10), word="b")
    lake.cli("refresh", "shop/items")
    assert lake.table("int_shop__items") == [
        *((key, "a") for key in range(5)),
        *((key, "b") for key in range(5, 10)),
    ]


def test_feeders_leave_an_announced_stream_alone_and_say_so(lake: ScratchLake) -> None:
    from lakeward.announcement import announced

    lake.add_stream("shop/items")
    lake.add_stream("shop/others")
    for stream in ("shop/items", "shop/others"):
        lake.land(stream, 1, "a.parquet", range(5))
    lake.feed()
    for stream in ("shop/items", "shop/others"):
        lake.land(stream, 2, "b.parquet", range(5, 10))
    project = lake.project()
    with announced(project.streams[0], project.settings):
        fed = lake.cli("feed")
        assert "shop/items: left alone, being refreshed by" in fed.stderr
        assert fed.returncode == 0
        assert lake.cli("status").stdout.count("being refreshed") == 1
    assert len(lake.table("int_shop__items")) == 5
    assert len(lake.table("int_shop__others")) == 10
    lake.cli("feed")
    assert len(lake.table("int_shop__items")) == 10


@pytest.mark.slow
def test_a_refresh_ends_beside_a_feeder_that_never_rests(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    for day in range(1, 6):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 10))
    lake.feed()
    stop = threading.Event()
    landed = list(range(10, 60))

    def land_on() -> None:
        for number in range(200):
            if stop.wait(1):
                return
            lake.land("shop/items", 20, f"{number}.parquet", range(1000 + number, 1001 + number))
            landed.append(1000 + number)

    landing = threading.Thread(target=land_on)
    landing.start()
    watching = launcher().start("lakeward", "feed", "--watch", cwd=lake.root)
    try:
        lake.cli("refresh", "shop/items")
    finally:
        stop.set()
        landing.join()
        watching.kill()
        watching.wait()
    lake.cli("feed")
    assert [key for key, _ in lake.table("int_shop__items")] == sorted(landed)


def test_dbts_backup_that_a_killed_refresh_left_is_swept(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(5))
    lake.feed()
    with open_lake(lake.project().settings) as opened:
        assert opened is not None
        opened.query('create table main."int_shop__items__dbt_backup" as select 1 as a')
    lake.cli("refresh", "shop/items")
    assert lake.tables() == ["int_shop__items"]
