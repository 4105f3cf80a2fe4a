"""How long a run of Dagster takes from its start to a loaded file, under `lakeward up` on the sample shop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.lakes import BIN, Lake
from benchmarks.measure import Usage

if TYPE_CHECKING:
    import dagster as dg

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class FeederRun:
    """usage: wall since Dagster made the run, the rest of its process. started, step: seconds since then."""

    usage: Usage
    started: float
    step: float
    made: float  # when, in seconds since 1970


@contextmanager
def dagster_on(lake: Lake, port: int) -> Iterator[dg.DagsterInstance]:
    import dagster as dg

    command = [str(BIN / "lakeward"), "up", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=lake.root, env=lake.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith("ready"):
            sys.exit("lakeward up did not become ready")
        with dg.DagsterInstance.from_config(str(lake.root / ".lake" / "dagster")) as instance:
            yield instance
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def next_run(instance: dg.DagsterInstance, known: set[str]) -> FeederRun:
    """Wait for a run that is not among the known, and for its end; adds it to them."""
    import dagster as dg

    while not (new := {record.dagster_run.run_id for record in instance.get_run_records()} - known):
        time.sleep(0.05)
    known |= new
    (run_id,) = new
    process, usage = None, Usage(0, 0, 0)
    while True:
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
        if record.end_time is not None:
            break
        process = process or _process(instance, run_id)
        usage = _used(process) or usage
        time.sleep(0.05)
    if record.dagster_run.status != dg.DagsterRunStatus.SUCCESS:
        sys.exit(f"run {run_id} ended as {record.dagster_run.status.value}")
    made = record.create_timestamp.timestamp()
    (step,) = (entry.timestamp for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START))
    assert record.start_time is not None
    ended = record.end_time - made
    return FeederRun(Usage(ended, usage.cpu, usage.rss), record.start_time - made, step - made, made)


def _process(instance: dg.DagsterInstance, run_id: str) -> int | None:
    for entry in instance.all_logs(run_id):
        told = entry.dagster_event.message if entry.dagster_event else None
        if found := re.match(r"Started process for run \(pid: (\d+)\)", told or ""):
            return int(found[1])
    return None


def _used(process: int | None) -> Usage | None:
    """So far; None before it runs and when it is gone."""
    with suppress(OSError):
        if process is not None:
            ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]
            memory = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
            return Usage(0, sum(map(int, ticks)) / _TICK, int(memory[1]) / 1024 if memory else 0)
    return None
