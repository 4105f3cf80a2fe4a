"""`lakeward doctor`: each thing that can be wrong is made wrong, and named with what to do."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lakeward.doctor import CONNECTIONS
from lakeward.lake import open_lake
from tests.scratch import ScratchLake
from tests.servers import PostgresServer


def looked(lake: ScratchLake, *arguments: str) -> dict[str, dict[str, Any]]:
    """What it found that is not as it should be, by check."""
    done = lake.cli("doctor", "--json", *arguments, check=False)
    found = json.loads(done.stdout)["findings"]
    assert done.returncode == any(each["state"] == "failed" for each in found)
    assert all(each["remedy"] for each in found if each["state"] in ("warning", "failed")), found
    return {each["check"]: each for each in found if each["state"] != "ok"}


def database() -> str:
    return os.environ["LAKEWARD_CATALOG_URL"].rpartition("/")[2]


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_sound_lake_is_well_and_looking_changes_nothing(
    embedded_lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = embedded_lake
    before = everything(lake.root)
    assert {check: found["state"] for check, found in looked(lake, "--deep").items()} == {
        "project": "skipped", "catalog": "skipped", "lake": "skipped",
    }  # fmt: skip
    assert everything(lake.root) == before
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.feed()
    rows = lake.query("select count(*) from lakehouse.snapshots()")
    assert looked(lake, "--deep") == {}
    assert lake.query("select count(*) from lakehouse.snapshots()") == rows
    shown = lake.cli("doctor", "--deep").stdout
    assert "ok      data files          all 1 that the catalog names are there" in shown


@pytest.mark.every_setting(daily=True)
def test_a_lake_is_well_in_every_setting(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.cli("feed")
    assert looked(lake, "--deep") == {}
    checks = lake.cli("doctor").stdout
    assert "DuckDB reads what has landed" in checks
    if lake.store is not None:
        assert "the store honours If-None-Match" in checks
        assert "agrees with the object store's" in checks
        assert not [meta for page in lake.store.list() for meta in page if "doctor" in meta["path"]]


def test_places_that_are_not_there(fed: ScratchLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEWARD_LANDING_URL", "/nowhere")
    assert "no such folder" in looked(fed)["landing zone"]["told"]
    monkeypatch.delenv("LAKEWARD_LANDING_URL")
    (fed.root / "file").touch()
    monkeypatch.setenv("LAKEWARD_DATA_URL", str(fed.root / "file" / "data"))
    assert "Not a directory" in looked(fed)["data"]["told"]
    monkeypatch.setenv("LAKEWARD_DATA_URL", ".lake/landing/raw")
    assert "contain one another" in looked(fed)["settings"]["told"]
    monkeypatch.delenv("LAKEWARD_DATA_URL")
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", "postgresql://lake:geheim@127.0.0.1:9/lake")
    found = looked(fed)
    assert "Connection refused" in found["catalog"]["told"]
    assert "geheim" not in json.dumps(found)


def test_a_store_without_keys_keeps_the_catalog_from_no_look(
    fed: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEWARD_LANDING_URL", "s3://bucket/landing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    found = looked(fed)
    assert "no credentials for the object store" in found["landing zone"]["told"]
    assert "catalog" not in found


def test_files_that_say_nothing_usable(fed: ScratchLake) -> None:
    fed.write("dag/streams/shop/broken.json", "{")
    found = looked(fed)
    assert found.keys() == {"project"}
    assert "broken.json" in found["project"]["told"]
    (fed.project_dir / "dag/streams/shop/broken.json").unlink()
    fed.write("dag/enriched/fct_broken.sql", "{{ broken(")
    unparsed = looked(fed)["project"]
    assert unparsed["state"] == "skipped"
    assert "lakeward check" in unparsed["told"]
    (fed.project_dir / "dag/enriched/fct_broken.sql").unlink()
    shutil.rmtree(fed.project_dir / "target")
    assert {check: found["state"] for check, found in looked(fed).items()} == {
        "project": "skipped", "leftovers": "skipped",
    }  # fmt: skip


def test_a_catalog_that_cannot_take_the_lake(
    fed: ScratchLake, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEWARD_WORKERS", "80")
    found = looked(fed)
    assert found.keys() == {"connections"}
    assert "raise max_connections" in found["connections"]["remedy"]
    monkeypatch.setenv("LAKEWARD_WORKERS", "1")

    name = database()
    postgres.run(name, f'alter database "{name}" set default_transaction_read_only = on')
    assert "its user may only read" in looked(fed)["catalog"]["told"]
    postgres.run("postgres", f'alter database "{name}" reset default_transaction_read_only')

    postgres.run(name, "update ducklake_metadata set value = '7.3' where key = 'version'")
    assert "DuckLake 7.3; this lakeward knows 1.0" in looked(fed)["catalog format"]["told"]


def test_what_a_killed_run_has_left(fed: ScratchLake) -> None:
    with open_lake(fed.project().settings) as lake:
        assert lake is not None
        lake.query("create table lakehouse.main.int_shop__items__dbt_backup as select 1 as x")
    found = looked(fed)["leftovers"]
    assert (found["state"], found["remedy"]) == ("warning", "lakeward maintain")
    assert "int_shop__items__dbt_backup" in found["told"]
    fed.cli("maintain")
    assert looked(fed) == {}


def test_one_file_that_cannot_be_read_keeps_nothing_back(fed: ScratchLake) -> None:
    first = fed.landing / "raw/shop/items/year=2026/month=11/day=01/!.parquet"
    first.write_bytes(b"no Parquet")
    assert list(fed.feed()["shop/items"].quarantined) == [str(first.relative_to(fed.landing))]
    assert looked(fed, "--deep") == {}


def test_files_that_are_gone_cut_short_or_not_fed(fed: ScratchLake) -> None:
    fed.land("shop/items", 2, "late.parquet", range(5))
    assert "1 of 2 are not in the ledger: raw/shop/items/" in looked(fed, "--deep")["landed files"]["told"]
    fed.feed()
    assert looked(fed, "--deep") == {}
    first, *others = sorted((fed.root / ".lake" / "data").rglob("*.parquet"))
    assert others
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    assert f"1 have another size: {first}" in looked(fed, "--deep")["data files"]["told"]
    first.unlink()
    found = looked(fed, "--deep")["data files"]
    assert (found["state"], str(first) in found["told"]) == ("failed", True)
    assert looked(fed) == {}, "a look that is not deep reads no files"


def test_a_feed_keeps_to_the_connections_that_doctor_counts_with(
    lake: ScratchLake, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEWARD_WORKERS", "2")
    for stream in ("shop/one", "shop/two", "shop/three"):
        lake.add_stream(stream, config={"batch_max_bytes": 1})
        for day in range(1, 4):
            lake.land(stream, day, "a.parquet", range(10))
    count = f"select count(*) from pg_stat_activity where datname = '{database()}'"
    seen, over = [], threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(int(postgres.run("postgres", count)[0]))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        lake.cli("run")
    finally:
        over.set()
        watcher.join()
    assert 3 <= max(seen) <= 3 * CONNECTIONS, max(seen)
