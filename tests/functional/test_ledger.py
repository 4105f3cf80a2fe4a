"""The ledger as users see it, and what happens when two writers meet."""

from __future__ import annotations

import json
import os
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from lakeward.complaints import as_lakeward_error
from lakeward.errors import WriterConflict
from lakeward.feed import pending
from lakeward.history import History
from lakeward.project import open_tools
from lakeward.transform import Transform  # noqa: TID253 - a test has the time
from tests.scratch import APPEND, MODEL, ScratchLake
from tests.servers import PostgresServer

pytestmark = pytest.mark.every_setting


def test_the_cursor_is_a_view_of_what_was_applied(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 9, "a.parquet", range(3))
    lake.land("shop/items", 10, "b.parquet", range(3))
    lake.feed()
    cursors = lake.query("select source, stream, cursor_path from meta.feeder_cursors")
    assert cursors == [("shop", "items", "raw/shop/items/year=2026/month=11/day=10/b.parquet")]


def test_a_row_can_be_traced_to_its_file_its_snapshot_and_its_code(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    ((source_file,),) = lake.query("select _source_file from int_shop__items where item_id = 1")
    ((path, batch, code),) = lake.query(
        f"select path, batch_id, code from meta.feeder_files where ends_with('{source_file}', path)"
    )
    ((author, message, extra),) = lake.query(
        f"select author, commit_message, commit_extra_info from lakehouse.snapshots() "
        f"where commit_extra_info like '%{batch}%'"
    )
    stamp = json.loads(extra)
    assert (author, message) == ("lakeward", "feed shop/items into int_shop__items")
    assert stamp["files"] == [path]
    assert stamp["code"] == code


def test_the_feeder_leaves_one_snapshot_per_batch(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    lake.land("shop/items", 1, "first.parquet", range(3))
    lake.feed()
    before = lake.query("select max(snapshot_id) from lakehouse.snapshots()")[0][0]
    for day in (2, 3, 4):
        lake.land("shop/items", day, "a.parquet", range(3))
    assert lake.feed()["shop/items"].batches == 3
    after = lake.query("select count(*), count(author) from lakehouse.snapshots() where snapshot_id > ?"
                       .replace("?", str(before)))  # fmt: skip
    assert after == [(4, 3)]  # three batches, and the record of the full listing


def test_two_runs_planned_from_one_reading_the_second_is_refused_and_starts_over(lake: ScratchLake) -> None:
    """The compare in the fence: without it the file would be in the table twice."""
    lake.add_stream("shop/items", model=APPEND)
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.project()
    project = lake.project()
    stream = project.streams[0]
    models = project.manifest.of_stream(stream.tag)

    from lakeward import feed as engine

    with open_tools(project.settings, lambda _: None) as tools:
        others = iter(["another writer, once, between reading and writing"])

        def overtaken() -> AbstractContextManager[Transform]:
            for _ in others:
                lake.dbt("run", "--select", "tag:shop__items")
            return tools.transform()

        report = engine.feed(stream, models, replace(tools, transform=overtaken))

    assert report.conflicts == 1
    assert not report.errors
    assert lake.query("select count(*) from int_shop__items") == [(10,)]
    assert lake.events() == ["a.parquet"]


def test_feeders_of_different_streams_never_abort_each_other(lake: ScratchLake) -> None:
    for name in ("one", "two", "three"):
        lake.add_stream(f"shop/{name}", config={"batch_max_bytes": 1})
        for day in range(1, 6):
            lake.land(f"shop/{name}", day, "a.parquet", range(day * 10, day * 10 + 10))
    lake.project()
    outcomes: dict[str, str] = {}

    def run(name: str) -> None:
        outcomes[name] = lake.cli("feed", f"shop/{name}", "--json").stdout

    feeders = [threading.Thread(target=run, args=(name,)) for name in ("one", "two", "three")]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()

    for name, said in outcomes.items():
        (report,) = json.loads(said)["streams"]
        assert (report["conflicts"], report["errors"], report["files"]) == (0, {}, 5), name
        assert len(lake.table(f"int_shop__{name}")) == 50


def test_a_stream_with_two_models_of_which_one_fails_doubles_nothing_when_mended(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=APPEND)
    other = MODEL.replace("SOURCE__STREAM", "shop__items")
    lake.write("dag/processed/shop/int_shop__items_b.sql", other.replace("word'", "word") + " and nothing(")
    lake.write("dag/processed/shop/int_shop__items_b.sql", other.replace("as word", "as word, no_such"))
    lake.land("shop/items", 1, "a.parquet", range(10))
    assert list(lake.feed()["shop/items"].errors) == ["int_shop__items_b"]
    lake.write("dag/processed/shop/int_shop__items_b.sql", other)
    lake.land("shop/items", 2, "b.parquet", range(10, 20))
    assert not lake.feed()["shop/items"].errors
    for model in ("int_shop__items", "int_shop__items_b"):
        assert lake.query(f"select count(*), count(distinct item_id) from {model}") == [(20, 20)]


def test_a_stream_too_large_to_list_each_time_is_listed_from_its_cursor(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakeward.reading.LIST_ALL_UP_TO", 2)
    lake.add_stream("shop/items")
    for day in range(10, 15):
        lake.land("shop/items", day, "a.parquet", range(3))
    lake.feed()
    lake.land("shop/items", 12, "in_the_lookback.parquet", range(3))
    lake.land("shop/items", 2, "older.parquet", range(3))
    assert lake.feed()["shop/items"].files == 1
    monkeypatch.setenv("LAKEWARD_RECONCILE_AFTER_HOURS", "0.0000001")  # the daily reconcile is due
    assert lake.feed()["shop/items"].files == 1
    assert sorted(lake.events())[-2:] == ["in_the_lookback.parquet", "older.parquet"]


def test_streams_share_what_may_be_listed_each_time_and_the_largest_is_listed_from_its_cursor(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakeward.reading.LIST_ALL_UP_TO", 3)
    for stream, days in (("shop/items", range(10, 13)), ("shop/prices", range(10, 12))):
        lake.add_stream(stream)
        for day in days:
            lake.land(stream, day, "a.parquet", range(3))
    lake.feed()
    for stream in ("shop/items", "shop/prices"):
        lake.land(stream, 2, "older.parquet", range(3))
    assert {stream: report.files for stream, report in lake.feed().items()} == {
        "shop/items": 0, "shop/prices": 1,
    }  # fmt: skip


def test_a_process_that_looks_again_and_again_sees_what_others_have_written_since(
    lake: ScratchLake, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("shop/items", "shop/prices"):
        lake.add_stream(stream)
        lake.land(stream, 1, "a.parquet", range(3))
    history = History()

    def seen() -> dict[str, list[str]]:
        project = lake.project()
        with open_tools(project.settings, lambda _: None, history) as tools:
            found = pending(project.manifest.jobs(project.streams), tools)
        return {stream: [Path(file.path).name for file in known.files] for stream, known in found.items()}

    assert seen() == {"shop/items": ["a.parquet"], "shop/prices": ["a.parquet"]}
    lake.feed()
    assert seen() == {"shop/items": [], "shop/prices": []}
    lake.land("shop/items", 2, "b.parquet", range(3)).write_bytes(b"no Parquet")
    lake.land("shop/prices", 2, "b.parquet", range(3))
    assert seen() == {"shop/items": ["b.parquet"], "shop/prices": ["b.parquet"]}
    lake.feed("shop/items")
    assert seen() == {"shop/items": [], "shop/prices": ["b.parquet"]}
    lake.cli("quarantine", "retry", "shop/items")
    lake.cli("replay", "shop/prices", "--since", "2026-11-01")
    assert seen() == {"shop/items": ["b.parquet"], "shop/prices": ["a.parquet", "b.parquet"]}
    lake.cli("refresh", "shop/prices")
    assert seen() == {"shop/items": ["b.parquet"], "shop/prices": []}
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", postgres.create_database(f"{lake.root.name}_again"))
    monkeypatch.setenv("LAKEWARD_DATA_URL", f"{os.environ.get('LAKEWARD_DATA_URL', '.lake/data')}-again")
    lake.feed("shop/prices")
    lake.feed("shop/prices")
    assert seen() == {"shop/items": ["a.parquet", "b.parquet"], "shop/prices": []}, "another catalog"


def test_duckdbs_error_for_a_lost_race_is_a_writer_conflict() -> None:
    error = as_lakeward_error(
        "TransactionContext Error: Failed to commit: Transaction conflict - attempting to"
    )
    assert isinstance(error, WriterConflict)
