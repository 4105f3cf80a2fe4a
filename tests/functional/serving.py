"""`lakeward up` on a lake, and Dagster's own record of what it does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg  # noqa: TID253

from tests.scratch import ScratchLake, clean_environment
from tests.servers import free_port

RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "definitions.py") {
  __typename ... on WorkspaceLocationEntry { locationOrLoadError { __typename } } } }
"""


@dataclass
class Up:
    """`lakeward up` on a lake, and Dagster's own record of what it did."""

    lake: ScratchLake
    process: subprocess.Popen[str]
    url: str
    instance: dg.DagsterInstance

    def ask(self, query: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def reload(self) -> None:
        entry = self.ask(RELOAD)["reloadRepositoryLocation"]
        assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation", entry

    def wait(self, what: Callable[[], object], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, "lakeward up has ended"
            assert time.monotonic() < deadline, self.runs()
            time.sleep(1)

    def runs(self) -> list[tuple[str, str]]:
        """Steps and status of every run, oldest first."""
        return [
            (
                " ".join(sorted(str(key.to_user_string()) for key in run.asset_selection or ())),
                run.status.value,
            )
            for run in reversed(self.instance.get_runs())
        ]

    def failures(self, feeder: str) -> int:
        return sum(feeder in names.split() and status == "FAILURE" for names, status in self.runs())

    def many(self) -> list[str]:
        """The files of shop/many that were applied."""
        return [name for name in self.lake.events() if name.startswith("many-")]

    def builds(self, mart: str) -> list[str]:
        rows = self.lake.query(f"select event from meta.build_log where model = '{mart}' order by rowid")
        return [event for (event,) in rows]

    def checked(self, name: str) -> Sequence[Any]:
        """What a dbt test of the items has said, newest first."""
        key = dg.AssetCheckKey(dg.AssetKey("int_shop__items"), name)
        return self.instance.event_log_storage.get_asset_check_execution_history(key, limit=20)

    def ticks(self) -> list[Any]:
        (state,) = (state for state in self.instance.all_instigator_state() if state.name == "landing")
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5))


@contextlib.contextmanager
def serving(lake: ScratchLake) -> Iterator[Up]:
    port, home = free_port(), lake.root / ".lake" / "dagster"
    with (lake.root / "up.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lakeward", "up", "--port", str(port)],
            cwd=lake.root, env=clean_environment(), stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: "), line
        try:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                yield Up(lake, process, f"http://127.0.0.1:{port}", instance)
        finally:
            process.stdout.close()
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not programs_in(lake.root), "left behind"


def programs_in(root: Path) -> dict[int, str]:
    """Command lines by process, of all that belong to the lake but this one."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if str(root).encode() in words + (folder / "environ").read_bytes():
                found[int(folder.name)] = words.replace(b"\0", b" ").decode()
    found.pop(os.getpid(), None)
    return found
