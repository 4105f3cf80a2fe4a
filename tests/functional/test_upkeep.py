"""replay, maintain and feed --reconcile, as typed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from lakeward.project import open_tools
from lakeward.workers import feed_all
from tests.scratch import APPEND, ScratchLake
from tests.servers import PostgresServer

pytestmark = pytest.mark.every_setting


@pytest.fixture
def items(lake: ScratchLake) -> ScratchLake:
    lake.add_stream("shop/items")
    for day in (1, 2, 3):
        lake.land("shop/items", day, "a.parquet", range(day))
    lake.cli("feed")
    return lake


def test_a_replay_loads_the_files_from_a_day_on_once_more(items: ScratchLake) -> None:
    said = items.cli("replay", "shop/items", "--since", "2026-11-02")
    assert "2 files pending again" in said.stdout
    assert "fed 2 files" in items.cli("feed").stdout
    assert "nothing pending" in items.cli("feed").stdout
    assert items.query("select count(*), count(distinct item_id) from int_shop__items") == [(3, 3)]


def test_a_replayed_file_that_no_longer_loads_is_quarantined(items: ScratchLake) -> None:
    items.cli("replay", "shop/items", "--since", "2026-11-03")
    (path,) = items.landing.rglob("day=03/a.parquet")
    path.write_bytes(b"no Parquet")
    items.cli("feed")
    assert items.query("select count(*) from meta.feeder_files where status = 'quarantined'") == [(1,)]


def test_a_replay_that_would_double_rows_is_refused(items: ScratchLake) -> None:
    items.add_stream("shop/log", model=APPEND)
    items.land("shop/log", 1, "a.parquet", range(3))
    items.cli("feed")
    done = items.cli("replay", "shop/log", "--since", "2026-11-01", check=False)
    assert done.returncode == 2
    assert "int_shop__log has no unique_key" in done.stderr


def test_a_replay_of_nothing_is_an_error(items: ScratchLake) -> None:
    done = items.cli("replay", "shop/items", "--since", "2027-01-01", check=False)
    assert done.returncode == 1
    assert "shop/items has applied no file since 2027-01-01" in done.stderr


@pytest.mark.folder_only
def test_maintain_deletes_old_files_that_no_snapshot_knows_and_no_others(items: ScratchLake) -> None:
    def files(root: Path) -> set[Path]:
        return set(root.rglob("*.parquet"))

    data = items.root / ".lake" / "data"
    known, landed = files(data), files(items.landing)
    for name, age in (("old", 2 * 86_400), ("new", 0)):
        orphan = min(known).with_name(f"{name}.parquet")
        shutil.copy(min(known), orphan)
        os.utime(orphan, (time.time() - age,) * 2)
    assert "1 files deleted" in items.cli("maintain").stdout
    assert {path.name for path in files(data) - known} == {"new.parquet"}
    assert files(items.landing) == landed
    assert items.query("select count(*) from int_shop__items") == [(3,)]


def test_reconciling_finds_what_a_listing_of_the_newest_days_would_not(
    items: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakeward.reading.LIST_ALL_UP_TO", 0)
    for day in (20, 21):
        items.land("shop/items", day, "b.parquet", range(day))
    items.feed()
    items.land("shop/items", 4, "late.parquet", range(30))
    assert items.feed()["shop/items"].files == 0
    project = items.project()
    with open_tools(project.settings, lambda _: None) as tools:
        (report,) = feed_all(project.manifest.jobs(project.streams), tools, reconcile=True)
    assert report.files == 1


def test_a_catalog_that_is_not_the_lakes_takes_nothing_away(
    items: ScratchLake, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody forgot to name the catalog, or named another: to it, all data files are nobody's."""
    if items.store is not None:
        pytest.skip("files of a bucket cannot be made older")
    right = os.environ.get("LAKEWARD_CATALOG_URL")
    before = items.table("int_shop__items")
    old = time.time() - 3 * 86_400
    for path in (items.root / ".lake" / "data").rglob("*.parquet"):
        os.utime(path, (old, old))
    other = postgres.create_database(f"{items.root.name}_other")
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", other)
    assert items.cli("maintain", check=False).returncode == 2
    refused = items.cli("feed", check=False)
    assert refused.returncode == 2
    assert "the catalog holds no lake yet, but data_url" in refused.stderr
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", f"{other}x")
    for command in ("status", "feed", "maintain", "sql select"):
        done = items.cli(*command.split(), check=False)
        assert (done.returncode, 'x" does not exist' in done.stderr) == (1, True), command
    if right is None:
        monkeypatch.delenv("LAKEWARD_CATALOG_URL")
    else:
        monkeypatch.setenv("LAKEWARD_CATALOG_URL", right)
    assert items.table("int_shop__items") == before
