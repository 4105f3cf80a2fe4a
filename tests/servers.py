"""The real servers that tests stand on, on 127.0.0.1: a Postgres, SeaweedFS and Azurite as object stores."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import duckdb
from obstore.exceptions import BaseError
from obstore.store import AzureStore, S3Store

from lakeward import embedded
from lakeward.attaching import extension_path as extension
from lakeward.errors import LakeError

SETTINGS = ("folder-embedded", "folder-network", "s3-embedded", "s3-network")


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
            "-s3.port.iceberg=0", "-s3.port.lance=0", *flags,
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
        """It calls itself healthy before its bucket is there."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._server.poll() is None, "seaweedfs ended"
            with (
                suppress(OSError, BaseError),
                urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=1),
            ):
                next(iter(self.store("").list()), None)
                return
            time.sleep(0.2)
        raise AssertionError("seaweedfs did not become ready")


class AzureServer:
    """Azurite on 127.0.0.1, in memory, with one account and one container."""

    ACCOUNT, KEY, CONTAINER = "lakewardtest", base64.b64encode(b"azure-hush-key" * 3).decode(), "lake"

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}/{self.ACCOUNT}"
        self.environment = {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={self.ACCOUNT};"
            f"AccountKey={self.KEY};BlobEndpoint={self.endpoint};"
        }
        self._server = subprocess.Popen(
            [
                "azurite-blob", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck",
                "--silent", "--blobHost=127.0.0.1", f"--blobPort={port}",
            ],
            env=os.environ | {"AZURITE_ACCOUNTS": f"{self.ACCOUNT}:{self.KEY}"},
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._create_container()
        except BaseException:
            self.close()
            raise

    def store(self, prefix: str) -> AzureStore:
        return AzureStore(
            self.CONTAINER, prefix=prefix, endpoint=self.endpoint, account_name=self.ACCOUNT,
            account_key=self.KEY, client_options={"allow_http": True},
        )  # fmt: skip

    def sas_token(self) -> str:
        """For everything in the container, with the key's signature."""
        permissions, expiry, version = "racwdl", "2099-01-01T00:00:00Z", "2020-12-06"
        place = f"/blob/{self.ACCOUNT}/{self.CONTAINER}"
        signed = [permissions, "", expiry, place, "", "", "", version, "c", *[""] * 7]
        signature = quote(self._signature("\n".join(signed)), safe="")
        return f"sv={version}&sr=c&sp={permissions}&se={quote(expiry)}&sig={signature}"

    def close(self) -> None:
        self._server.kill()
        self._server.wait(30)

    def _create_container(self) -> None:
        """obstore and DuckDB take a container that is there."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in headers.items())]
        lines += [f"/{self.ACCOUNT}/{self.ACCOUNT}/{self.CONTAINER}", "restype:container"]
        headers["Authorization"] = f"SharedKey {self.ACCOUNT}:{self._signature(chr(10).join(lines))}"
        url = f"{self.endpoint}/{self.CONTAINER}?restype=container"
        request = urllib.request.Request(url, method="PUT", headers=headers)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._server.poll() is None, "azurite ended"
            with suppress(ConnectionError, urllib.error.URLError), urllib.request.urlopen(request, timeout=5):
                return
            time.sleep(0.2)
        raise AssertionError("azurite did not become ready")

    def _signature(self, text: str) -> str:
        return base64.b64encode(
            hmac.digest(base64.b64decode(self.KEY), text.encode(), hashlib.sha256)
        ).decode()
