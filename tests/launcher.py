"""Starts `lakeward` and `dbt` as processes of their own, without paying for their imports each time.

A helper process imports them once and forks a child per start. The child gets its own session, folder,
environment and streams, runs the program's own entry point and ends as the interpreter ends; killing
it kills what a user's process would be. `python -m tests.launcher SOCKET` is the helper.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dbt.cli.main  # noqa: TID253 - these imports are what the helper is for
import dbt.task.run  # noqa: TID253
import duckdb

import lakeward.cli
import lakeward.transform  # noqa: TID253

_ROOT = Path(__file__).parent.parent


@dataclass
class Running:
    """A started program, in a session of its own."""

    pid: int
    arguments: list[str]
    _connection: socket.socket
    _output: Path

    def wait(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Its end: exit code (negative: the signal), what it said. Call it once.

        Raises TimeoutError when it has not ended by then; it goes on.
        """
        self._connection.settimeout(timeout)
        code = json.loads(self._connection.recv(64))["code"]
        self._connection.close()
        done = subprocess.CompletedProcess(self.arguments, code, self.said("out"), self.said("err"))
        shutil.rmtree(self._output)
        return done

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the program and everything it started; nothing happens when all have ended."""
        for send in (os.killpg, os.kill):  # in its first instant it is no group yet
            try:
                send(self.pid, number)
                return
            except ProcessLookupError:
                continue

    def said(self, stream: str) -> str:
        """What it wrote to `out` or `err` so far."""
        path = self._output / stream
        return path.read_text() if path.exists() else ""


class Launcher:
    """The helper's other end. One per test process."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lakeward-launcher-")
        self._address = f"{self._folder.name}/socket"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen(64)
        with listening:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", "tests.launcher", str(listening.fileno())],
                cwd=_ROOT, pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def start(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        before: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Running:
        """Start `lakeward …`, `dbt …` or `python FILE …` in `cwd`.

        before: `module:function`, called in the new process with `options` before the program.
        """
        output = tempfile.mkdtemp(dir=self._folder.name)
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "env": dict(os.environ if env is None else env),
            "output": output,
            "before": before,
            "options": dict(options or {}),
        }
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        pid = json.loads(connection.recv(64))["pid"]
        return Running(pid, list(arguments), connection, Path(output))

    def close(self) -> None:
        self._helper.terminate()
        self._helper.wait()
        self._folder.cleanup()


def trust_extensions() -> None:
    """Let this process's DuckDBs load extensions unchecked.

    Each would hash 78 MB of them before it opens a lake, which was a quarter of what the tests took. The
    check has its own test (tests/unit/test_lake.py), and processes that no launcher forks still make it.
    """
    connect = duckdb.connect

    @functools.wraps(connect)
    def unchecked(*args: Any, **kwargs: Any) -> Any:
        kwargs["config"] = (kwargs.get("config") or {}) | {"allow_unsigned_extensions": True}
        return connect(*args, **kwargs)

    duckdb.connect = unchecked


def _serve(listening: socket.socket) -> Callable[[], None]:
    """Runs until terminated; returns only in a child, with what the child is to do."""

    import lakeward.cli
    import lakeward.transform  # noqa: F401

    trust_extensions()
    gc.freeze()  # nor do the children search what they share for garbage
    duckdb.default_connection().close()  # importing DuckDB starts one, with a thread
    threads = list(Path("/proc/self/task").iterdir())
    assert len(threads) == 1, "a process with threads must not fork"
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listening:
                connection, _ = listening.accept()
                request = json.loads(connection.makefile("rb").readline())
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    listening.close()
                    connection.close()
                    return functools.partial(_run, request)
                connection.sendall(json.dumps({"pid": pid}).encode())
                handle = os.pidfd_open(pid)
                selector.register(handle, selectors.EVENT_READ, (pid, connection))
            else:
                pid, connection = key.data
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(OSError):  # whoever started it may have gone
                    connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
                connection.close()
                selector.unregister(key.fd)
                os.close(key.fd)


def _run(request: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for name, number in (("out", 1), ("err", 2)):
        target = os.open(f"{request['output']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, number)
        os.close(target)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    program, *arguments = request["arguments"]
    sys.argv = [program, *arguments]
    if request["before"] is not None:
        module, _, function = request["before"].partition(":")
        getattr(__import__(module, fromlist=[function]), function)(**request["options"])
    if program == "dbt":
        dbt.cli.main.cli()
    elif program == "lakeward":
        lakeward.cli.main()
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    action = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    action()
