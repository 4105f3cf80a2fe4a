"""Several streams at once, a process each: what becomes of the others when one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

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


def _workers(session: int) -> list[int]:
    """Processes of the session that the pool's server has forked."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, _, of = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    servers = {pid for pid, parent in parents.items() if parent == session}
    return sorted(pid for pid, parent in parents.items() if parent in servers)
