"""Syncs without a server: what a connector sends lands once, and goes on from there.

The connector is one of ours (tests/fakes/source_counting.py); tests/e2e has real ones.
"""

from __future__ import annotations

import json
from typing import Any

import duckdb

from tests.shop import Shop


def test_a_sync_lands_what_is_new_and_goes_on_from_there(shop: Shop) -> None:
    first = shop.sync()
    assert first.returncode == 0, first.stderr
    assert "landed 2 files, 30 records" in first.stdout
    assert "nothing new in 2 streams" in shop.sync().stdout

    shop.says(streams={"items": 40, "notes": 5})
    assert "landed 1 file, 15 records" in shop.sync("shop/items").stdout
    assert shop.landed("items") == list(range(40))
    assert shop.landed("notes") == list(range(5))

    shop.lake.feed()
    assert shop.lake.query("select item_id from int_shop__items order by all") == [(n,) for n in range(40)]


def test_the_report_can_be_read_by_a_script(shop: Shop) -> None:
    report = json.loads(shop.sync("--json").stdout)
    (source,) = report["sources"]
    items = source["streams"][0]
    assert (items["stream"], items["mode"]) == ("shop/items", "incremental")
    assert (items["records"], items["sent"], items["files"], items["error"]) == (25, 25, 1, None)


def test_one_state_for_all_streams_lands_all_or_what_it_speaks_of(shop: Shop) -> None:
    shop.says(scope="GLOBAL", die_at=17)
    assert shop.sync().returncode == 1
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(10)), [])
    shop.says(die_at=None)
    assert shop.sync().returncode == 0
    shop.says(streams={"items": 30, "notes": 6})
    assert shop.sync().returncode == 0
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(30)), list(range(6)))


def test_a_source_that_cannot_go_on_is_landed_whole_each_time_or_not_at_all(shop: Shop) -> None:
    shop.says(modes=["full_refresh"], die_at=17)
    failed = shop.sync("shop/items")
    assert failed.returncode == 1
    assert "all of it is read and landed each time" in failed.stderr
    assert shop.landed() == []
    shop.says(die_at=None)
    for times in (1, 2):
        assert shop.sync("shop/items").returncode == 0
        assert shop.landed() == sorted([*range(25)] * times)


def test_values_that_do_not_fit_are_null_and_counted(shop: Shop) -> None:
    shop.says(schema={"word": {"type": "string"}, "count": {"type": "integer"}}, extra={"count": "many"})
    told = shop.sync("shop/items")
    assert told.returncode == 0
    assert "25 values did not fit their type" in told.stderr
    shop.lake.feed("shop/items")
    ((field, change),) = shop.lake.query(
        "select distinct changes[1].field, changes[1].change from int_shop__items"
    )
    assert (field, change) == ("count", "NULLED")


def test_status_compares_what_was_sent_landed_and_loaded(shop: Shop) -> None:
    shop.says(schema={"count": {"type": "integer"}}, extra={"count": "many"})
    shop.sync("shop/items")

    def items() -> dict[str, Any]:
        told = json.loads(shop.lake.cli("status", "--json", check=False).stdout)
        return next(each for each in told["streams"] if each["stream"] == "shop/items")

    before = items()["last_sync"]
    assert (before["sent"], before["landed"], before["applied"]) == (25, 25, None)
    shop.lake.feed("shop/items")
    after = items()
    assert (after["last_sync"]["applied"], after["nulled"], after["red"]) == (25, 25, False)

    shop.says(die_at=27, streams={"items": 30, "notes": 5})
    shop.sync("shop/items")
    assert items()["red"]
    notes = shop.lake.cli("status", check=False).stdout
    assert "shop/items: its last sync failed: source_counting.py read ended with exit code 3" in notes
    assert "shop/items: 25 values did not fit their type" in notes


