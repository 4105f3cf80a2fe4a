"""A lake on Azure Blob Storage: a real Azurite, a real network Postgres, the same code."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import closing

import duckdb
import pytest

from lakeward.attaching import StoreSecrets, extension_path
from lakeward.lake import open_lake
from lakeward.maintenance import maintain
from lakeward.settings import load_settings
from tests.faulty_proxy import FaultyProxy, always
from tests.scratch import ScratchLake
from tests.servers import AzureServer
from tests.shop import Shop, expect_once_however_often_killed

MART = "{{ config(tags=['enriched'], materialized='table') }} select word, count(*) as items "
MART += "from {{ ref('int_shop__items') }} group by word"


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    if shutil.which("azurite-blob") is None:
        pytest.skip("no Azurite here: npm install azurite, and its node_modules/.bin in PATH")
    with closing(AzureServer(tmp_path_factory.mktemp("azurite"))) as server:
        yield server


@pytest.fixture
def azure_lake(lake: ScratchLake, azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> ScratchLake:
    prefix = lake.root.name
    for name, value in (
        azure.environment
        | {
            "LAKEWARD_LANDING_URL": f"az://{AzureServer.CONTAINER}/{prefix}/landing",
            "LAKEWARD_DATA_URL": f"az://{AzureServer.CONTAINER}/{prefix}/data",
        }
    ).items():
        monkeypatch.setenv(name, value)
    return ScratchLake(lake.root, azure.store(f"{prefix}/landing"))


def test_a_lake_is_fed_built_refreshed_and_well_on_azure(azure_lake: ScratchLake, azure: AzureServer) -> None:
    lake = azure_lake
    lake.add_stream("shop/items")
    lake.write("dag/enriched/fct_words.sql", MART)
    lake.land("shop/items", 1, "a.parquet", range(10), word="a")
    lake.land("shop/items", 2, "b.parquet", range(5, 15), word="b")
    lake.cli("feed")
    assert "nothing pending" in lake.cli("feed").stdout
    assert lake.table("int_shop__items") == [(i, "a") for i in range(5)] + [(i, "b") for i in range(5, 15)]
    assert sorted(lake.events()) == ["a.parquet", "b.parquet"]

    lake.land("shop/items", 1, "late.parquet", range(20), word="late", at="2026-11-01 01:00:00+00")
    lake.cli("run")
    before = lake.table("int_shop__items")
    assert lake.query("from fct_words order by all") == [("a", 5), ("b", 10), ("late", 5)]
    lake.cli("refresh", "shop/items")
    assert lake.table("int_shop__items") == before
    assert lake.query("select distinct split_part(_source_file, '/', 1) from int_shop__items") == [("az:",)]
    assert not list((lake.root / ".lake").glob("data/**/*.parquet")), "table data went to the local disk"

    found = json.loads(lake.cli("doctor", "--deep", "--json").stdout)["findings"]
    assert [each for each in found if each["state"] != "ok"] == []
    told = {each["check"]: each["told"] for each in found}
    assert told["conditional writes"] == "the store honours If-None-Match"
    assert told["reading"] == "DuckDB reads what has landed"
    assert told["extensions"] == "ducklake, postgres_scanner, azure"
    everything = [meta["path"] for page in azure.store(lake.root.name).list() for meta in page]
    assert not [path for path in everything if "doctor" in path]


def test_maintain_deletes_on_azure_what_no_snapshot_knows_and_nothing_else(
    azure_lake: ScratchLake, azure: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = azure_lake
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.cli("feed")
    store = azure.store(lake.root.name)
    known = {meta["path"] for page in store.list() for meta in page}
    store.put("data/main/int_shop__items/orphan.parquet", b"of a killed statement")
    assert "0 files deleted" in lake.cli("maintain").stdout
    monkeypatch.setattr("lakeward.maintenance._OLDER_THAN", "now() + interval 1 day")
    project = lake.project()
    with open_lake(project.settings) as opened:
        assert opened is not None
        assert [path.rpartition("/")[2] for path in maintain(project.manifest, opened)] == ["orphan.parquet"]
        assert maintain(project.manifest, opened) == []
    assert {meta["path"] for page in store.list() for meta in page} == known
    assert lake.query("select count(*) from int_shop__items") == [(10,)]


def test_a_sync_lands_on_azure_once_however_often_it_is_killed(
    azure_lake: ScratchLake, azure: AzureServer
) -> None:
    expect_once_however_often_killed(Shop(azure_lake))
    store = azure.store(azure_lake.root.name)
    assert [meta["path"] for page in store.list("landing/staging") for meta in page] == []


def test_blobs_of_odd_names_are_loaded(azure_lake: ScratchLake) -> None:
    azure_lake.add_stream("shop/items")
    odd = [
        "it's.parquet",
        "a*b.parquet",
        "[1].parquet",
        "a%2e b+c#d.parquet",
        "{{ 1-0 }}.parquet",
        "ü.parquet",
    ]
    for number, name in enumerate(odd):
        made = azure_lake.land("shop/items", 1, "made", range(number, number + 1))
        made.rename(made.with_name(name))
    azure_lake.cli("feed")
    assert [item for item, _ in azure_lake.table("int_shop__items")] == list(range(len(odd)))
    assert set(azure_lake.events()) == set(odd)


@pytest.mark.parametrize("fault", ["500", "drop", "expired"])
def test_blobs_that_azure_does_not_give_stay_pending(
    azure_lake: ScratchLake, azure: AzureServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    azure_lake.add_stream("shop/items")
    azure_lake.land("shop/items", 1, "a.parquet", range(10))
    azure_lake.push()
    right = azure.environment["AZURE_STORAGE_CONNECTION_STRING"]
    with closing(FaultyProxy(azure.endpoint.removeprefix("http://").partition("/")[0])) as proxy:
        proxy.plan = always(fault, r"GET /.*/landing/raw/.*\.parquet")
        through = right.replace(azure.endpoint, f"{proxy.endpoint}/{azure.ACCOUNT}")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", through)
        done = azure_lake.cli("feed", check=False)
        assert proxy.met[fault]
    assert done.returncode == 1
    assert done.stderr.count("cannot be reached") == 1
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", right)
    assert azure_lake.query("select event from meta.feeder_log where event = 'quarantined'") == []
    azure_lake.cli("feed")
    assert azure_lake.events() == ["a.parquet"]


@pytest.mark.parametrize("by", ["variables", "sas token", "connection string with a sas token"])
def test_the_ways_to_say_who_we_are(
    azure_lake: ScratchLake, azure: AzureServer, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    address = f"BlobEndpoint={azure.endpoint}/"  # as the portal writes it
    said = {"AZURE_STORAGE_ACCOUNT_NAME": azure.ACCOUNT, "AZURE_STORAGE_CONNECTION_STRING": address}
    if by == "variables":
        said["AZURE_STORAGE_ACCOUNT_KEY"] = azure.KEY
    elif by == "sas token":
        said["AZURE_STORAGE_SAS_TOKEN"] = azure.sas_token()
    else:
        said["AZURE_STORAGE_CONNECTION_STRING"] += f";SharedAccessSignature={azure.sas_token()}"
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    azure_lake.add_stream("shop/items")
    azure_lake.land("shop/items", 1, "a.parquet", range(10))
    azure_lake.cli("feed")
    assert azure_lake.query("select count(*) from int_shop__items") == [(10,)]
    found = json.loads(azure_lake.cli("doctor", "--json").stdout)["findings"]
    assert {each["state"] for each in found} == {"ok"}


@pytest.mark.parametrize(
    ("variable", "wrong"),
    [
        ("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"wrong-hush-key").decode()),
        ("AZURE_STORAGE_ACCOUNT_KEY", "no base64: wrong-hush-key"),
        (
            "AZURE_STORAGE_SAS_TOKEN",
            "sv=2020-12-06&sr=c&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig=wronghushtoken",
        ),
    ],
    ids=["key", "no base64", "token"],
)
def test_a_wrong_key_is_an_error_that_moves_and_shows_nothing(
    azure_lake: ScratchLake, azure: AzureServer, monkeypatch: pytest.MonkeyPatch, variable: str, wrong: str
) -> None:
    azure_lake.add_stream("shop/items")
    azure_lake.land("shop/items", 1, "a.parquet", range(10))
    azure_lake.cli("feed")
    right = azure.environment["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"BlobEndpoint={azure.endpoint}")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure.ACCOUNT)
    monkeypatch.setenv(variable, wrong)
    azure_lake.store = None  # which pushes with the right one
    fed, looked, asked = (
        azure_lake.cli(*words, check=False)
        for words in (("feed",), ("doctor", "--deep"), ("sql", "from int_shop__items"))
    )
    assert fed.returncode == looked.returncode == 1
    assert asked.returncode
    assert "cannot read the landing zone az://" in fed.stderr
    assert "AZURE_*" in fed.stderr
    said = "".join(done.stdout + done.stderr for done in (fed, looked, asked))
    logs = "".join(path.read_text() for path in (azure_lake.root / ".lake").rglob("*.log"))
    assert not [word for word in ("hush", wrong, azure.KEY) if word in said + logs]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", right)
    assert azure_lake.events() == ["a.parquet"]


def test_without_a_key_duckdb_asks_for_the_identities_that_obstore_asks_for(lake: ScratchLake) -> None:
    """Nobody can be asked here: DuckDB knows each of them, and the address is the one that obstore takes."""
    environ = {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acme;EndpointSuffix=core.chinacloudapi.cn"}
    urls = {"LAKEWARD_LANDING_URL": "az://lake/landing", "LAKEWARD_DATA_URL": "az://lake/data"}
    settings = load_settings(lake.project_dir, environ | urls)
    assert settings.azure.endpoint_url == "https://acme.blob.core.chinacloudapi.cn"
    with duckdb.connect() as con:
        con.execute(f"load '{extension_path('azure')}'")
        for statement in StoreSecrets(settings).statements():
            con.execute(statement)
        ((secret,),) = con.execute("select secret_string from duckdb_secrets()").fetchall()
    assert "provider=credential_chain" in secret
    assert "chain=env;workload_identity;managed_identity" in secret
    assert "account_name=acme;" in secret
    assert "endpoint=blob.core.chinacloudapi.cn" in secret
