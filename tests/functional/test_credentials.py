"""Who lakeward is to the object store and to Postgres, and how it knows that they are who they say."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from lakeward.errors import ConfigError, LakewardError
from lakeward.lake import open_lake
from lakeward.landing import open_landing
from lakeward.settings import load_settings
from tests.scratch import ScratchLake
from tests.servers import PostgresServer, S3Server

DEBIAN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    made = authority.issue_cert("127.0.0.1", "localhost")
    made.cert_chain_pems[0].write_to_path(folder / "server.pem")
    made.private_key_pem.write_to_path(folder / "server.key")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    return folder / "server.pem", folder / "server.key"


@pytest.fixture(scope="module")
def s3(certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with closing(S3Server(tmp_path_factory.mktemp("seaweedfs"), certificate)) as server:
        yield server


@pytest.fixture
def remote(lake: ScratchLake, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> ScratchLake:
    """A lake on S3 with a landed file, and nothing that says how to get in."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    prefix = lake.root.name
    monkeypatch.setenv("LAKEWARD_LANDING_URL", f"s3://{S3Server.BUCKET}/{prefix}/landing")
    monkeypatch.setenv("LAKEWARD_DATA_URL", f"s3://{S3Server.BUCKET}/{prefix}/data")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    lake.add_stream("shop/items")
    path = lake.land("shop/items", 1, "a.parquet", range(10), word="a")
    s3.store(prefix).put(f"landing/{path.relative_to(lake.landing)}", path)
    return lake


def fed(lake: ScratchLake) -> int:
    lake.cli("feed")
    return len(lake.table("int_shop__items"))


