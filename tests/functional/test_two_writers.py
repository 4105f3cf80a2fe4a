"""Two writers of one stream, through real processes: whatever the order, no row is lost or doubled.

One process is held at a step of its work (tests/chaos/tracer.py) until the other has finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.world import tracing
from tests.launcher import Running
from tests.scratch import APPEND, MODEL, ScratchLake, launcher
from tests.servers import PostgresServer

pytestmark = pytest.mark.every_setting

LOG = "int_shop__items_log"
OVERTAKEN = "shop/items: another writer was faster; started over 1 time(s)"
# One of three in `make test`, the others in `make test-all`.
SLOW = pytest.mark.slow
HELD_AT = ["pre-hook", pytest.param("write", marks=SLOW), pytest.param("commit", marks=SLOW)]


@pytest.fixture
def items(lake: ScratchLake) -> ScratchLake:
    """Five files fed, two more landed; a model with a key and one without, where a double would show."""
    lake.add_stream("shop/items")
    lake.write(f"dag/processed/shop/{LOG}.sql", APPEND.replace("SOURCE__STREAM", "shop__items"))
    for day in range(1, 6):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 15))
    lake.feed()
    for day in (6, 7):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 15))
    lake.push()
    return lake


@contextmanager
def held(lake: ScratchLake, phase: str, program: str, *arguments: str) -> Iterator[Running]:
    """The program, held before its first step of that phase while the block runs; then it goes on."""
    trace, until = lake.root / "held.jsonl", lake.root / "go"
    for left in (trace, until):
        left.unlink(missing_ok=True)
    lake.push()
    strike = {"phase": phase, "where": "before", "target": "pause", "until": str(until)}
    running = launcher().start(
        program, *arguments, cwd=lake.project_dir if program == "dbt" else lake.root,
        **tracing(trace, strike),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (trace.exists() and '"struck"' in trace.read_text()):
        assert time.monotonic() < deadline, running.said("err")
        time.sleep(0.02)
    try:
        yield running
    finally:
        until.touch()


def expect_everything_once(lake: ScratchLake, days: range = range(1, 8)) -> None:
    assert [key for key, _ in lake.table("int_shop__items")] == [*range(10, days.stop * 10 - 10 + 15)]
    doubled = lake.query(f"select _source_file, count(*) from {LOG} group by 1 having count(*) <> 15")
    assert doubled == []
    assert lake.query(f"select count(distinct _source_file) from {LOG}") == [(len(days),)]
    files = lake.query("select model, count(*) from meta.feeder_files where status = 'applied' group by 1")
    assert sorted(files) == [("int_shop__items", len(days)), (LOG, len(days))]


@pytest.mark.parametrize("phase", ["pre-hook", "write", "commit"])
def test_a_feeder_overtaken_by_a_feeder_starts_over(items: ScratchLake, phase: str) -> None:
    """pre-hook: one follows the other from the same reading of the ledger. write, commit: they overlap."""
    with held(items, phase, "lakeward", "feed") as first:
        second = items.cli("feed")
    done = first.wait(60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(OVERTAKEN) == 1
    assert "another writer" not in second.stderr
    expect_everything_once(items)


@pytest.mark.parametrize("phase", HELD_AT)
def test_a_feeder_overtaken_by_plain_dbt_starts_over(items: ScratchLake, phase: str) -> None:
    with held(items, phase, "lakeward", "feed") as first:
        items.dbt("run")
    done = first.wait(60)
    assert done.returncode == 0, done.stderr
    assert OVERTAKEN in done.stderr
    expect_everything_once(items)


@pytest.mark.parametrize("phase", HELD_AT)
def test_plain_dbt_overtaken_by_a_feeder_fails_and_succeeds_when_run_again(
    items: ScratchLake, phase: str
) -> None:
    """dbt has nobody who would start over."""
    with held(items, phase, "dbt", "run", "-s", "int_shop__items") as first:
        items.cli("feed")
    done = first.wait(60)
    assert done.returncode == 1
    assert "fence moved: another writer of int_shop__items was faster" in done.stdout or (
        "Transaction conflict" in done.stdout
    )
    items.dbt("run")
    expect_everything_once(items)


@pytest.mark.parametrize("phase", HELD_AT)
@pytest.mark.parametrize(
    "refresh",
    [("lakeward", "refresh", "shop/items"), pytest.param(("dbt", "run", "--full-refresh"), marks=SLOW)],
)
def test_a_feeder_overtaken_by_a_full_refresh_starts_over(
    items: ScratchLake, refresh: tuple[str, ...], phase: str
) -> None:
    program, *arguments = refresh
    with held(items, phase, "lakeward", "feed") as first:
        (items.dbt if program == "dbt" else items.cli)(*arguments)
    done = first.wait(60)
    assert done.returncode == 0, done.stderr
    assert OVERTAKEN in done.stderr
    expect_everything_once(items)


@pytest.mark.parametrize(
    "phase", ["refresh swap", pytest.param("pre-hook", marks=SLOW), pytest.param("commit", marks=SLOW)]
)
def test_a_feeder_beside_a_refresh_waits_for_its_last_part_and_nothing_is_lost(
    items: ScratchLake, phase: str
) -> None:
    with held(items, phase, "lakeward", "refresh", "shop/items") as first:
        fed = items.cli("feed")
    done = first.wait(60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("left alone" in fed.stderr) == (phase == "refresh swap")
    items.cli("feed")
    expect_everything_once(items)


def test_a_refresh_overtaken_by_plain_dbt_starts_its_last_part_over(items: ScratchLake) -> None:
    """dbt does not read announcements: what it loads just before the swap must be in the new table too."""
    with held(items, "refresh swap", "lakeward", "refresh", "shop/items") as first:
        items.land("shop/items", 8, "a.parquet", range(80, 95))
        items.dbt("run")
    done = first.wait(60)
    assert done.returncode == 0, done.stdout + done.stderr
    expect_everything_once(items, range(1, 9))


@pytest.mark.parametrize(
    "phase", ["commit", pytest.param("pre-hook", marks=SLOW), pytest.param("swap", marks=SLOW)]
)
def test_dbts_full_refresh_keeps_feeders_waiting(items: ScratchLake, phase: str) -> None:
    with held(items, phase, "dbt", "run", "--full-refresh", "-s", "int_shop__items") as first:
        fed = items.cli("feed")
    done = first.wait(60)
    assert done.returncode == 0, done.stdout
    assert "left alone, being refreshed" in fed.stderr
    items.cli("feed")
    expect_everything_once(items)


@pytest.mark.parametrize("attempt", [1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_feeders_started_together_share_the_work_or_repeat_it_but_never_double(
    items: ScratchLake, attempt: int
) -> None:
    both = [launcher().start("lakeward", "feed", cwd=items.root) for _ in range(2)]
    for done in [running.wait(60) for running in both]:
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    expect_everything_once(items)


@pytest.mark.slow
def test_streams_never_abort_each_other(
    lake: ScratchLake, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten streams by four processes. Commits queue: DuckLake tries again what met another's snapshot."""
    monkeypatch.setenv("LAKEWARD_WORKERS", "4")
    names = [f"shop/s{number}" for number in range(10)]
    for name in names:
        lake.add_stream(name, config={"batch_max_bytes": 1}, model=APPEND if name.endswith("5") else MODEL)
        for day in (1, 2):
            lake.land(name, day, "a.parquet", range(day * 10, day * 10 + 10))
    before = postgres.log().count("duplicate key value")
    reports = json.loads(lake.cli("feed", "--json").stdout)["streams"]
    retried = postgres.log().count("duplicate key value") - before
    print(f"DuckLake tried {retried} commits again")
    assert [report["conflicts"] for report in reports] == [0] * len(names)
    assert [report["batches"] for report in reports] == [2] * len(names)
    for name in names:
        assert len(lake.table(f"int_{name.replace('/', '__')}")) == 20


@pytest.mark.slow
def test_two_models_of_which_one_fails_every_other_time(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches each turn: what fails in the first must not keep the other model from the second."""
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    failing = APPEND.replace("SOURCE__STREAM", "shop__items").replace(
        "id as item_id", "{{ env_var('ITEM_ID') }} as item_id"
    )
    lake.write(f"dag/processed/shop/{LOG}.sql", failing)
    monkeypatch.setenv("ITEM_ID", "id")
    for turn in range(3):
        for day in (2 * turn + 1, 2 * turn + 2):
            lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 15))
        monkeypatch.setenv("ITEM_ID", "nothing" if turn % 2 else "id")
        fed = lake.cli("feed", check=False)
        assert fed.returncode == turn % 2, fed.stderr
        assert len(lake.table("int_shop__items")) == (2 * turn + 2) * 10 + 5
    expect_everything_once(lake, range(1, 7))