def test_records_that_landed_and_never_reached_the_ledger_are_told(shop: Shop) -> None:
    shop.sync("shop/items")
    (file,) = (shop.lake.landing / "raw" / "shop" / "items").rglob("*.parquet")
    with duckdb.connect() as con:
        con.execute(f"create table kept as from read_parquet('{file}', hive_partitioning=false) limit 20")
        con.execute(f"copy kept to '{file}' (format parquet)")
    shop.lake.feed("shop/items")
    status = shop.lake.cli("status", check=False)
    assert status.returncode == 1
    assert "its last sync landed 25 records, and the ledger knows of 20" in status.stdout


def test_a_run_syncs_feeds_and_builds(shop: Shop) -> None:
    shop.lake.write(
        "dag/enriched/fct_count.sql",
        "{{ config(tags=['enriched'], materialized='table') }} "
        "select count(*) as items from {{ ref('int_shop__items') }}",
    )
    done = shop.lake.cli("run")
    assert "landed 2 files, 30 records" in done.stdout
    assert shop.lake.query("from fct_count") == [(25,)]

    shop.says(streams={"items": 30, "notes": 5}, die_at=27, state_every=1)
    failed = shop.lake.cli("run", check=False)
    assert failed.returncode == 1
    assert shop.lake.query("from fct_count") == [(27,)]


def test_a_state_of_all_streams_is_not_continued_for_some_of_them(shop: Shop) -> None:
    shop.says(scope="GLOBAL")
    assert shop.sync().returncode == 0
    part = shop.sync("shop/items")
    assert part.returncode == 2
    assert "shop keeps one state for all of its streams: they are synced together, notes too" in part.stderr
    for text in ("{", '{"selected": false}'):  # nor where a file leaves one out
        shop.lake.write("dag/streams/shop/notes.json", text)
        left_out = shop.sync()
        assert left_out.returncode in (1, 2)
        assert "notes too" in left_out.stderr
    shop.lake.write("dag/streams/shop/notes.json", "{}")
    assert shop.sync().returncode == 0
    shop.says(scope="STREAM", streams={"items": 30, "notes": 9})
    changed = shop.sync()
    assert changed.returncode == 1
    assert "it told one state for all streams before, and now one of items alone" in changed.stderr
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(25)), list(range(5)))


def test_a_record_that_only_duckdb_refuses_is_written_anew(shop: Shop) -> None:
    twice = (
        '{"type": "RECORD", "record": {"stream": "items", "data": {"id": 1000, "id": 1001}, "emitted_at": 1}}'
    )
    far = {"stream": "items", "data": {"id": 1002}, "emitted_at": 10**17}
    shop.says(say=[twice, json.dumps({"type": "RECORD", "record": far})], state_every=0)
    assert shop.sync("shop/items").returncode == 0
    assert shop.landed() == [*range(25), 1001, 1002]


def test_a_field_that_parquet_names_otherwise_is_chosen_by_its_column(shop: Shop) -> None:
    shop.says(schema={"flow-actions": {"type": "string"}}, extra={"flow-actions": "a"})
    shop.lake.cli("airbyte", "discover", "shop")
    fields = {"id": "integer", "flow_actions": "string"}
    shop.lake.write("dag/streams/shop/items.json", json.dumps({"fields": fields}))
    assert "0 errors" in shop.lake.cli("check").stdout
    assert shop.sync("shop/items").returncode == 0
    files = [str(path) for path in (shop.lake.landing / "raw/shop/items").rglob("*.parquet")]
    with duckdb.connect() as con:
        assert con.execute("select distinct flow_actions from read_parquet(?)", [files]).fetchall() == [
            ("a",)
        ]


def test_digits_of_a_record_that_is_written_anew_are_kept(shop: Shop) -> None:
    number = 123456789012345678901234
    shop.says(
        schema={"text": {"type": "string"}, "count": {"type": "integer"}},
        extra={"text": number, "count": "many"},
    )
    assert shop.sync("shop/items").returncode == 0
    files = [str(path) for path in (shop.lake.landing / "raw/shop/items").rglob("*.parquet")]
    with duckdb.connect() as con:
        assert con.execute("select distinct text from read_parquet(?)", [files]).fetchall() == [
            (str(number),)
        ]
