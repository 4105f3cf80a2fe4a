"""The team setting by settings alone: a real S3 server, a real network Postgres, the same code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import S3Store

from tests.scratch import PostgresServer, ScratchLake, free_port

KEY, SECRET, BUCKET = "AKIDLAKEWARDTEST", "SECRETLAKEWARDTEST", "lake"


@pytest.fixture(scope="module")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """SeaweedFS, every one of its ports chosen by us so that parallel runs share a host."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    port = free_port()
    ours = ("master.port", "volume.port", "filer.port", "admin.port")
    flags = [f"-{name}{kind}={free_port()}" for name in ours for kind in ("", ".grpc")]
    server = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "weed"), "mini", f"-dir={folder}", "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1", f"-s3.port={port}", "-admin.ui=false", "-webdav=false",
            "-s3.port.iceberg=0", *flags,
        ],
        env={"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "S3_BUCKET": BUCKET},
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_until_ready(server, port)
        yield port
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def team_lake(
    embedded_lake: ScratchLake, s3_port: int, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> ScratchLake:
    prefix = embedded_lake.root.name
    for name, value in {
        "LAKEWARD_LANDING_URL": f"s3://{BUCKET}/{prefix}/landing",
        "LAKEWARD_DATA_URL": f"s3://{BUCKET}/{prefix}/data",
        "LAKEWARD_CATALOG_URL": postgres.create_database(f"team_{prefix}"),
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_REGION": "us-east-1",
        "LAKEWARD_WORKERS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    return embedded_lake


def test_two_streams_fed_twice_and_refreshed_on_s3_and_a_network_postgres(
    team_lake: ScratchLake, s3_port: int
) -> None:
    lake = team_lake
    store = S3Store(
        BUCKET, prefix=lake.root.name, endpoint=f"http://127.0.0.1:{s3_port}", access_key_id=KEY,
        secret_access_key=SECRET, region="us-east-1", virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )  # fmt: skip

    def upload(path: Path) -> None:
        store.put(f"landing/{path.relative_to(lake.landing)}", path)

    for stream in ("shop/items", "shop/things"):
        lake.add_stream(stream)
        upload(lake.land(stream, 1, "a.parquet", range(10), word="a"))
        upload(lake.land(stream, 2, "0.parquet-1", range(5, 15), word="b"))
    lake.cli("feed")
    lake.cli("feed")
    for model in ("int_shop__items", "int_shop__things"):
        assert lake.table(model) == [(i, "a") for i in range(5)] + [(i, "b") for i in range(5, 15)]
    assert sorted(lake.events()) == ["0.parquet-1", "0.parquet-1", "a.parquet", "a.parquet"]

    upload(lake.land("shop/items", 1, "late.parquet", range(20), word="late", at="2026-11-01 01:00:00+00"))
    lake.cli("feed")
    before = lake.table("int_shop__items")
    assert [word for _, word in before] == ["a"] * 5 + ["b"] * 10 + ["late"] * 5

    lake.cli("refresh", "shop/items")
    lake.dbt("run", "--full-refresh", "-s", "int_shop__things")
    assert lake.table("int_shop__items") == before
    assert "nothing pending" in lake.cli("feed").stdout
    sources = lake.query("select distinct _source_file from int_shop__items")
    assert all(url.startswith("s3://lake/") for (url,) in sources)
    assert not list((lake.root / ".lake").glob("data/**/*.parquet")), "table data went to the local disk"
    assert any("data/main/" in meta["path"] for page in store.list() for meta in page)


def test_a_wrong_secret_is_an_error_that_moves_nothing(
    team_lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    team_lake.add_stream("shop/items")
    team_lake.project()
    right = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WRONGSECRETWRONGSECRET")
    done = team_lake.cli("feed", check=False)
    assert done.returncode == 1
    assert "cannot read the landing zone" in done.stderr
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", right)
    assert team_lake.query("select distinct event from meta.feeder_log where event <> 'failed'") == []


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "seaweedfs ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail("seaweedfs did not become ready")