def test_a_profile_says_who_where_and_how(
    remote: ScratchLake, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[profile shop]\nregion = eu-west-1\nendpoint_url = {s3.endpoint}\n")
    (tmp_path / "credentials").write_text(
        f"[shop]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "shop")
    assert fed(remote) == 10
    settings = load_settings(remote.project_dir)
    with open_lake(settings) as lake:
        assert lake is not None
        (tmp_path / "credentials").write_text(
            "[shop]\naws_access_key_id = AKIDGONE\naws_secret_access_key = SECRETGONE\n"
        )
        with pytest.raises(LakewardError, match="InvalidAccessKeyId"):
            [*open_landing(settings).list(remote.project().streams[0])]
        (file,) = remote.landing.rglob("*.parquet")
        with pytest.raises(LakewardError, match="403"):
            lake.query(f"from '{settings.landing_url}/{file.relative_to(remote.landing)}'")
    monkeypatch.setenv("AWS_PROFILE", "shopp")
    done = remote.cli("feed", check=False)
    assert done.returncode == 2
    assert "shopp" in done.stderr


@dataclass
class RoleOfAContainer:
    """Answers as the agent of a container service does: keys of a role, for a while."""

    keys: tuple[str, str]
    lasts: timedelta = timedelta(hours=1)
    asked: int = 0
    url: str = field(default="", init=False)

    @contextmanager
    def serving(self) -> Iterator[RoleOfAContainer]:
        role = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                role.asked += 1
                ends = (datetime.now(UTC) + role.lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
                told = {"AccessKeyId": role.keys[0], "SecretAccessKey": role.keys[1]}
                body = json.dumps(told | {"Token": "", "Expiration": ends}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/role"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield self
            finally:
                server.shutdown()


def test_keys_of_a_role_are_fetched_anew_before_they_end(
    remote: ScratchLake, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def user(name: str) -> tuple[str, str]:
        key, secret = f"AKIDLAKEWARD{name}", f"SECRETLAKEWARD{name}"
        s3.shell(
            f"s3.configure -user={name} -access_key={key} -secret_key={secret} -buckets=lake "
            "-actions=Read,Write,List -apply"
        )
        return key, secret

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    with RoleOfAContainer(user("FIRST"), lasts=timedelta(seconds=30)).serving() as role:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.url)
        settings = load_settings(remote.project_dir)
        landing = open_landing(settings)
        (stream,) = remote.project().streams
        with open_lake(settings) as lake:
            assert lake is not None
            (file,) = landing.list(stream)
            count = f"select count(*) from '{landing.url(file.path)}'"
            assert lake.query(count) == [(10,)]

            role.keys = user("SECOND")
            s3.shell("s3.configure -user=FIRST -delete -apply")
            assert [*landing.list(stream)] == [file]
            assert lake.query(count) == [(10,)]

        role.lasts = timedelta(hours=1)
        role.asked = 0
        assert fed(remote) == 10
        assert 0 < role.asked < 8, "a role's keys are asked for by each process once"


def test_no_keys_and_keys_that_cannot_be_fetched_are_said(
    remote: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = remote.cli("feed", check=False)
    assert done.returncode == 2
    assert "no credentials for the object store" in done.stderr
    assert "AWS_PROFILE" in done.stderr
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/role")
    done = remote.cli("feed", check=False)
    assert done.returncode == 1
    assert "credentials for the object store cannot be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_nobody_knows_is_refused(lake: ScratchLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEWARD_LANDING_URL", "hdfs://namenode/landing")
    done = lake.cli("status", check=False)
    assert done.returncode == 2
    assert "lakeward knows no store of hdfs://" in done.stderr


def test_a_store_with_tls_is_believed_by_its_certificate_alone(
    remote: ScratchLake, s3: S3Server, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.tls_endpoint)
    done = remote.cli("feed", check=False)
    assert done.returncode == 1
    assert "certificate" in done.stderr.lower()
    bundle = certificate[0].with_name("authority.pem")
    settings = load_settings(remote.project_dir, dict(os.environ) | {"AWS_CA_BUNDLE": str(bundle)})
    (stream,) = remote.project().streams
    landing = open_landing(settings)
    (file,) = landing.list(stream)
    with (  # as DuckDB sees it, without the bundle
        pytest.raises(LakewardError, match=r"(?i)certificate|ssl"),
        open_lake(load_settings(remote.project_dir)) as lake,
    ):
        assert lake is not None
        lake.query(f"select count(*) from '{landing.url(file.path)}'")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    assert fed(remote) == 10
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    assert remote.cli("feed", check=False).returncode == 2


@pytest.mark.parametrize(
    ("style", "asked"),
    [("false", r"http://lake\.localhost:9/\?list"), ("true", r"http://localhost:9/lake\?list")],
)
def test_a_bucket_lies_in_the_host_name_or_in_the_path(
    remote: ScratchLake, style: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LAKEWARD_S3_PATH_STYLE", style)
    with pytest.raises(LakewardError, match=asked):
        [*open_landing(load_settings(remote.project_dir)).list(remote.project().streams[0])]


@pytest.mark.parametrize(
    "endpoint", ["http://me:geheim@store", "https://gate/s3", "http://[bad", "store:1", "http://store:65536"]
)
def test_an_endpoint_is_a_host_and_a_port(
    remote: ScratchLake, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    done = remote.cli("feed", check=False)
    assert done.returncode == 2
    assert "AWS_ENDPOINT_URL=https://host:port" in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_gs_urls_are_spoken_to_in_the_same_protocol(
    remote: ScratchLake, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Google's XML API has it, with HMAC keys; here with another server, for Google's cannot run here."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("LAKEWARD_LANDING_URL", "LAKEWARD_DATA_URL"):
        monkeypatch.setenv(name, os.environ[name].replace("s3://", "gs://"))
    assert fed(remote) == 10
    assert "nothing pending" in remote.cli("feed").stdout
    assert remote.query("select _source_file like 'gs://lake/%' from int_shop__items limit 1") == [(True,)]


def test_a_catalog_with_tls_is_believed_by_its_certificate_alone(
    embedded_lake: ScratchLake, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not DEBIAN.is_dir():
        pytest.skip("no Postgres that was built with TLS: the one from the registry is not")
    lake, authority = embedded_lake, certificate[0].with_name("authority.pem")
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10), word="a")
    folder = Path(tempfile.mkdtemp(prefix="lakeward-test-"))
    folder.chmod(0o755)
    server = PostgresServer(folder / "postgres", programs=DEBIAN, certificate=certificate)
    try:
        url = server.create_database("tls")
        for query, said in {
            "sslmode=disable": "no encryption",
            "sslmode=verify-full&sslrootcert=/nowhere.pem": "/nowhere.pem",
            f"sslmode=verify-full&sslrootcert={certificate[0].with_name('stranger.pem')}": "certificate",
        }.items():
            monkeypatch.setenv("LAKEWARD_CATALOG_URL", f"{url}?{query}")
            done = lake.cli("feed", check=False)
            assert done.returncode == 1
            assert said in done.stderr
        monkeypatch.setenv("LAKEWARD_CATALOG_URL", f"{url}?sslmode=verify-full&sslrootcert={authority}")
        assert fed(lake) == 10
    finally:
        server.stop()
        shutil.rmtree(folder)


def test_a_catalog_is_followed_to_the_host_that_may_be_written(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["LAKEWARD_CATALOG_URL"]
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", url.replace("127.0.0.1", "127.0.0.1:9,127.0.0.1"))
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10), word="a")
    assert fed(lake) == 10


def test_a_secret_lies_in_the_environment_or_in_a_file_and_nowhere_else(
    lake: ScratchLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["LAKEWARD_CATALOG_URL"]
    monkeypatch.delenv("LAKEWARD_CATALOG_URL")
    (tmp_path / "url").write_text(f"{url}\n")
    monkeypatch.setenv("LAKEWARD_CATALOG_URL_FILE", str(tmp_path / "url"))
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10), word="a")
    assert fed(lake) == 10
    monkeypatch.setenv("LAKEWARD_CATALOG_URL_FILE", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"LAKEWARD_CATALOG_URL_FILE is .*other"):
        load_settings(lake.project_dir)
    monkeypatch.delenv("LAKEWARD_CATALOG_URL_FILE")
    for typed in ("postgresql://me:geheim@db/lake", "postgresql://db/lake?user=me&password=geheim"):
        (lake.project_dir / "lakeward.toml").write_text(f'catalog_url = "{typed}"')
        with pytest.raises(ConfigError, match='"catalog_url" is a secret, typed into the file') as refused:
            load_settings(lake.project_dir)
        assert "geheim" not in str(refused.value)
    (lake.project_dir / "lakeward.toml").write_text('catalog_url = "postgresql://me@db/lake"')
    load_settings(lake.project_dir)
