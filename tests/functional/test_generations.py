"""A stream read anew from the start: what `on_refresh` makes of the rows of before."""

from __future__ import annotations

import json

import pytest

from lakeward.lake import open_lake
from tests.scratch import APPEND, ScratchLake
from tests.shop import Shop, struck_at


@pytest.fixture
def shop(lake: ScratchLake) -> Shop:
    made = Shop(lake)
    lake.write("dag/streams/shop/items.json", json.dumps({"on_refresh": "replace"}))
    return made


def held(lake: ScratchLake, stream: str = "items") -> list[int]:
    return [n for (n,) in lake.query(f"select item_id from int_shop__{stream} order by all")]


def test_a_refresh_replaces_what_was_there_only_where_the_stream_says_so(shop: Shop) -> None:
    shop.sync()
    shop.lake.feed()
    shop.says(streams={"items": 10, "notes": 2})
    refreshed = shop.sync("shop", "--refresh")
    assert refreshed.returncode == 0, refreshed.stderr
    fed = shop.lake.feed()
    assert fed["shop/items"].replaced == {"int_shop__items": 25}
    assert held(shop.lake) == list(range(10))
    assert held(shop.lake, "notes") == sorted([*range(5), *range(2)])
    assert shop.lake.query("select max(generation) from meta.feeder_files") == [(1,)]

    shop.says(streams={"items": 12, "notes": 2})
    shop.sync()
    assert shop.lake.feed()["shop/items"].replaced == {}
    assert held(shop.lake) == list(range(12))
    shop.lake.cli("refresh", "shop/items")
    assert held(shop.lake) == list(range(12))
    assert len(shop.landed()) == 25 + 12, "what has landed stays"


def test_a_refresh_that_failed_replaces_nothing_until_it_is_complete(shop: Shop) -> None:
    shop.sync()
    shop.lake.feed()
    shop.says(die_at=17)
    assert shop.sync("shop/items", "--refresh").returncode == 1
    shop.lake.feed()
    assert held(shop.lake) == sorted([*range(25), *range(10)])
    shop.says(die_at=None)
    assert shop.sync("shop/items").returncode == 0
    assert shop.lake.feed()["shop/items"].replaced == {"int_shop__items": 25}
    assert held(shop.lake) == list(range(25))


def test_an_overwritten_stream_is_a_generation_each_time(shop: Shop) -> None:
    stream = {"sync_mode": "full_refresh", "destination_sync_mode": "overwrite", "on_refresh": "replace"}
    shop.lake.write("dag/streams/shop/items.json", json.dumps(stream))
    for until in (25, 7, 9):
        shop.says(streams={"items": until, "notes": 5})
        assert shop.sync("shop/items").returncode == 0
        shop.lake.feed()
        assert held(shop.lake) == list(range(until))


def test_one_state_for_all_streams_is_refreshed_for_all(shop: Shop) -> None:
    shop.says(scope="GLOBAL")
    shop.sync()
    part = shop.sync("shop/items", "--refresh")
    assert part.returncode == 2
    assert "keeps one state for all of its streams: they are synced together" in part.stderr
    assert shop.sync("shop", "--refresh").returncode == 0
    assert len(shop.landed()) == 50


def test_a_server_tells_by_deleting_what_is_older(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"on_refresh": "replace"}, model=APPEND)
    for generation, name, ids in ((1, "old", range(5)), (2, "new", range(3))):
        lake.land_sql(
            "shop/items", 1, f"{name}.parquet",
            f"select 'r' as _airbyte_raw_id, now() as _airbyte_extracted_at, {generation}::bigint as "
            f"_airbyte_generation_id, i::bigint as id, {{'word': '{name}', 'amount': 1.5}} as attributes "
            f"from range({ids.start}, {ids.stop}) as t(i)",
        )  # fmt: skip
    lake.feed()
    assert len(lake.table("int_shop__items")) == 8
    (lake.landing / "raw/shop/items/year=2026/month=11/day=01/old.parquet").unlink()
    lake.feed()
    assert lake.table("int_shop__items") == [(n, "new") for n in range(3)]


def land_as_a_server(lake: ScratchLake, generation: int, name: str, ids: range) -> None:
    lake.land_sql(
        "shop/items", 1, f"{name}.parquet",
        f"select 'r' as _airbyte_raw_id, now() as _airbyte_extracted_at, {{'sync_id': 1::bigint, 'changes': "
        f"[]::struct(field varchar, change varchar, reason varchar)[]}} as _airbyte_meta, "
        f"{generation}::bigint as _airbyte_generation_id, i::bigint as id "
        f"from range({ids.start}, {ids.stop}) as t(i)",
    )  # fmt: skip


