"""The twelve guarantees of docs/how-delivery-works.md, each in its plainest form and under its own name."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import date

import pytest

from lakeward import feed as engine
from lakeward import intake
from lakeward.lake import open_lake
from lakeward.landing import open_landing
from lakeward.project import open_tools
from tests.scratch import APPEND, MODEL, ScratchLake, launcher

pytestmark = pytest.mark.every_setting


def test_1_every_landed_file_reaches_every_model_of_its_stream_exactly_once(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.write(
        "dag/processed/shop/int_shop__items_words.sql",
        APPEND.replace("SOURCE__STREAM", "shop__items"),
    )
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.land("shop/items", 2, "b.parquet", range(5, 15), word="b")

    lake.feed()
    lake.feed()

    assert len(lake.table("int_shop__items")) == 15
    assert len(lake.table("int_shop__items_words")) == 20  # append: a second load of a file would show
    assert sorted(lake.events()) == ["a.parquet", "a.parquet", "b.parquet", "b.parquet"]
    writes = lake.query(
        "select changes from lakehouse.snapshots() where author = 'lakeward' order by snapshot_id"
    )
    assert len(writes) == 2  # one per model, with its ledger events in the same snapshot
    log = lake.query("select table_id from lakehouse.table_info() where table_name = 'feeder_log'")[0][0]
    assert all(str(log) in changes["inlined_insert"] for (changes,) in writes)


def test_2_a_killed_feed_loses_nothing_and_doubles_nothing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1}, model=APPEND)
    for day in range(1, 13):
        lake.land("shop/items", day, "a.parquet", range(day * 100, day * 100 + 100))
    lake.project()

    for moment in (0.8, 1.7, 2.6):
        feeding = launcher().start("lakeward", "feed", cwd=lake.root)
        time.sleep(moment)
        feeding.kill()
        feeding.wait()
    lake.cli("feed")

    assert lake.query("select count(*), count(distinct item_id) from int_shop__items") == [(1200, 1200)]
    assert len(lake.events()) == 12
    assert not lake.query(
        "select table_name from duckdb_tables() where database_name = 'lakehouse' and table_name like '%dbt%'"
    )


def test_3_a_late_file_in_an_old_partition_is_found_and_never_overwrites_newer_rows(
    lake: ScratchLake,
) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 10, "new.parquet", range(10), word="new")
    lake.feed()
    lake.land("shop/items", 2, "late.parquet", range(5, 15), word="old")
    lake.feed()

    words = dict(lake.table("int_shop__items"))
    assert [words[i] for i in range(10)] == ["new"] * 10
    assert [words[i] for i in range(10, 15)] == ["old"] * 5


def test_4_a_file_that_changed_under_its_name_is_a_new_file(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10), word="first")
    lake.feed()
    lake.land("shop/items", 1, "a.parquet", range(12), word="second", at="2026-11-01 13:00:00+00")
    lake.feed()

    assert lake.table("int_shop__items") == [(i, "second") for i in range(12)]
    assert lake.events() == ["a.parquet", "a.parquet"]


def test_4_a_file_that_vanished_after_listing_is_reported_and_blocks_nothing(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10))
    gone = lake.land("shop/items", 2, "b.parquet", range(10, 20))
    honest = intake.inspect

    def vanish_before_it_is_read(*arguments: object) -> object:
        gone.unlink(missing_ok=True)
        lake.push()
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("lakeward.attempt.inspect", vanish_before_it_is_read)
    report = lake.feed()["shop/items"]

    assert [path.rsplit("/", 1)[-1] for path in report.vanished] == ["b.parquet"]
    assert not report.errors
    assert lake.table("int_shop__items") == [(i, "a") for i in range(10)]


def test_5_a_file_that_cannot_be_loaded_is_quarantined_alone_and_retry_brings_it_back(
    lake: ScratchLake,
) -> None:
    lake.add_stream("shop/items")
    for day in range(1, 6):
        lake.land("shop/items", day, f"{day}.parquet", range(day * 10, day * 10 + 10))
    truncated = lake.land("shop/items", 3, "truncated.parquet", range(900, 910))
    truncated.write_bytes(truncated.read_bytes()[:-20])
    for name, number, amount in (("misfit", 800, "not a number"), ("like it", 20, "1.5")):
        lake.land_sql(
            "shop/items", 4, f"{name}.parquet",
            "select 'r' as _airbyte_raw_id, timestamptz '2026-11-04 12:00:00+00' as _airbyte_extracted_at, "
            f"1::bigint as _airbyte_generation_id, {number}::bigint as id, "
            f"{{'word': 'a', 'amount': '{amount}'}} as attributes",
        )  # fmt: skip

    report = lake.feed()["shop/items"]

    assert {path.rsplit("/", 1)[-1] for path in report.quarantined} == {"truncated.parquet", "misfit.parquet"}
    assert "not a number" in next(why for path, why in report.quarantined.items() if "misfit" in path)
    assert len(lake.table("int_shop__items")) == 50  # ids 10 to 59; "like it" has a newer 20
    assert not lake.feed()["shop/items"].quarantined  # not tried again until asked

    lake.land("shop/items", 3, "truncated.parquet", range(900, 910))  # replaced: another file
    assert lake.feed()["shop/items"].files == 1
    assert len(lake.table("int_shop__items")) == 60
    left = json.loads(lake.cli("quarantine", "list", "--json").stdout)
    assert [row["path"].rsplit("/", 1)[-1] for row in left] == ["misfit.parquet"]

    forgiving = MODEL.replace(
        "cast(attributes::JSON->>'$.amount' as double)", "attributes::JSON->>'$.amount'"
    )
    lake.add_stream("shop/items", model=forgiving)
    lake.cli("quarantine", "retry", "shop/items")
    lake.cli("refresh", "shop/items")
    assert len(lake.table("int_shop__items")) == 61


def test_5_a_fault_of_the_model_quarantines_nothing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=MODEL.replace("'$.amount' as double", "'$.word' as double"))
    for day in range(1, 13):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 10), word="wrong")

    report = lake.feed()["shop/items"]

    assert not report.quarantined
    assert "Could not convert" in report.errors["int_shop__items"]
    assert lake.cli("status", "--json", check=False).returncode == 1
    lake.add_stream("shop/items")
    assert not lake.feed()["shop/items"].errors
    assert len(lake.table("int_shop__items")) == 120


def test_6_two_feeders_of_one_stream_lose_and_double_nothing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1}, model=APPEND)
    for day in range(1, 9):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 10))
    lake.project()

    feeders = [threading.Thread(target=lake.cli, args=("feed",)) for _ in range(2)]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()

    assert lake.query("select count(*), count(distinct item_id) from int_shop__items") == [(80, 80)]
    assert len(lake.events()) == 8
    assert lake.query('select n from fences."int_shop__items"') == [(8,)]


def test_7_between_reconciles_listing_requests_do_not_grow_with_history(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for day in (1, 2, 25):
        lake.land("shop/items", day, "a.parquet", range(day, day + 1))
    history = lake.landing / "raw/shop/items/year=2025"
    counts = []
    stream = lake.project().streams[0]
    for months in (1, 6, 12):
        for month in range(1, months + 1):
            folder = history / f"month={month}/day=1"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "a.parquet").touch()
        landing = open_landing(lake.project().settings)
        found = list(landing.list(stream, date(2026, 11, 22)))
        assert [file.partition for file in found] == [date(2026, 11, 25)]
        counts.append(landing.requests)
    # In a folder the root, its newest year and month, one day; in a bucket one page.
    assert counts == ([4, 4, 4] if lake.store is None else [1, 1, 1])


def test_8_peak_memory_does_not_grow_with_the_number_of_pending_files(lake: ScratchLake) -> None:
    """Four full batches against sixteen, over tables of the same size."""
    limit = 400
    lake.write("lakeward.toml", f'memory_limit = "{limit}MB"\nbatch_max_files = 10\n')
    peaks = []
    for stream, batches in (("shop/few", 4), ("shop/many", 16)):
        lake.add_stream(stream)
        lake.land(stream, 1, "first.parquet", range(200_000), word="w" * 40)
        lake.cli("feed", stream)
        landed = lake.land(stream, 2, "0.parquet", range(5_000), word="v" * 40)
        for number in range(1, batches * 10):
            shutil.copy(landed, landed.with_name(f"{number}.parquet"))
        peaks.append(_peak_of_feed(lake, stream))
    assert peaks[1] <= peaks[0] * 1.2, peaks
    assert peaks[1] <= limit * 1.15 * 1000, peaks


def test_9_a_full_refresh_rebuilds_from_everything_and_readers_see_the_old_table_until_then(
    lake: ScratchLake,
) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10), word="a")
    lake.land("shop/items", 2, "b.parquet", range(5, 15), word="b")
    bad = lake.land("shop/items", 3, "bad.parquet", range(90, 99))
    bad.write_bytes(b"PAR1 but no more")
    lake.feed()
    before = lake.table("int_shop__items")
    counts: set[int] = set()
    done = threading.Event()

    def read() -> None:
        with open_lake(lake.project().settings, read_only=True) as reader:
            assert reader is not None
            while not done.is_set():
                counts.add(reader.query("select count(*) from int_shop__items")[0][0])

    reading = threading.Thread(target=read)
    reading.start()
    lake.dbt("run", "--full-refresh", "-s", "int_shop__items")
    done.set()
    reading.join()

    assert counts == {15}
    assert lake.table("int_shop__items") == before
    builds = lake.query("select build, status, count(*) from meta.feeder_files group by all order by all")
    assert builds == [(1, "quarantined", 1), (2, "applied", 2)]
    assert lake.feed()["shop/items"].batches == 0
    lake.land("shop/items", 4, "c.parquet", range(20, 22), word="c")
    assert lake.feed()["shop/items"].files == 1
    assert len(lake.table("int_shop__items")) == 17


def test_10_a_selection_that_matched_no_model_is_an_error_and_moves_nothing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=MODEL.replace("SOURCE__STREAM", "shop__itmes"))
    lake.add_stream("shop/good")
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.land("shop/good", 1, "a.parquet", range(10))

    done = lake.cli("feed", check=False)

    assert done.returncode == 1
    assert "shop/items: no model carries the tag shop__items" in done.stderr
    assert len(lake.table("int_shop__good")) == 10
    assert lake.events() == ["a.parquet"]


def test_10_a_model_that_dbt_did_not_run_is_an_error_and_moves_nothing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    project = lake.project()
    (model,) = project.manifest.models
    renamed = replace(model, node="gone_since", unique_id="model.lake.gone_since")
    with open_tools(project.settings, lambda _: None) as tools:
        report = engine.feed(project.streams[0], [renamed], tools, beside=True)  # by name, not by tag
    assert "did not run gone_since" in report.errors["int_shop__items"]
    assert lake.events() == []
    assert lake.feed()["shop/items"].files == 1


def test_11_no_landed_file_is_ever_deleted_or_rewritten(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for day in (1, 2, 3):
        lake.land("shop/items", day, "a.parquet", range(10))
    lake.push()
    before = _fingerprint(lake)
    lake.feed()
    lake.cli("refresh", "shop/items")
    with open_lake(lake.project().settings) as open_:
        assert open_ is not None
        open_.query("call ducklake_cleanup_old_files('lakehouse', cleanup_all => true)")
        open_.query("call ducklake_delete_orphaned_files('lakehouse', cleanup_all => true)")
    assert before == _fingerprint(lake)
    assert len(before) == 3


def test_12_one_broken_model_stops_itself_and_nothing_else(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.add_stream("shop/broken", model=MODEL.replace("attributes::JSON->>'$.word'", "no_such_column"))
    lake.write(
        "dag/processed/shop/int_shop__items_b.sql",
        MODEL.replace("SOURCE__STREAM", "shop__items").replace(
            "attributes::JSON->>'$.word'", "nothing_either"
        ),
    )
    for stream in ("shop/items", "shop/broken"):
        lake.land(stream, 1, "a.parquet", range(10))
    lake.write("dag/streams/shop/misspelt.json", '{"cursor_feild": ["a"]}')

    reports = lake.feed()

    assert len(lake.table("int_shop__items")) == 10
    assert list(reports["shop/items"].errors) == ["int_shop__items_b"]
    assert "no_such_column" in reports["shop/broken"].errors["int_shop__broken"]
    done = lake.cli("status", check=False)
    assert done.returncode == 1
    assert 'misspelt.json: unknown key "cursor_feild"' in done.stdout


def _peak_of_feed(lake: ScratchLake, stream: str) -> int:
    """Peak resident kilobytes of one feeding process."""
    lake.push()
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import resource, sys; sys.argv[0] = 'lakeward'; from lakeward.cli import app\n"
            "try: app()\nexcept SystemExit as e: code = e.code\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)",
            "feed", stream,
        ],
        cwd=lake.root, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def _fingerprint(lake: ScratchLake) -> dict[str, tuple[object, object]]:
    if lake.store is not None:
        pages = [*lake.store.list()]
        return {meta["path"]: (meta["e_tag"], meta["last_modified"]) for page in pages for meta in page}
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in lake.landing.rglob("*")
        if path.is_file()
    }
