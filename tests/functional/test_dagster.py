"""Dagster on a lake: a real webserver and daemon, as `lakeward up` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg  # noqa: TID253
import pytest
from playwright.sync_api import sync_playwright

from tests.scratch import ScratchLake, clean_environment, free_port, remove_catalog, scratch_lake

WORDS = """
{{ config(tags=['enriched'], materialized='table') }}
select item_id, word
from {{ ref('int_shop__items') }} join {{ ref('int_shop__prices') }} using (item_id, word)
"""
RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "definitions.py") {
  __typename ... on WorkspaceLocationEntry { locationOrLoadError { __typename } } } }
"""


pytestmark = pytest.mark.slow  # minutes: what is quick is in test_definitions.py


@dataclass
class Up:
    """`lakeward up` on a lake, and Dagster's own record of what it did."""

    lake: ScratchLake
    process: subprocess.Popen[str]
    url: str
    instance: dg.DagsterInstance

    def ask(self, query: str) -> Any:
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def reload(self) -> None:
        entry = self.ask(RELOAD)["reloadRepositoryLocation"]
        assert entry["locationOrLoadError"]["__typename"] == "RepositoryLocation", entry

    def wait(self, what: Callable[[], object], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, "lakeward up has ended"
            assert time.monotonic() < deadline, self.runs()
            time.sleep(1)

    def runs(self) -> list[tuple[str, str]]:
        """Steps and status of every run, oldest first."""
        return [
            (
                " ".join(sorted(str(key.to_user_string()) for key in run.asset_selection or ())),
                run.status.value,
            )
            for run in reversed(self.instance.get_runs())
        ]

    def failures(self, feeder: str) -> int:
        return sum(feeder in names.split() and status == "FAILURE" for names, status in self.runs())

    def builds(self, mart: str) -> list[str]:
        rows = self.lake.query(f"select event from meta.build_log where model = '{mart}' order by rowid")
        return [event for (event,) in rows]

    def ticks(self) -> list[Any]:
        (state,) = (state for state in self.instance.all_instigator_state() if state.name == "landing")
        return list(self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5))


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    lake = scratch_lake(tmp_path_factory.mktemp("up"))
    for stream in ("shop/items", "shop/prices", "shop/never"):
        lake.add_stream(stream)
    lake.landing.rename(lake.root / "landing")  # one that is missed when it is gone
    lake.landing.symlink_to(lake.root / "landing")
    lake.write("lakeward.toml", "landing_url = 'landing'")
    lake.write("dag/enriched/words/fct_words.sql", WORDS)
    with serving(lake) as served:
        yield served
    remove_catalog(lake.root)


@contextlib.contextmanager
def serving(lake: ScratchLake) -> Iterator[Up]:
    port, home = free_port(), lake.root / ".lake" / "dagster"
    with (lake.root / "up.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lakeward", "up", "--port", str(port)],
            cwd=lake.root, env=clean_environment(), stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: "), line
        try:
            with dg.DagsterInstance.from_config(str(home)) as instance:
                yield Up(lake, process, f"http://127.0.0.1:{port}", instance)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not programs_in(lake.root), "left behind"


