from __future__ import annotations

import os
import shutil
from datetime import date
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from lakeward.errors import LandingError
from lakeward.landing import Landing
from lakeward.stores import Folder, Objects
from lakeward.streams import Stream, StreamConfig

ORDERS = Stream("shop", "orders", Path("orders.json"), StreamConfig())


def fill(store: MemoryStore | LocalStore, *paths: str) -> None:
    for path in paths:
        store.put(f"raw/shop/orders/{path}", b"x")


def test_listing_from_a_day_on_does_not_trust_string_order() -> None:
    store = MemoryStore()
    fill(store, "year=2026/month=9/day=30/a.parquet", "year=2026/month=10/day=2/b.parquet",
         "year=2026/month=10/day=10/c.parquet", "year=2027/month=1/day=1/d.parquet",
         "year=2026/month=09/day=29/old.parquet")  # fmt: skip
    found = Landing(Objects(store), "memory://").list(ORDERS, date(2026, 9, 30))
    assert sorted(file.path.rsplit("/", 1)[-1] for file in found) == [
        "a.parquet", "b.parquet", "c.parquet", "d.parquet"
    ]  # fmt: skip


def test_a_stream_that_has_nothing_landed_is_empty() -> None:
    landing = Landing(Objects(MemoryStore()), "memory://")
    assert list(landing.list(ORDERS)) == []
    assert list(landing.list(ORDERS, date(2026, 1, 1))) == []


def test_only_landed_names_are_listed_and_another_streams_files_are_not() -> None:
    store = MemoryStore()
    fill(store, "year=2026/month=1/day=1/0.parquet-1", "year=2026/month=1/day=1/_SUCCESS")
    store.put("raw/shop/orders_archive/year=2026/month=1/day=1/a.parquet", b"x")
    assert [file.path for file in Landing(Objects(store), "memory://").list(ORDERS)] == [
        "raw/shop/orders/year=2026/month=1/day=1/0.parquet-1"
    ]


def test_a_moved_folder_keeps_the_identity_of_its_files(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    fill(LocalStore(before), "year=2026/month=1/day=1/a.parquet")
    shutil.copytree(before, tmp_path / "after")  # other inodes, same times
    first, second = (
        list(Landing(Folder(tmp_path / name), name).list(ORDERS)) for name in ("before", "after")
    )
    assert first == second


def test_a_file_rewritten_under_its_name_has_another_identity(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    fill(store, "year=2026/month=1/day=1/a.parquet")
    landing = Landing(Folder(tmp_path), str(tmp_path))
    (before,) = landing.list(ORDERS)
    os.utime(tmp_path / before.path, ns=(1, 1))
    (after,) = landing.list(ORDERS)
    assert before.path == after.path
    assert before.etag != after.etag


def test_url_and_relative_are_inverse() -> None:
    landing = Landing(Objects(MemoryStore()), "s3://bucket/zone")
    path = "raw/shop/orders/year=2026/month=1/day=1/a.parquet"
    assert landing.relative(landing.url(path)) == path
    assert landing.relative(path) == path
    assert landing.relative("s3://other/raw/a.parquet") is None
    assert landing.relative("/etc/passwd") is None


@pytest.mark.parametrize("objects", [1, 1000, 2500])
def test_a_full_listing_costs_one_request_per_thousand_objects(objects: int) -> None:
    store = MemoryStore()
    fill(store, *(f"year=2026/month=1/day=1/{number}.parquet" for number in range(objects)))
    landing = Landing(Objects(store), "memory://")
    assert len(list(landing.list(ORDERS))) == objects
    assert landing.requests == -(-objects // 1000)


def test_what_cannot_be_listed_is_said_after_what_can(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    fill(store, "year=2026/month=1/day=1/a.parquet", "year=2026/month=1/day=2/b.parquet")
    day = tmp_path / "raw/shop/orders/year=2026/month=1/day=1"
    (day / "back").symlink_to(tmp_path / "raw")  # a loop
    (day / "nowhere.parquet").symlink_to("gone")
    (day / "new\nline [1]*.parquet").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(day) + b"/bad\xff.parquet")).symlink_to(day / "a.parquet")
    found = []
    with pytest.raises(LandingError, match="not UTF-8: rename it"):
        for file in Landing(Folder(tmp_path), str(tmp_path)).list(ORDERS):
            found.append(file.path.rsplit("/", 1)[-1])  # noqa: PERF401 - what came before the error
    assert sorted(found) == ["a.parquet", "b.parquet", "new\nline [1]*.parquet"]


def test_a_listing_from_a_day_on_goes_past_what_it_cannot_list(tmp_path: Path) -> None:
    fill(LocalStore(tmp_path), *(f"year=2026/month=1/day={day}/a.parquet" for day in range(1, 9)))
    day = tmp_path / "raw/shop/orders/year=2026/month=1/day=4"
    Path(os.fsdecode(os.fsencode(day) + b"/bad\xff.parquet")).touch()
    found = []
    with pytest.raises(LandingError, match="not UTF-8"):
        for file in Landing(Folder(tmp_path), "").list(ORDERS, date(2026, 1, 2)):
            found.append(file.path)  # noqa: PERF401 - it ends with an error
    assert sorted(found) == [f"raw/shop/orders/year=2026/month=1/day={day}/a.parquet" for day in range(2, 9)]
