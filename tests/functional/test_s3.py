"""The team setting by settings alone: a real S3 server, a real network Postgres, the same code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from lakeward.credentials import access
from lakeward.errors import LandingError
from lakeward.landing import open_landing
from tests.scratch import ScratchLake
from tests.servers import PostgresServer, S3Server
from tests.shop import Shop, expect_once_however_often_killed


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with closing(S3Server(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server


@pytest.fixture
def team_lake(
    embedded_lake: ScratchLake, s3: S3Server, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> ScratchLake:
    prefix = embedded_lake.root.name
    for name, value in (
        s3.environment
        | {
            "LAKEWARD_LANDING_URL": f"s3://{S3Server.BUCKET}/{prefix}/landing",
            "LAKEWARD_DATA_URL": f"s3://{S3Server.BUCKET}/{prefix}/data",
            "LAKEWARD_CATALOG_URL": postgres.create_database(f"team_{prefix}"),
            "LAKEWARD_WORKERS": "2",
        }
    ).items():
        monkeypatch.setenv(name, value)
    return embedded_lake


def test_two_streams_fed_twice_and_refreshed_on_s3_and_a_network_postgres(
    team_lake: ScratchLake, s3: S3Server
) -> None:
    lake = team_lake
    store = s3.store(lake.root.name)

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


def test_a_store_that_is_away_is_no_fault_of_the_statement(
    team_lake: ScratchLake, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    team_lake.add_stream("shop/items")
    path = team_lake.land("shop/items", 1, "a.parquet", range(100))
    s3.store(team_lake.root.name).put(f"landing/{path.relative_to(team_lake.landing)}", path)
    team_lake.cli("feed")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = team_lake.cli("sql", "from int_shop__items", check=False)
    assert away.returncode == 1
    assert "does the object store answer?" in away.stderr
    wrong = team_lake.cli("sql", "from nowhere", check=False)
    assert wrong.returncode == 2
    assert "mend the statement" in wrong.stderr


def test_a_key_that_is_no_path_stops_no_other(
    team_lake: ScratchLake, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.session

    lake, store = team_lake, s3.store(team_lake.root.name)
    client: Any = botocore.session.Session().create_client(
        "s3", "us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    )
    folder = f"{lake.root.name}/landing/raw/shop/items/year=2026/month=11/day=01"

    def upload(stream: str, name: str, keys: range) -> None:
        path = lake.land(stream, 1, name, keys, word="a")
        store.put(f"landing/{path.relative_to(lake.landing)}", path)

    for stream in ("shop/items", "shop/things"):
        lake.add_stream(stream)
        upload(stream, "a.parquet", range(5))
    client.put_object(Bucket=S3Server.BUCKET, Key=f"{folder}/z\n.crc", Body=b"")
    lake.cli("feed")  # what is never fed is nobody's fault
    upload("shop/items", "b.parquet", range(5, 10))
    for odd in ("\x01.parquet", "z\n.parquet-1"):
        client.put_object(Bucket=S3Server.BUCKET, Key=f"{folder}/{odd}", Body=b"")
    done = lake.cli("feed", check=False)
    assert done.returncode == 1
    assert r"day=01/\x01.parquet' has a name that is no path: rename it" in done.stderr
    assert r"day=01/z\n.parquet-1' has" in done.stderr
    assert ".crc" not in done.stderr
    assert lake.table("int_shop__items") == [(i, "a") for i in range(10)]
    assert lake.table("int_shop__things") == [(i, "a") for i in range(5)]
    for odd in ("\x01.parquet", "z\n.parquet-1", "z\n.crc"):
        client.delete_object(Bucket=S3Server.BUCKET, Key=f"{folder}/{odd}")
    assert "nothing pending" in lake.cli("feed").stdout, "an identity is one, whoever lists"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    settings = lake.project().settings
    with pytest.raises(LandingError, match="cannot list s3://lake/"):
        [*access(settings, settings.landing_url).keys_below("lake", "", None)]


def test_a_listing_from_a_day_on_misses_nothing(team_lake: ScratchLake, s3: S3Server) -> None:
    team_lake.add_stream("shop/items")
    store, project = s3.store(team_lake.root.name), team_lake.project()
    folders = [
        f"year=2026/month={month}/day={day}"
        for month in ("9", "09", "10", "11") for day in ("1", "01", "9", "09", "10", "30")
    ]  # fmt: skip
    for folder in folders:
        for name in ("0.parquet", "-a.parquet"):
            store.put(f"landing/raw/shop/items/{folder}/{name}", b"x")
    (stream,), landing = project.streams, open_landing(project.settings)
    everything = [*landing.list(stream)]
    assert len(everything) == 2 * len(folders)
    for month in (9, 10, 11):
        for day in (1, 2, 9, 10, 30):
            since = date(2026, month, day)
            found = {file.path for file in landing.list(stream, since)}
            wanted = {file.path for file in everything if file.partition and file.partition >= since}
            assert found == wanted, since


def test_objects_of_odd_names_are_loaded_and_one_that_gives_orders_is_set_aside(
    team_lake: ScratchLake, s3: S3Server
) -> None:
    """DuckDB takes what follows a ? in a URL for settings of the store, its address among them."""
    lake, store = team_lake, s3.store(team_lake.root.name)
    lake.add_stream("shop/items")
    odd = ["it's.parquet", "a*b.parquet", "[1].parquet", "a%2e b+c#d.parquet", "{{ 1-0 }}.parquet"]
    for number, name in enumerate([*odd, "a?s3_region=x&s3_endpoint=127.0.0.1:1&s3_use_ssl=false.parquet"]):
        made = lake.land("shop/items", 1, "made", range(number, number + 1))
        store.put(f"landing/raw/shop/items/year=2026/month=11/day=01/{name}", made)
    fed = lake.cli("feed", check=False)
    assert "its name has a ?" in fed.stderr
    assert [item for item, _ in lake.table("int_shop__items")] == list(range(len(odd)))
    assert set(lake.events()) == set(odd)


def test_a_wrong_secret_is_an_error_that_moves_nothing(
    team_lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    team_lake.add_stream("shop/items")
    team_lake.cli("feed")
    right = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WRONGSECRETWRONGSECRET")
    done = team_lake.cli("feed", check=False)
    assert done.returncode == 1
    assert "cannot read the landing zone" in done.stderr
    assert "SignatureDoesNotMatch" in done.stderr
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", right)
    assert (
        team_lake.query("select distinct event from meta.feeder_log where event not in ('failed', 'listed')")
        == []
    )


def test_a_sync_lands_on_s3_once_however_often_it_is_killed(team_lake: ScratchLake, s3: S3Server) -> None:
    expect_once_however_often_killed(Shop(team_lake))
    left = [meta["path"] for page in s3.store(team_lake.root.name).list("landing/staging") for meta in page]
    assert left == []
