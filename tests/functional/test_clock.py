"""A clock that is wrong, or jumps: libfaketime tells a whole process another time, DuckDB too."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lakeward.project import open_tools
from tests.functional.test_two_writers import LOG
from tests.scratch import APPEND, MODEL, ScratchLake
from tests.servers import S3Server

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="libfaketime's wheel knows no other"
)


def started(lake: ScratchLake, *arguments: str, clock: Path) -> subprocess.Popen[str]:
    """`lakeward` at the time that the file says, as in `+3d`, and may say anew at any moment."""
    spec = importlib.util.find_spec("libfaketime")
    assert spec is not None
    assert spec.origin is not None
    told = {
        "LD_PRELOAD": str(Path(spec.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "lakeward", *arguments],
        cwd=lake.root, env=os.environ | told, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def items(lake: ScratchLake) -> ScratchLake:
    lake.add_stream("shop/items")
    lake.write(f"dag/processed/shop/{LOG}.sql", APPEND.replace("SOURCE__STREAM", "shop__items"))
    lake.land("shop/items", 20, "a.parquet", range(5))
    lake.feed()
    return lake


def fed(lake: ScratchLake, model: str = LOG) -> list[int]:
    return [key for key, _ in lake.table(model)]


@pytest.mark.slow
def test_a_clock_that_jumps_while_a_feed_watches(items: ScratchLake) -> None:
    """A year ahead, two years back; each time an old and a new partition get a file."""
    clock = items.root / "clock"
    clock.write_text("+0d")
    watching = started(items, "feed", "--watch", clock=clock)
    until = time.monotonic() + 60
    try:
        for number, jump in enumerate(["+400d", "-400d", "+0d"], start=1):
            clock.write_text(jump)
            for day in (1, 21):
                low = number * 100 + day
                items.land("shop/items", day, f"{number}.parquet", range(low, low + 2))
            while len(fed(items)) < 5 + 4 * number:
                assert watching.poll() is None
                assert time.monotonic() < until
                time.sleep(0.3)
    finally:
        watching.kill()
        watching.communicate()
    items.cli("feed")
    assert fed(items) == fed(items, "int_shop__items") == sorted(set(fed(items)))
    assert len(fed(items)) == 17


def test_a_refresh_announced_by_a_clock_that_was_ahead_holds_nobody_up(items: ScratchLake) -> None:
    project = items.project()
    with open_tools(project.settings, lambda _: None) as tools:
        tools.ledger.announce(project.streams[0], "another", datetime.now(UTC) + timedelta(days=400))
    items.land("shop/items", 21, "b.parquet", range(5, 10))
    items.cli("feed")
    assert fed(items) == [*range(10)]


def test_what_day_it_is_does_not_depend_on_where_the_machine_stands(
    lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    day = "cast(_airbyte_extracted_at as date)::varchar as word,"
    lake.add_stream("shop/items", model=MODEL.replace("attributes::JSON->>'$.word' as word,", day))
    lake.land("shop/items", 2, "a.parquet", range(1), at="2026-11-02 01:00:00+00")
    clock = lake.root / "clock"
    clock.write_text("+0d")
    _, told = started(lake, "feed", clock=clock).communicate(timeout=60)  # a process not forked from ours
    assert lake.table("int_shop__items") == [(0, "2026-11-02")], told


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with closing(S3Server(tmp_path)) as server:
        yield server


def test_a_clock_that_the_store_refuses_is_named(
    items: ScratchLake, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (s3.environment | {"LAKEWARD_LANDING_URL": f"s3://{S3Server.BUCKET}/landing"}).items():
        monkeypatch.setenv(name, value)
    path = items.land("shop/items", 21, "b.parquet", range(5, 10))
    s3.store("landing").put(str(path.relative_to(items.landing)), path)
    clock = items.root / "clock"
    clock.write_text("+1h")
    feeding = started(items, "feed", clock=clock)
    _, told = feeding.communicate(timeout=60)
    assert feeding.returncode == 1
    assert "RequestTimeTooSkewed" in told
    items.cli("feed")
    assert fed(items) == [*range(10)]
