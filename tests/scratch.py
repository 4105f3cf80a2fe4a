"""A lake of the real engine in a folder of its own, and the real servers it may stand on."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
from obstore.exceptions import BaseError
from obstore.store import S3Store

from lakeward import embedded
from lakeward.attaching import extension_path as extension
from lakeward.attempt import FeedReport, Progress
from lakeward.errors import LakeError
from lakeward.lake import open_lake
from lakeward.project import Project, open_project, open_tools
from lakeward.workers import feed_all
from tests.launcher import Launcher

REPOSITORY = Path(__file__).parent.parent
SETTING = ("LAKEWARD_", "AWS_", "DBT_")  # how variables begin that set something of a lake

MODEL = """
{{ config(
    tags=['processed', 'SOURCE__STREAM'],
    materialized='incremental',
    unique_key='item_id',
    incremental_strategy='delete+insert'
) }}

select
    filename as _source_file,
    id as item_id,
    attributes::JSON->>'$.word' as word,
    cast(attributes::JSON->>'$.amount' as double) as amount,
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc) = 1
"""

# Without a key a file loaded twice shows as doubled rows.
APPEND = MODEL.replace("    unique_key='item_id',\n", "").replace("delete+insert", "append")
APPEND = APPEND[: APPEND.index("qualify")]


@dataclass
class ScratchLake:
    """A lake in a temporary folder; `land` writes what Airbyte would, everything else is the real thing.

    store: a bucket that is the landing zone instead of the folder, and holds what the folder holds whenever
    lakeward is asked for anything.
    """

    root: Path
    store: S3Store | None = None
    _pushed: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def project_dir(self) -> Path:
        return self.root / "orchestration"

    @property
    def landing(self) -> Path:
        return self.root / ".lake" / "landing"

    def write(self, path: str, text: str) -> Path:
        target = self.project_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def add_stream(self, stream: str, *, config: dict[str, Any] | None = None, model: str = MODEL) -> None:
        """A stream file and its model, by the conventions."""
        source, name = stream.split("/")
        self.write(f"dag/streams/{stream}.json", json.dumps(config or {}))
        sql = model.replace("SOURCE", source).replace("STREAM", name)
        self.write(f"dag/processed/{source}/int_{source}__{name}.sql", sql)

    def land(
        self, stream: str, day: int, name: str, ids: range, *, word: str = "a", at: str | None = None
    ) -> Path:
        """One landed file: a row per id, extracted at `at` (default: noon of its partition)."""
        extracted = at or f"2026-11-{day:02} 12:00:00+00"
        return self.land_sql(
            stream,
            day,
            name,
            f"""select 'r' || i as _airbyte_raw_id, timestamptz '{extracted}' as _airbyte_extracted_at,
                1::bigint as _airbyte_generation_id, i::bigint as id,
                {{'word': '{word}', 'amount': i * 1.5}} as attributes
            from range({ids.start}, {ids.stop}) as t(i)""",
        )

    def land_sql(self, stream: str, day: int, name: str, select: str) -> Path:
        folder = self.landing / "raw" / stream / f"year=2026/month=11/day={day:02}"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.partial"
        with duckdb.connect() as con:
            con.execute(f"copy ({select}) to '{partial}' (format parquet)")
        return partial.rename(folder / name)

    def push(self) -> None:
        """Make the bucket what the folder is. Nothing to do where the folder is the landing zone."""
        if self.store is None:
            return
        there = {}
        for path in self.landing.rglob("*"):
            if path.is_file():
                there[str(path.relative_to(self.landing))] = (path.stat().st_size, path.stat().st_mtime_ns)
        for name in self._pushed.keys() - there.keys():
            self.store.delete(name)
        for name, seen in there.items():
            if self._pushed.get(name) != seen:
                self.store.put(name, self.landing / name)
        self._pushed = there

    def project(self) -> Project:
        self.push()
        return open_project(self.root)

    def feed(self, *streams: str) -> dict[str, FeedReport]:
        """In this process, with one worker; the CLI's way is `cli`."""
        project = self.project()
        said: list[Progress] = []
        with open_tools(project.settings, said.append) as tools:
            chosen = [stream for stream in project.streams if not streams or stream.id in streams]
            return {report.stream: report for report in feed_all(project.manifest.jobs(chosen), tools)}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with open_lake(self.project().settings, read_only=True) as lake:
            assert lake is not None
            return lake.query(sql)

    def tables(self) -> list[str]:
        """Of `lakehouse.main`."""
        rows = self.query(
            "select table_name from duckdb_tables() where database_name = 'lakehouse' "
            "and schema_name = 'main' order by all"
        )
        return [name for (name,) in rows]

    def table(self, model: str) -> list[tuple[Any, ...]]:
        """Rows as (item_id, word), in key order."""
        return self.query(f"select item_id, word from main.{model} order by all")

    def events(self, event: str = "applied") -> list[str]:
        """File names of the ledger's events, in the order they were written."""
        rows = self.query(f"select path from meta.feeder_log where event = '{event}' order by rowid")
        return [path.rsplit("/", 1)[-1] for (path,) in rows]

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.push()
        return run_program("lakeward", *arguments, cwd=self.root, check=check)

    def dbt(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.push()
        return run_program("dbt", *arguments, cwd=self.project_dir, check=check)


def clean_environment() -> dict[str, str]:
    """This process's, without what would set a lake's settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith(SETTING)}


def copy_checkout(target: Path) -> None:
    """The working tree's tracked and new files."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)


@cache
def launcher() -> Launcher:
    made = Launcher()
    atexit.register(made.close)
    return made


def run_program(
    program: str, *arguments: str, cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """A program of this environment, as a user would start it; shows what it said when it fails."""
    done = launcher().start(program, *arguments, cwd=cwd).wait()
    if check and done.returncode:
        raise AssertionError(
            f"{program} {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """A network Postgres on 127.0.0.1: the wheel's binaries, a database per lake."""

    def __init__(
        self,
        folder: Path,
        *,
        copy_of: PostgresServer | None = None,
        programs: Path = Path(),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """copy_of: of which it is a standby, until promoted. programs: another Postgres's.

        certificate: and its key; without TLS nobody gets in then.
        """
        self._programs = programs
        self._has_tls = certificate is not None
        self.data = folder / "data"
        self.port = free_port()
        self._server = ("--host=127.0.0.1", f"--port={self.port}", "--username=lake")
        embedded._own(folder)
        if copy_of is None:
            self._run("initdb", f"--pgdata={self.data}", "--username=lake", "--auth=trust", "--no-sync")
            (self.data / "pg_hba.conf").write_text(
                "host all lake 127.0.0.1/32 trust\nhost replication lake 127.0.0.1/32 trust\n"
                "host all all 127.0.0.1/32 scram-sha-256\n"
            )
        else:
            flags = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
            self._run("pg_basebackup", f"--pgdata={self.data}", *copy_of._server, *flags)
        if certificate is not None:
            for source, name in zip(certificate, ("server.crt", "server.key"), strict=True):
                shutil.copy(source, self.data / name)
                os.chown(self.data / name, self.data.stat().st_uid, self.data.stat().st_gid)
                (self.data / name).chmod(0o600)
            (self.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        self.start()

    def start(self, *, small_disk: Path | None = None) -> None:
        """small_disk: a folder that is a file system of 24 MB to this server, and to nobody else."""
        tls = "-c ssl=on " if self._has_tls else ""
        command = (
            "pg_ctl", "start", "--wait", "--silent", f"--pgdata={self.data}", f"--log={self.data}/server.log",
            f"--options={tls}-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories= "
            "-c fsync=off -c max_connections=300",
        )  # fmt: skip
        if small_disk is None:
            self._run(*command)
            return
        uid, gid = embedded._account()
        mount = f"mount -t tmpfs -o size=24m,mode=700,uid={uid},gid={gid} none {small_disk}"
        become = f"setpriv --reuid={uid} --regid={gid} --clear-groups"
        program, *arguments = command
        subprocess.run(
            [
                "unshare", "--mount", "sh", "-c", f'{mount} && exec {become} "$@"', "sh",
                str(embedded._binaries() / program), *arguments,
            ],
            cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def psql(self, database: str, sql: str) -> None:
        """Statements as psql sends them: outside a transaction."""
        self._run("psql", *self._server, "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql)

    def start_after_kill(self) -> None:
        """Its children need a moment to let go of shared memory."""
        embedded._forget_the_dead(self.data / "postmaster.pid")
        for _ in range(50):
            with suppress(LakeError):
                self.start()
                return
            time.sleep(0.2)
        raise AssertionError(self.log()[-2000:])

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "stop", f"--mode={mode}", "--silent", f"--pgdata={self.data}")

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "--wait", "--silent", f"--pgdata={self.data}")

    def _run(self, program: str, *arguments: str) -> None:
        embedded._pg(str(self._programs / program), *arguments)

    def create_database(self, name: str) -> str:
        self._run("createdb", *self._server, name)
        return self.url(name)

    def copy_database(self, name: str, copy: str) -> None:
        self._run("createdb", *self._server, f"--template={name}", copy)

    def drop_database(self, name: str) -> None:
        self._run("dropdb", *self._server, "--force", name)

    def run_script(self, database: str, script: Path) -> None:
        """As psql does it. Raises LakeError with its last words."""
        readable = self.data.with_name(script.name)  # as root the program runs as nobody
        shutil.copy(script, readable)
        readable.chmod(0o644)
        self._run("psql", *self._server, "--no-psqlrc", "--quiet", f"--file={readable}", database)

    def text(self, name: str) -> str:
        """All that is in the database."""
        path = self.data.with_name("text.sql")
        self._run("pg_dump", *self._server, f"--file={path}", name)
        return path.read_text()

    def dump(self, name: str) -> Path:
        """The database as a file that `restore` takes, while others are at work in it."""
        path = self.data.parent / f"{name}.dump"
        self._run("pg_dump", *self._server, "--format=custom", f"--file={path}", name)
        return path

    def restore(self, dump: Path, name: str) -> None:
        self._run("createdb", *self._server, name)
        self._run("pg_restore", *self._server, f"--dbname={name}", str(dump))

    def run(self, database: str, sql: str) -> list[str]:
        """One statement; the first column of its rows. Raises AssertionError with Postgres's words."""
        with duckdb.connect() as con:
            con.execute(f"load '{extension('postgres_scanner')}'")
            address = f"host=127.0.0.1 port={self.port} user=lake dbname={database}"
            con.execute(f"attach '{address}' as server (type postgres)")
            try:
                if sql.startswith("select"):
                    return [
                        str(row[0])
                        for row in con.execute("from postgres_query('server', ?)", [sql]).fetchall()
                    ]
                con.execute("call postgres_execute('server', ?)", [sql])
            except duckdb.Error as error:
                raise AssertionError(str(error)) from error
        return []

    def log(self) -> str:
        return (self.data / "server.log").read_text()

    def url(self, name: str, user: str = "lake") -> str:
        """user: with its password, where it has one."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}"


WEED = str(Path(sys.executable).parent / "weed")


class S3Server:
    """SeaweedFS on 127.0.0.1, every one of its ports chosen by us so that parallel runs share a machine."""

    KEY, SECRET, BUCKET = "AKIDLAKEWARDTEST", "SECRETLAKEWARDTEST", "lake"

    def __init__(self, folder: Path, certificate: tuple[Path, Path] | None = None) -> None:
        """certificate: and its key; the server listens with TLS as well, at `tls_endpoint`."""
        port = free_port()
        names = ("master.port", "volume.port", "filer.port", "admin.port")
        ours = {f"{name}{kind}": free_port() for name in names for kind in ("", ".grpc")}
        flags = [f"-{name}={number}" for name, number in ours.items()]
        if certificate is not None:
            tls_port = free_port()
            self.tls_endpoint = f"https://127.0.0.1:{tls_port}"
            flags += [f"-s3.port.https={tls_port}"]
            flags += [f"-s3.cert.file={certificate[0]}", f"-s3.key.file={certificate[1]}"]
        self._master = f"127.0.0.1:{ours['master.port']}.{ours['master.port.grpc']}"
        self._credentials = {"AWS_ACCESS_KEY_ID": self.KEY, "AWS_SECRET_ACCESS_KEY": self.SECRET}
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = self._credentials | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1"}
        self._command = [
            WEED, "mini", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-s3.port={port}", "-admin.ui=false", "-webdav=false",
            "-s3.port.iceberg=0", *flags,
        ]  # fmt: skip
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._server = subprocess.Popen(
            self._command,
            env=self._credentials | {"S3_BUCKET": self.BUCKET},
            cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._server.pid

    def store(self, prefix: str, *, bucket: str = BUCKET, key: str = KEY, secret: str = SECRET) -> S3Store:
        return S3Store(
            bucket, prefix=prefix, endpoint=self.endpoint, access_key_id=key,
            secret_access_key=secret, region="us-east-1", virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )  # fmt: skip

    def shell(self, *commands: str) -> None:
        """Of SeaweedFS's own shell. It leaves with 0 whatever happens."""
        done = subprocess.run(
            [WEED, "shell", f"-master={self._master}"],
            input="\n".join(commands), check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "error" not in done.stdout + done.stderr, done.stdout + done.stderr

    def add_user(self, name: str, *policies: Path, secret: str | None = None) -> dict[str, str]:
        """A user with just these policies; the variables that a program has to have to be it."""
        key, secret = f"AKID{name.upper()}", secret or f"SECRET{name.upper()}"
        self.shell(
            f"s3.user.create -name={name} -access_key={key} -secret_key={secret}",
            *(f"s3.policy -put -name={policy.stem} -file={policy}" for policy in policies),
            *(f"s3.policy.attach -user={name} -policy={policy.stem}" for policy in policies),
        )
        return self.environment | {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def close(self) -> None:
        self._server.kill()  # asked to end it takes ten seconds
        self._server.wait(30)

    def start_after_kill(self) -> None:
        """Ready when it gives what it holds: it calls itself healthy some seconds before that."""
        self._server.wait(30)
        self.start()
        store = self.store("")
        keys = [meta["path"] for page in store.list() for meta in page]
        deadline = time.monotonic() + 60
        while keys:
            try:
                store.get(keys[-1]).bytes()
                keys.pop()
            except BaseError:
                assert time.monotonic() < deadline, f"seaweedfs does not give {keys[-1]}"

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._server.poll() is None, "seaweedfs ended"
            with suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError("seaweedfs did not become ready")


def remove_catalog(root: Path) -> None:
    """As root on a closed path the embedded catalog lies outside the temporary folder, behind a link."""
    link = root / ".lake" / "catalog"
    if link.is_symlink():
        shutil.rmtree(link.resolve().parent)


def scratch_lake(root: Path) -> ScratchLake:
    """An empty lake with the repository's own project files and macros."""
    shipped = REPOSITORY / "orchestration"
    project = root / "orchestration"
    (project / "dag" / "streams").mkdir(parents=True)
    (root / ".lake" / "landing").mkdir(parents=True)
    for name in ("dbt_project.yml", "profiles.yml", "lakeward.toml", "definitions.py"):
        shutil.copy(shipped / name, project / name)
    shutil.copytree(shipped / "macros", project / "macros")
    return ScratchLake(root)
