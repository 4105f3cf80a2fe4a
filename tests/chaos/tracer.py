"""Runs inside a lakeward or dbt process: numbers what it does, writes that down, and strikes at one step.

A step is a statement, a listing, or a call of the plugin. What a step belongs to is its phase. The trace is a
line per beginning and end of a step, written before the step goes on, so its last line tells where a killed
process was. A strike kills the process, its catalog or both, or its store; or holds the process until a file
appears.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.environments.local import DuckDBCursorWrapper  # noqa: TID253 - runs inside dbt

import lakeward.attaching
import lakeward.feed
import lakeward.lake
import lakeward.landing
import lakeward.ledger
import lakeward.meta
import lakeward.plugin  # noqa: TID253
import lakeward.refresh

_OF_DBT = (  # the first that is found names the phase
    ("mart", r"node_id.{4}\"?model\.\w+\.fct_|build_log"),
    ("commit", r"^commit"),
    ("begin", r"^begin"),
    ("rollback", r"^rollback"),
    ("pre-hook", r"set_commit_message"),
    ("post-hook", r"insert into lakehouse\.meta"),
    ("swap", r"^alter"),
    ("drop", r"^drop"),
    ("write", r"lakeward_new|^insert into"),
    ("create", r"^create"),
)


class Tracer:
    def __init__(self, trace: str, strike: dict[str, Any] | None) -> None:
        self._file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._plan = strike or {}
        self._count = 0
        self._is_signed = False
        self._within: list[str] = []

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Statements inside belong to `phase`."""
        self._within.append(phase)
        try:
            yield
        finally:
            self._within.pop()

    def step(self, phase: str, call: Callable[[], Any], detail: str = "") -> Any:
        number, self._count = self._count, self._count + 1
        phase = self._within[-1] if self._within else self._as_meant(phase)
        where = self._plan.get("where") if self._is_meant(number, phase) else None
        self._write(number=number, phase=phase, at="before", detail=detail)
        if where == "before":
            self._strike()
        self._write(number=number, phase=phase, at="inside")
        started = time.perf_counter()
        if where == "inside":
            threading.Timer(self._plan["delay"], self._strike).start()
        result = call()
        self._write(number=number, phase=phase, at="after", seconds=time.perf_counter() - started)
        if where == "after":
            self._strike()
        return result

    def _as_meant(self, phase: str) -> str:
        """dbt also commits what changes nothing: that is a statement like any other."""
        if phase in ("pre-hook", "mart"):
            self._is_signed = True
        elif phase in ("commit", "rollback"):
            phase = phase if self._is_signed else "statement"
            self._is_signed = False
        return phase

    def _is_meant(self, number: int, phase: str) -> bool:
        """The step of that number; or, where only a phase is given, its first one."""
        if "number" in self._plan:
            return bool(self._plan["number"] == number)
        return bool(self._plan.get("phase") == phase and not self._plan.get("done"))

    def _write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def _strike(self) -> None:
        self._plan["done"] = True
        self._write(struck=True)
        target = self._plan["target"]
        if target in ("catalog", "both", "postgres"):
            kill_postgres(Path(self._plan["catalog"]))
        if target == "store":
            os.kill(self._plan["store"], signal.SIGKILL)
        if target in ("process", "both"):
            os.killpg(0, signal.SIGKILL)
        while target == "pause" and not Path(self._plan["until"]).exists():
            time.sleep(0.02)


class _Connection:
    """DuckDB's connection, whose statements are steps."""

    def __init__(self, tracer: Tracer, con: Any) -> None:
        self._tracer, self._con = tracer, con

    def execute(self, sql: str, *rest: Any) -> Any:
        return self._tracer.step(_phase(sql, "look"), lambda: self._con.execute(sql, *rest), _detail(sql))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)


def install(trace: str, strike: dict[str, Any] | None = None) -> None:
    """Called in the process before its program (tests/launcher.py)."""
    tracer = Tracer(trace, strike)

    def nested(owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            with tracer.within(phase):
                return original(*args, **options)

        setattr(owner, name, wrapped)

    def stepped(owner: Any, name: str, phase: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            return tracer.step(phase(*args), lambda: original(*args, **options))

        setattr(owner, name, wrapped)

    for module in (lakeward.feed, lakeward.plugin, lakeward.refresh):
        nested(module, "read", "reading")
    nested(lakeward.meta, "_create", "bootstrap")
    nested(lakeward.refresh, "_swap", "refresh swap")
    nested(lakeward.ledger.Ledger, "_append", "events")
    stepped(lakeward.attaching, "_attach", lambda *_: "attach")
    stepped(lakeward.plugin.Plugin, "store", _plugin_phase)

    listed = lakeward.landing.Landing.list

    def listing(*args: Any) -> Iterator[Any]:
        yield from tracer.step("listing", lambda: list(listed(*args)))

    lakeward.landing.Landing.list = listing  # type: ignore[method-assign, assignment]

    made = lakeward.lake.Lake.__init__

    def make(lake: Any, con: Any, *rest: Any) -> None:
        made(lake, _Connection(tracer, con), *rest)  # type: ignore[arg-type]

    lakeward.lake.Lake.__init__ = make  # type: ignore[method-assign, assignment]

    execute: Callable[..., Any] = DuckDBCursorWrapper.execute

    def executing(cursor: Any, sql: str, bindings: Any = None) -> Any:
        return tracer.step(_phase(sql, "statement"), lambda: execute(cursor, sql, bindings), _detail(sql))

    DuckDBCursorWrapper.execute = executing  # type: ignore[method-assign]


def kill_postgres(data: Path) -> None:
    """SIGKILL to the server that runs on this data folder, and to all its children, if it has not ended."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
    except FileNotFoundError:
        return
    family = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                family.append(int(stat.parent.name))
    for member in family:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _phase(sql: str, otherwise: str) -> str:
    text = re.sub(r"^\s*(/\*.*?\*/\s*)?", "", sql, flags=re.DOTALL).lower()
    if "parquet_" in text and "metadata" in text:
        return "footers"
    for phase, pattern in _OF_DBT:
        if re.search(pattern, sql if phase == "mart" else text):
            return phase
    return otherwise


def _detail(sql: str) -> str:
    """The batch of a signed transaction."""
    found = re.search(r'"batch_id": "([^"]*)"', sql)
    return found[1] if found else ""


def _plugin_phase(_: object, target: Any) -> str:
    request = target.config
    return "verify" if request.get("verify") else "bootstrap" if request.get("bootstrap") else "rendering"