def programs_in(root: Path) -> dict[int, str]:
    """Command lines by process, of all that belong to the lake but this one."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if str(root).encode() in words + (folder / "environ").read_bytes():
                found[int(folder.name)] = words.replace(b"\0", b" ").decode()
    found.pop(os.getpid(), None)
    return found


def test_what_lands_reaches_the_marts_by_itself_and_each_once(up: Up) -> None:
    up.lake.land("shop/items", 1, "a.parquet", range(5))
    up.lake.land("shop/prices", 1, "a.parquet", range(3))
    up.wait(lambda: "fct_words" in up.lake.tables())
    assert up.lake.query("select count(*) from fct_words") == [(3,)]
    assert up.builds("fct_words") == ["built"]
    up.wait(lambda: [status for _, status in up.runs()] == ["SUCCESS"] * 3)
    event = up.instance.get_latest_materialization_event(dg.AssetKey("int_shop__items"))
    assert event is not None
    assert event.asset_materialization is not None
    numbers = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (numbers["files"], numbers["rows"], numbers["dagster/row_count"]) == (1, 5, 5)
    assert numbers["rows_replaced"] == 0


def test_a_second_round_of_two_feeds_builds_the_mart_once_more(up: Up) -> None:
    up.wait(lambda: up.builds("fct_words") == ["built"])
    up.lake.land("shop/items", 2, "b.parquet", range(5, 9))
    up.lake.land("shop/prices", 2, "b.parquet", range(3, 9))
    up.wait(lambda: up.lake.query("select count(*) from fct_words") == [(9,)])
    assert up.builds("fct_words") == ["built"] * 2


def test_a_new_mart_on_models_fed_long_ago_is_built_and_one_on_a_model_never_fed_waits(
    up: Up,
) -> None:
    up.wait(lambda: "fct_words" in up.lake.tables())
    up.lake.write("dag/enriched/words/fct_new.sql", WORDS)
    up.lake.write("dag/enriched/words/fct_waits.sql", WORDS.replace("shop__prices", "shop__never"))
    up.reload()
    up.wait(lambda: "fct_new" in up.lake.tables())
    assert up.builds("fct_new") == ["built"]
    assert up.builds("fct_waits") == []
    assert "fct_waits: waits for int_shop__never, never fed" in up.lake.cli("status").stdout


def test_what_the_command_line_feeds_is_built_on_here_too(up: Up) -> None:
    up.wait(lambda: "fct_words" in up.lake.tables())
    before = len(up.builds("fct_words"))
    up.lake.land("shop/items", 3, "c.parquet", range(9, 12))
    up.lake.land("shop/prices", 3, "c.parquet", range(9, 12))
    up.lake.cli("feed")
    up.wait(lambda: up.lake.query("select count(*) from fct_words") == [(12,)])
    assert len(up.builds("fct_words")) == before + 1


def test_a_landing_zone_that_is_down_turns_ticks_red_and_recovers(up: Up) -> None:
    up.wait(up.ticks)
    landing, away = up.lake.root / "landing", up.lake.root / "away"
    landing.rename(away)
    up.wait(lambda: up.ticks()[0].status.value == "FAILURE")
    assert "no such folder" in str(up.ticks()[0].error)
    away.rename(landing)
    up.wait(lambda: up.ticks()[0].status.value == "SKIPPED")


def test_a_port_in_use_is_an_error_that_names_it(up: Up) -> None:
    port = re.search(r":(\d+)$", up.url)
    assert port is not None
    done = up.lake.cli("up", "--port", port[1], check=False)
    assert done.returncode == 2
    assert f"port {port[1]}" in done.stderr


def test_a_failed_feed_says_what_the_command_line_would_and_does_not_spin(up: Up) -> None:
    model = up.lake.project_dir / "dag/processed/shop/int_shop__items.sql"
    sound = model.read_text()
    model.write_text(sound.replace("as word,", "as word,\n    nothing,"))
    up.lake.dbt("parse")
    up.reload()
    up.lake.land("shop/items", 4, "d.parquet", range(12, 14))
    up.wait(lambda: up.failures("shop_items") >= 2)
    time.sleep(35)  # a tick later
    assert up.failures("shop_items") <= 4
    assert "nothing" in up.lake.cli("status", check=False).stdout
    model.write_text(sound)
    up.lake.dbt("parse")
    up.reload()
    up.wait(lambda: "d.parquet" in up.lake.events())


def test_a_stream_file_that_does_not_parse_takes_no_other_down(up: Up) -> None:
    broken = up.lake.write("dag/streams/shop/broken.json", "{")
    up.reload()
    node = up.ask('{ assetNodes(assetKeys: [{path: ["shop_broken"]}]) { description } }')["assetNodes"][0]
    assert "broken.json: not JSON" in node["description"]
    up.lake.land("shop/prices", 4, "d.parquet", range(12, 14))
    up.wait(lambda: up.lake.events().count("d.parquet") == 2)
    broken.unlink()


def test_a_killed_run_is_started_again_and_doubles_nothing(up: Up) -> None:
    up.lake.land("shop/items", 5, "e.parquet", range(14, 20))
    up.wait(lambda: [run for run in up.instance.get_runs() if run.status == dg.DagsterRunStatus.STARTED])
    for process, words in programs_in(up.lake.root).items():
        if "spawn_main" in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    up.wait(lambda: "e.parquet" in up.lake.events())
    ((rows, items),) = up.lake.query("select count(*), count(distinct item_id) from int_shop__items")
    assert rows == items
    assert up.lake.query("select count(*) from int_shop__items where item_id between 14 and 19") == [(6,)]


def test_the_graph_in_a_browser(up: Up, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.goto(f"{up.url}/asset-groups")
        page.get_by_text("Skip", exact=True).click(timeout=60_000)  # its welcome
        page.get_by_text("words", exact=True).first.wait_for(timeout=60_000)
        page.keyboard.press("Alt+e")  # all groups expanded
        for name in ("items", "shop_items", "int_shop__items", "fct_words"):
            page.get_by_text(name, exact=True).first.wait_for(timeout=60_000)
        page.screenshot(path=tmp_path / "graph.png")
        browser.close()
    assert (tmp_path / "graph.png").stat().st_size > 20_000
