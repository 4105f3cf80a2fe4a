"""Several streams beside each other: what becomes of the others when one is killed, or has much to do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lakeward import rounds
from lakeward.cli import app
from lakeward.project import open_tools
from lakeward.workers import feed_all
from tests.scratch import APPEND, ScratchLake, launcher

pytestmark = pytest.mark.every_setting


@pytest.mark.slow
def test_a_killed_worker_takes_no_other_stream_with_it(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEWARD_WORKERS", "2")
    streams = [f"shop/s{number}" for number in range(4)]
    for stream in streams:
        lake.add_stream(stream, config={"batch_max_bytes": 1}, model=APPEND)
        for day in (1, 2, 3):
            lake.land(stream, day, "a.parquet", range(day * 10, day * 10 + 10))
    lake.project()
    feeding = launcher().start("lakeward", "feed", cwd=lake.root)
    deadline = time.monotonic() + 60
    while not (workers := _workers(feeding.pid)):
        assert time.monotonic() < deadline, feeding.said("err")
        time.sleep(0.02)
    time.sleep(0.7)
    os.kill(workers[0], signal.SIGKILL)
    done = feeding.wait(60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for stream in streams:
        rows = f"select count(*), count(distinct item_id) from int_{stream.replace('/', '__')}"
        assert lake.query(rows) == [(30, 30)]


@pytest.fixture
def backlog(lake: ScratchLake) -> ScratchLake:
    """shop/much has three batches to load, shop/little has one."""
    for stream, files in (("shop/much", 3), ("shop/little", 1)):
        lake.add_stream(stream, config={"batch_max_bytes": 1}, model=APPEND)
        for number in range(files):
            lake.land(stream, 1, f"{number}.parquet", range(number * 10, number * 10 + 10))
    return lake


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_long_backlog_is_loaded_turn_by_turn(
    backlog: ScratchLake, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("LAKEWARD_WORKERS", workers)
    project = backlog.project()
    left = []
    for _ in range(4):
        with open_tools(project.settings, lambda _: None, turn=0) as tools:
            reports = feed_all(project.manifest.jobs(project.streams), tools)
            left.append({report.stream: (report.batches, report.left) for report in reports})
    assert left == [
        {"shop/much": (1, 2), "shop/little": (1, 0)},
        {"shop/much": (1, 1), "shop/little": (0, 0)},
        {"shop/much": (1, 0), "shop/little": (0, 0)},
        {"shop/much": (0, 0), "shop/little": (0, 0)},
    ]
    assert backlog.query("select count(*), count(distinct item_id) from int_shop__much") == [(30, 30)]
    # Only what was loaded to its end may be leaned on.
    too_early = """select stream from meta.feeder_log group by all
        having min(rowid) filter (event = 'listed') < max(rowid) filter (event = 'applied')"""
    assert backlog.query(too_early) == []


@pytest.mark.parametrize("command", ["feed", "run"])
def test_watching_gives_each_stream_its_turn(
    backlog: ScratchLake, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    backlog.project()
    monkeypatch.chdir(backlog.root)
    monkeypatch.setenv("LAKEWARD_WORKERS", "1")
    monkeypatch.setattr(rounds, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "_WATCH_SECONDS", _Interrupt())
    done = CliRunner().invoke(app, [command, "--watch", "--json"])
    assert done.exit_code == 130
    reports = {report["stream"]: report for report in json.loads(done.stdout)["streams"]}
    assert {stream: report["files"] for stream, report in reports.items()} == {
        "shop/much": 1,
        "shop/little": 1,
    }
    assert "shop/much: 2 files wait for its next turn" in done.stderr
    done = CliRunner().invoke(app, [command, "--json"])
    assert done.exit_code == 0
    assert backlog.query("select count(*) from int_shop__much") == [(30,)]


class _Interrupt:
    """Whoever sleeps for so long is interrupted."""

    def __index__(self) -> int:
        raise KeyboardInterrupt


def _workers(session: int) -> list[int]:
    """Processes of the session that the pool's server has forked; initdb forks some too, for a moment."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, _, of = stat.read_text().rpartition(")")[2].split()[:4]
            is_pool = b"multiprocessing.forkserver" in stat.with_name("cmdline").read_bytes()
            if int(of) == session and state != "Z" and is_pool:
                parents[int(stat.parent.name)] = int(parent)
    servers = {pid for pid, parent in parents.items() if parent == session}
    return sorted(pid for pid, parent in parents.items() if parent in servers)