def test_what_a_server_lands_is_not_older_than_what_was_synced_here(shop: Shop) -> None:
    for arguments in (("shop/items",), ("shop/items", "--refresh"), ("shop/items", "--refresh")):
        shop.sync(*arguments)
        shop.lake.feed()
    land_as_a_server(shop.lake, 1, "server", range(100, 103))
    assert shop.lake.feed()["shop/items"].replaced == {}
    assert held(shop.lake) == [*range(25), 100, 101, 102]

    land_as_a_server(shop.lake, 9, "later", range(200, 202))
    shop.lake.feed()
    shop.says(streams={"items": 3, "notes": 5})
    shop.sync("shop/items", "--refresh")
    assert shop.lake.feed()["shop/items"].replaced == {"int_shop__items": 25}
    assert held(shop.lake) == [0, 1, 2, 100, 101, 102, 200, 201]


def test_nothing_is_replaced_until_all_of_the_new_is_loaded(shop: Shop) -> None:
    shop.sync()
    shop.lake.feed()
    refreshed = shop.sync("shop/items", "--refresh", before="tests.hooks:small_files", options={"size": 600})
    assert refreshed.returncode == 0
    newest = max((shop.lake.landing / "raw/shop/items").rglob("*.parquet"), key=lambda path: path.name)
    whole = newest.read_bytes()
    newest.write_bytes(b"PAR1 damaged")
    report = shop.lake.feed()["shop/items"]
    assert (len(report.quarantined), report.replaced) == (1, {})
    assert set(held(shop.lake)) == set(range(25))
    newest.write_bytes(whole)
    assert shop.lake.feed()["shop/items"].replaced == {"int_shop__items": 25}
    assert held(shop.lake) == list(range(25))


def test_a_refresh_that_finds_nothing_empties_the_model(shop: Shop) -> None:
    shop.sync()
    shop.lake.feed()
    shop.says(streams={"items": 0, "notes": 5})
    assert shop.sync("shop/items", "--refresh").returncode == 0
    assert shop.lake.feed()["shop/items"].replaced == {"int_shop__items": 25}
    assert held(shop.lake) == []


@pytest.mark.slow
def test_a_refresh_killed_at_any_step_loses_nothing(shop: Shop) -> None:
    shop.says(scope="GLOBAL")
    shop.sync()
    shop.lake.feed()
    for step in range(4, 30, 5):
        options = {"step": step, "checkpoint_seconds": 0, "number": 9}
        shop.sync("shop", "--refresh", before="tests.hooks:strike_sync_at", options=options)
        assert shop.sync().returncode == 0
        shop.lake.feed()
        assert set(held(shop.lake)) == set(range(25)), step
        assert shop.sync("shop", "--refresh").returncode == 0
        shop.lake.feed()
        assert held(shop.lake) == list(range(25)), step


def test_an_overwritten_stream_beside_one_state_for_all_doubles_no_other(shop: Shop) -> None:
    shop.says(scope="GLOBAL")
    stream = {"sync_mode": "full_refresh", "destination_sync_mode": "overwrite", "on_refresh": "replace"}
    shop.lake.write("dag/streams/shop/items.json", json.dumps(stream))
    for _ in range(3):
        assert shop.sync().returncode == 0
    assert shop.landed("notes") == list(range(5))


def test_a_refresh_that_lands_nothing_after_a_kill_locks_nothing(shop: Shop) -> None:
    for step in range(9, 60):
        shop.says(streams={"items": 25 * step, "notes": 5}, die_at=None)
        struck_at(shop, step)
        if [*(shop.lake.landing / "staging").rglob("*.parquet")]:
            break
    shop.says(die_at=0)
    assert shop.sync("shop", "--refresh").returncode == 1
    shop.says(die_at=None)
    assert shop.sync().returncode == 0


def test_a_replacement_is_one_snapshot_with_what_the_ledger_says_of_it(shop: Shop) -> None:
    shop.sync()
    shop.lake.feed()
    shop.sync("shop/items", "--refresh")
    shop.lake.feed()
    with open_lake(shop.lake.project().settings, read_only=True) as lake:
        assert lake is not None
        rows = lake.query(
            "select changes from lakehouse.snapshots() where commit_message like 'older generations%'"
        )
    ((changes,),) = rows
    assert "tables_deleted_from" in str(changes) or "inlined_delete" in str(changes)
    assert "inlined_insert" in str(changes) or "tables_inserted_into" in str(changes)
    assert shop.lake.events("replaced") == shop.lake.events("replaced")[:1]
