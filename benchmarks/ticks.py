"""A thousand streams with a history, and ticks of the sensor `landing` in which nothing is new.

The history is made, not fed: landed files of one byte, and the ledger's events that feeds of them would
have left. Started by run.py, in the environment of the lake: `ticks.py prepare PROJECT FILES`, then
`ticks.py tick RESULT PROJECT COUNT`, which stands for a code server.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, from_url

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a file, not as a module

from benchmarks.lakes import MODEL, ROOT, parsed
from lakeward.meta import set_up
from lakeward.partitions import partition_folder
from lakeward.project import Project, open_project, open_tools

STREAMS = 1_000
_DAYS = 365
_AT_ONCE = 64  # uploads


def wide_project(scratch: Path) -> Path:
    """A thousand streams of a hundred sources, each with the orders' model, parsed: a quarter of a minute."""
    project = scratch / "wide-project"
    leave_out = shutil.ignore_patterns("target", "logs", "dag")
    shutil.copytree(ROOT / "orchestration", project, ignore=leave_out)
    sql = (ROOT / "orchestration" / MODEL).read_text()
    for number in range(STREAMS):
        source, name = f"s{number // 10:02}", f"t{number % 10}"
        model = sql.replace("shopify__orders", f"{source}__{name}")
        for path, text in {
            f"dag/streams/{source}/{name}.json": "{}",
            f"dag/processed/{source}/int_{source}__{name}.sql": model,
        }.items():
            (project / path).parent.mkdir(parents=True, exist_ok=True)
            (project / path).write_text(text)
    return parsed(project)


def _prepare(project_dir: str, files: str) -> None:
    project = open_project(Path(project_dir))
    asyncio.run(_land(project, int(files)))
    _note(project)


async def _land(project: Project, files: int) -> None:
    """A file a stream yesterday; the others on the days of a year that ended a month ago."""
    url = project.settings.landing_url
    store = (
        from_url(url, client_options={"allow_http": True}) if "://" in url else LocalStore(url, mkdir=True)
    )
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    days = [partition_folder(yesterday - timedelta(days=number)) for number in (0, *range(30, 30 + _DAYS))]
    numbers = (0, *(1 + number % _DAYS for number in range(files // STREAMS - 1)))
    paths = (
        f"{stream.root}{days[day]}{number // _DAYS}.parquet"
        for number, day in enumerate(numbers)
        for stream in project.streams
    )

    async def some() -> None:
        for path in paths:
            await obstore.put_async(store, path, b"x")

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


def _note(project: Project) -> None:
    """Tables, fences and events, as if everything that landed had been fed."""
    jobs = project.manifest.jobs(project.streams)
    names = [model.name for _, models in jobs for model in models]
    with open_tools(project.settings, lambda _: None) as tools, tempfile.NamedTemporaryFile("w") as events:
        set_up(tools.lake, names)
        with tools.lake.transaction():
            for name in names:
                tools.lake.query(f"create table main.{name} (order_id bigint)")
        write = csv.writer(events).writerow
        for stream, (model,) in jobs:
            write([stream.source, stream.name, None, "listed", *[None] * 5])
            write([stream.source, stream.name, model.name, "built", model.code, *[None] * 4])
            for file in tools.landing.list(stream):
                known = file.path, file.etag, file.size, file.partition
                write([stream.source, stream.name, model.name, "applied", model.code, *known])
        events.flush()
        tools.lake.query(
            f"""
            insert into meta.feeder_log by name
            select *, 1 as build, 1 as rows, now() as logged_at, now() as extracted_at, 'made' as batch_id
            from read_csv('{events.name}', header = false, columns = {{
                'source': 'varchar', 'stream': 'varchar', 'model': 'varchar', 'event': 'varchar',
                'code': 'varchar', 'path': 'varchar', 'etag': 'varchar', 'size': 'bigint',
                'partition_date': 'date'}})"""
        )


def _tick(result: str, project: str, count: str) -> None:
    """Write what each tick cost this process; the first, which reads everything once, stands first."""
    import dagster as dg

    from lakeward.definitions import build_definitions

    definitions = build_definitions(project)
    sensor, repository = definitions.resolve_sensor_def("landing"), definitions.get_repository_def()
    ticks: list[dict[str, Any]] = []
    cursor = None
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        for _ in range(int(count) + 1):
            context = dg.build_sensor_context(
                instance, cursor, repository_def=repository, sensor_name="landing"
            )
            wall, cpu = time.perf_counter(), time.process_time()
            done = sensor.evaluate_tick(context)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            ticks.append({"wall": wall, "cpu": cpu, "rss": used})
            if done.run_requests or "nothing pending" not in (done.skip_message or ""):
                sys.exit(f"not a quiet tick: {done.skip_message}")
            cursor = done.cursor
    Path(result).write_text(json.dumps(ticks))


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        _prepare(*sys.argv[2:])
    else:
        _tick(*sys.argv[2:])
