"""What a command costs: wall, CPU and memory of it and its children.

`measure.py RESULT COMMAND...` is its own small process, because Linux counts the memory of whoever
starts a program to that program: measured from a process that has just checked ten million rows,
everything would seem to need its memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """wall and cpu in seconds (user + system, children included); rss: MB of the largest single process."""

    wall: float
    cpu: float
    rss: float


def measure(command: list[str], *, cwd: Path, env: dict[str, str], may_exit: tuple[int, ...] = (0,)) -> Usage:
    """Run `command` to its end in `cwd`. Exits with its last words when its exit code is unexpected."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        launcher = [sys.executable, "-S", __file__, result.name, *command]
        done = subprocess.run(
            launcher,
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode not in may_exit:
            sys.exit(f"{' '.join(command)[:300]} exited with {done.returncode}:\n{done.stdout[-3000:]}")
        return Usage(**json.load(result))


def _main(result: str, *command: str) -> int:
    started = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    found = {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "rss": used.ru_maxrss / 1024}
    Path(result).write_text(json.dumps(found))
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
