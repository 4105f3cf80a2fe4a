"""What `lakeward sync` costs beside what the connector itself costs: Airbyte's source-faker, from PyPI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.lakes import BIN, ROOT, Lake, fresh_lake, parsed
from benchmarks.measure import Usage
from lakeward.connector import Connector, install
from lakeward.settings import inherited
from lakeward.sources import find_source


def faker_project(folder: Path) -> Path:
    """The example's three streams as a project, without models of the shop."""
    project = folder / "faker"
    ignored = shutil.ignore_patterns("dag", "sources", "target", "logs")
    shutil.copytree(ROOT / "orchestration", project, ignore=ignored)
    shutil.copytree(ROOT / "examples" / "faker" / "orchestration", project, dirs_exist_ok=True)
    return parsed(project)


@contextmanager
def faker_lake(project: Path, count: int, scratch: Path) -> Iterator[tuple[Lake, Path, dict[str, Any]]]:
    """A lake whose source has twice `count` records, and a few; the connector's program and configuration."""
    source = find_source(project, "faker")
    program = install(source.config.connector, None, scratch / "connectors", inherited())
    config = source.config.config | {"count": count, "parallelism": 1}
    written = {"connector": source.config.connector, "config": config}
    (project / "sources" / "faker.yml").write_text(json.dumps(written))
    landing = scratch / f"landing-faker-{count}"
    shutil.rmtree(landing, ignore_errors=True)
    landing.mkdir()
    with fresh_lake(project, landing, scratch) as lake:
        (lake.root / ".lake" / "connectors").symlink_to(scratch / "connectors")
        watched([str(BIN / "lakeward"), "feed"], lake)  # a lake is set up once, and synced often
        yield lake, program, config


def alone(program: Path, config: dict[str, Any], lake: Lake) -> Usage:
    """discover and read, as any runner must call them; what read says goes to /dev/null."""
    streams = Connector(program, config, folder=lake.root, environment=inherited()).discover()
    catalog = {
        "streams": [
            {"stream": stream, "sync_mode": "incremental", "destination_sync_mode": "append"}
            for stream in streams
        ]
    }
    given = {"config": config, "catalog": catalog}
    for name, value in given.items():
        (lake.root / f"{name}.json").write_text(json.dumps(value))
    read = f'"{program}" discover --config config.json && "{program}" read --config config.json'
    usage, _ = watched(["sh", "-c", f"({read} --catalog catalog.json) > /dev/null"], lake)
    return usage


def landed(lake: Lake) -> tuple[Usage, float]:
    """`lakeward sync`, and the MB that lakeward itself took at most."""
    return watched([str(BIN / "lakeward"), "sync", "faker"], lake)


def watched(command: list[str], lake: Lake) -> tuple[Usage, float]:
    started, own = time.perf_counter(), 0.0
    process = subprocess.Popen(command, cwd=lake.root, env=lake.env, stderr=subprocess.DEVNULL)
    while True:
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            own = max(own, float(found[1]) / 1024) if found else own
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} exited with {process.returncode}")
    wall = time.perf_counter() - started
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024), own
