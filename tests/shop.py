"""A shop whose connector is one of ours (tests/fakes/source_counting.py): it says what a test wants it to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from tests.fakes import source_counting
from tests.scratch import APPEND, ScratchLake, launcher

CONNECTOR = Path(source_counting.__file__)
LOG = APPEND.replace("id as item_id,", "id as item_id, _airbyte_meta.changes as changes,")
LOG = "\n".join(line for line in LOG.splitlines() if "attributes" not in line)


class Shop:
    """A lake with one source, `shop`, of the streams items and notes; models without a key."""

    def __init__(self, lake: ScratchLake) -> None:
        self.lake = lake
        self.source: dict[str, Any] = {}
        for stream in ("items", "notes"):
            lake.add_stream(f"shop/{stream}", model=LOG)
        self.says(streams={"items": 25, "notes": 5})

    def says(self, **config: Any) -> None:
        """From now on the connector is configured with these too; None takes one away."""
        self.source = {key: value for key, value in (self.source | config).items() if value is not None}
        text = json.dumps({"connector": str(CONNECTOR), "config": self.source})
        self.lake.write("sources/shop.yml", text)

    def sync(
        self, *arguments: str, env: dict[str, str] | None = None, **hook: Any
    ) -> subprocess.CompletedProcess[str]:
        return (
            launcher()
            .start(
                "lakeward", "sync", *(arguments or ("shop",)),
                cwd=self.lake.root, env={**os.environ, **(env or {})}, **hook,
            )
            .wait()
        )  # fmt: skip

    def landed(self, stream: str = "items") -> list[int]:
        """The ids in the landed files, as often as they are there."""
        files = [str(path) for path in (self.lake.landing / "raw" / "shop" / stream).rglob("*.parquet")]
        if not files:
            return []
        with duckdb.connect() as con:
            return [
                n for (n,) in con.execute("select id from read_parquet(?) order by id", [files]).fetchall()
            ]

    def has_fallen_silent(self) -> bool:
        """Has a connector that hangs said all that it will, and was it heard?"""
        log = self.lake.root / ".lake" / "logs" / "sync-shop.log"
        if not log.exists() or "silent from here on" not in log.read_text():
            return False
        time.sleep(1)
        return True

    def said(self) -> str:
        """What the connector said."""
        return (self.lake.root / ".lake" / "logs" / "sync-shop.log").read_text()


def struck_at(shop: Shop, step: int, number: int = signal.SIGKILL) -> bool:
    """Does the sync get as far as that step? It gets a signal there, and ends by it."""
    options = {"step": step, "checkpoint_seconds": 0, "number": number}
    struck = shop.sync(before="tests.hooks:strike_sync_at", options=options)
    assert struck.returncode in {0, {9: -9, 2: 130, 15: 143}[number]}, struck.stderr
    assert "Traceback" not in struck.stderr
    return struck.returncode != 0


def expect_once_however_often_killed(shop: Shop) -> None:
    """Syncs, each killed at another step and run again, then a feed: every record is a row, once."""
    until = 0
    for step in (9, 15, 22):
        until += 25
        shop.says(streams={"items": until, "notes": until})
        struck_at(shop, step)
        assert shop.sync().returncode == 0
    shop.lake.cli("feed")
    for stream in ("items", "notes"):
        counted = f"select count(*), count(distinct item_id) from int_shop__{stream}"
        assert shop.lake.query(counted) == [(until, until)]


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
