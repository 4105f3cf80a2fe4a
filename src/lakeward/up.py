"""`lakeward up`: Dagster's webserver and daemon on the lake, in the foreground."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lakeward.attaching import running_catalog
from lakeward.errors import ConfigError, LakewardError
from lakeward.settings import inherited

if TYPE_CHECKING:
    from lakeward.settings import Settings

_START_SECONDS, _STOP_SECONDS = 120, 30
# One writer per stream and no more runs at once than the lake has workers.
_INSTANCE = """\
# Written by `lakeward up` at every start.
concurrency:
  pools:
    granularity: run
    default_limit: 1
  runs:
    max_concurrent_runs: {workers}
run_monitoring:
  enabled: true
  poll_interval_seconds: 15
freshness:
  enabled: true
telemetry:
  enabled: false
python_logs:
  python_log_level: INFO
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
"""


def up(settings: Settings, port: int, ready: Callable[[str], None]) -> int:
    """Serve until interrupted or until Dagster ends by itself; returns its exit code then.

    Raises ConfigError when Dagster is not installed, there are no definitions, or the port is taken.
    """
    definitions = settings.project_dir / "definitions.py"
    if importlib.util.find_spec("dagster_webserver") is None:
        raise ConfigError("Dagster is not installed", hint='pip install "lakeward[dagster]"')
    if not definitions.is_file():
        raise ConfigError(f"no {definitions}", hint="docs/running-dagster.md has its three lines")
    from lakeward.definitions.leftovers import fail_leftovers  # a second of imports

    _refuse_taken(port)
    home = settings.state_dir / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    with _alone(home) as lock, running_catalog(settings):
        (home / "dagster.yaml").write_text(_INSTANCE.format(workers=settings.workers))
        fail_leftovers(home)
        with _dagster(definitions, home, port, lock) as process:
            lock.truncate(0)
            lock.write(f"{url}, process {process.pid}")
            lock.flush()
            _wait(process, url)
            ready(url)
            return process.wait()


@contextmanager
def _alone(home: Path) -> Iterator[IO[str]]:
    """A lock, for whoever holds it to say who he is; Dagster inherits it, so it stays when we are killed."""
    with (home / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"Dagster runs on this lake already: {lock.read()}", hint="use that one, or kill its process"
            ) from None
        yield lock


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"port {port}: {error.strerror}", hint="lakeward up --port N") from error


@contextmanager
def _dagster(definitions: Path, home: Path, port: int, lock: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own: a terminal's Ctrl-C reaches us alone, and we end it in order."""
    command = [
        sys.executable, "-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev",
        "--python-file", str(definitions), "--host", "127.0.0.1", "--port", str(port),
        "--log-level", "warning",
    ]  # fmt: skip
    # Inherited as ignored, as a shell's background jobs have it, Dagster would heed no signal at all.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = inherited() | {"DAGSTER_HOME": str(home)}
    process = subprocess.Popen(
        command, cwd=definitions.parent, env=environment, start_new_session=True, pass_fds=[lock.fileno()]
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, as Ctrl-C does; what does not leave in time is killed, with everything it started."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LakewardError(f"dagster dev ended with exit code {process.returncode}", hint="see above")
        with suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):  # noqa: S310 - our own
            return
        time.sleep(0.5)
    raise LakewardError(f"Dagster did not answer within {_START_SECONDS} s", hint="see above")
