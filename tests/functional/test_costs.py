"""What a feed costs, as counts: requests, queries, dbt runs, snapshots. Times are the benchmarks'."""

from __future__ import annotations

import os
from collections import Counter
from datetime import date, timedelta

import pytest

from lakeward.attempt import Progress
from lakeward.feed import pending
from lakeward.lake import Lake, open_lake
from lakeward.landing import open_landing
from lakeward.ledger import Ledger
from lakeward.project import open_tools
from lakeward.transform import Transform  # noqa: TID253 - counted here
from tests.scratch import APPEND, MODEL, ScratchLake

# By files in history: how often a feed that looks for new ones asks the landing zone, and the lake. In a
# folder each subfolder is asked; up to 10,000 files all of them, above that those from the lookback on.
EXPECTED = {1_000: (16, 8), 100_000: (9, 8)}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Queries to the lake and invocations of dbt, while the test runs."""
    counts: Counter[str] = Counter()

    def counting(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: object, **options: object) -> object:
            counts[what] += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, name, wrapped)

    counting(Lake, "query", "queries")
    counting(Transform, "_invoke", "dbt")
    return counts


@pytest.mark.parametrize("history", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_finding_new_files_costs_the_same_whatever_the_history(
    lake: ScratchLake, counted: Counter[str], history: int
) -> None:
    lake.add_stream("shop/items")
    first = lake.land("shop/items", 1, "first.parquet", range(3))
    lake.feed()
    _history(lake, history, first.read_bytes())
    new = lake.land("shop/items", 2, "new.parquet", range(3))
    project = lake.project()
    said: list[Progress] = []
    with open_tools(project.settings, said.append) as tools:
        stream = project.streams[0]
        tools.ledger.record_listing(stream)
        counted.clear()
        found = pending([(stream, project.manifest.of_stream(stream.tag))], tools)[stream.id]
        requests, queries = tools.landing.requests, counted["queries"]
    assert [file.path for file in found.files] == [str(new.relative_to(lake.landing))]
    assert (requests, queries) == EXPECTED[history]


def test_a_batch_is_one_dbt_run_and_one_snapshot_per_model(lake: ScratchLake, counted: Counter[str]) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    lake.write("dag/processed/shop/int_shop__items_log.sql", APPEND.replace("SOURCE__STREAM", "shop__items"))
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    before = _snapshots(lake)
    for day in (2, 3, 4):
        lake.land("shop/items", day, "a.parquet", range(3))
    lake.project()
    counted.clear()
    assert lake.feed()["shop/items"].batches == 3
    assert counted["dbt"] == 3
    assert _snapshots(lake) - before == 3 * 2 + 1  # and the record of the full listing


def test_a_fault_of_the_model_costs_one_run_however_many_files_wait(
    lake: ScratchLake, counted: Counter[str]
) -> None:
    lake.add_stream("shop/items", model=MODEL.replace("'$.word'", "'$.word' || no_such_column"))
    for day in range(1, 9):
        lake.land("shop/items", day, "a.parquet", range(3))
    lake.project()
    counted.clear()
    assert "no_such_column" in lake.feed()["shop/items"].errors["int_shop__items"]
    assert counted["dbt"] == 1


def _snapshots(lake: ScratchLake) -> int:
    return int(lake.query("select count(*) from lakehouse.snapshots()")[0][0])


def _history(lake: ScratchLake, count: int, content: bytes) -> None:
    """A hundred files a day up to yesterday, in the landing zone and, as applied, in the ledger."""
    root = lake.landing / "raw/shop/items"
    last = date(2026, 10, 31)
    for number in range(count // 100):
        day = last - timedelta(days=number)
        folder = root / f"year={day.year}/month={day.month:02}/day={day.day:02}"
        folder.mkdir(parents=True)
        original = folder / "0.parquet"
        original.write_bytes(content)
        for part in range(1, 100):
            os.link(original, folder / f"{part}.parquet")
    settings = lake.project().settings
    landed = list(open_landing(settings).list(lake.project().streams[0]))
    table = lake.root / "history.csv"
    table.write_text("".join(f"{file.path}|{file.etag}|{file.partition}\n" for file in landed))
    with open_lake(settings) as opened:
        assert opened is not None
        opened.query(
            "insert into meta.feeder_log by name select 'shop' as source, 'items' as stream, "
            "'int_shop__items' as model, 1 as build, 'applied' as event, path, etag, partition_date, "
            f"now() as logged_at from read_csv('{table}', delim = '|', header = false, columns = "
            "{'path': 'varchar', 'etag': 'varchar', 'partition_date': 'date'})"
        )
        assert Ledger(opened).get_cursor(lake.project().streams[0]) is not None
