"""Dagster on a lake: a real webserver and daemon, as `lakeward up` starts them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg  # noqa: TID253
import pytest

from tests.functional.serving import Up, programs_in, serving
from tests.scratch import remove_catalog, scratch_lake
from tests.servers import free_port

WORDS = """
{{ config(tags=['enriched'], materialized='table') }}
select item_id, word
from {{ ref('int_shop__items') }} join {{ ref('int_shop__prices') }} using (item_id, word)
"""
TESTS = "models: [{name: int_shop__items, columns: [{name: item_id, data_tests: [unique, not_null]}]}]"
# Fails until there is a file of rates.
RATES = """
{{ config(tags=['enriched'], materialized='table') }}
select item_id, rate from {{ ref('int_shop__items') }} cross join read_csv('RATES')
"""


pytestmark = pytest.mark.slow  # minutes: what is quick is in test_definitions.py


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    lake = scratch_lake(tmp_path_factory.mktemp("up"))
    for stream in ("shop/items", "shop/prices", "shop/never"):
        lake.add_stream(stream)
    lake.add_stream("shop/many", config={"batch_max_bytes": 1})  # a batch per file
    lake.add_stream("shop/late", config={"target_lag": "1m"})
    lake.write("dag/processed/shop/tests.yml", TESTS)
    lake.landing.rename(lake.root / "landing")  # one that is missed when it is gone
    lake.landing.symlink_to(lake.root / "landing")
    lake.write("lakeward.toml", "landing_url = 'landing'")
    lake.write("dag/enriched/words/fct_words.sql", WORDS)
    with serving(lake) as served:
        yield served
    remove_catalog(lake.root)


def test_what_lands_reaches_the_marts_by_itself_and_each_once(up: Up) -> None:
    up.lake.land("shop/items", 1, "a.parquet", range(5))
    up.lake.land("shop/prices", 1, "a.parquet", range(3))
    up.wait(lambda: "fct_words" in up.lake.tables())
    assert up.lake.query("select count(*) from fct_words") == [(3,)]
    assert up.builds("fct_words") == ["built"]
    up.wait(lambda: {status for _, status in up.runs()} == {"SUCCESS"})
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
    assert "fct_waits: waits for int_shop__never, never fed" in up.lake.cli("status", check=False).stdout


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


def test_a_second_one_on_the_same_lake_is_an_error_that_names_the_first(up: Up) -> None:
    done = up.lake.cli("up", "--port", str(free_port()), check=False)
    assert done.returncode == 2
    assert f"Dagster runs on this lake already: {up.url}" in done.stderr


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


@pytest.mark.timeout(600)  # it is tried again every five minutes
def test_a_mart_that_fails_is_red_and_is_tried_again(up: Up) -> None:
    rates = up.lake.root / "rates.csv"
    up.lake.write("dag/enriched/words/fct_rates.sql", RATES.replace("RATES", str(rates)))
    up.reload()
    up.wait(lambda: up.failures("fct_rates"))
    status = up.lake.cli("status", check=False)
    assert status.returncode == 1
    assert "fct_rates: its last build failed" in status.stdout
    rates.write_text("rate\n1\n")
    up.wait(lambda: "fct_rates" in up.lake.tables(), seconds=400)  # at the next five minutes
    assert up.failures("fct_rates") <= 2
    assert "fct_rates" not in up.lake.cli("status", check=False).stdout


def test_a_mart_whose_sql_has_changed_is_built_anew(up: Up) -> None:
    up.wait(lambda: "fct_words" in up.lake.tables())
    time.sleep(35)  # a tick later: one that sees a build and the change together takes the change for built
    up.lake.write(
        "dag/enriched/words/fct_words.sql", WORDS.replace("item_id, word", "item_id, word, 1 as one", 1)
    )
    up.reload()
    columns = "select column_name from duckdb_columns() where table_name = 'fct_words'"
    up.wait(lambda: ("one",) in up.lake.query(columns))


def test_a_run_cancelled_half_way_leaves_the_rest_to_the_next(up: Up) -> None:
    for number in range(30):
        up.lake.land("shop/many", 1, f"many-{number}.parquet", range(number, number + 2))
    up.wait(up.many)
    (run,) = up.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    answer = up.ask(f'mutation {{ terminateRun(runId: "{run.run_id}") {{ __typename }} }}')
    assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"
    up.wait(lambda: up.instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED)  # type: ignore[union-attr]
    assert len(up.many()) < 30
    up.wait(lambda: len(up.many()) == 30)
    assert len(set(up.many())) == 30
    assert up.lake.query("select count(*), count(distinct item_id) from int_shop__many") == [(31, 31)]


def test_data_older_than_its_target_lag_turns_stale(up: Up) -> None:
    query = (
        '{ assetNodes(assetKeys: [{path: ["int_shop__late"]}]) { freshnessStatusInfo { freshnessStatus } } }'
    )

    def freshness() -> str:
        (node,) = up.ask(query)["assetNodes"]
        return str(node["freshnessStatusInfo"]["freshnessStatus"])

    up.lake.land("shop/late", 1, "late.parquet", range(2))
    up.wait(lambda: freshness() == "HEALTHY")
    up.wait(lambda: freshness() == "DEGRADED")


def test_dbts_tests_run_after_a_feed_and_not_again_within_the_hour(up: Up) -> None:
    up.wait(lambda: up.checked("unique_int_shop__items_item_id"))
    first = up.checked("unique_int_shop__items_item_id")[-1]
    assert first.status.value == "SUCCEEDED"
    up.lake.land("shop/items", 2, "tested.parquet", range(5))
    up.wait(lambda: "tested.parquet" in up.lake.events())
    time.sleep(45)  # a tick later
    hours = int(time.time() // 3600 - first.create_timestamp // 3600)
    assert len(up.checked("unique_int_shop__items_item_id")) <= 1 + hours


def test_stopped_half_way_it_goes_on_where_it_was(tmp_path: Path) -> None:
    lake = scratch_lake(tmp_path)
    lake.add_stream("shop/many", config={"batch_max_bytes": 1})
    lake.feed()  # sets up the ledger
    for number in range(40):
        lake.land("shop/many", 1, f"many-{number}.parquet", range(number, number + 2))
    with serving(lake) as up:
        up.wait(up.many)
    assert len(up.many()) < 40
    with serving(lake) as up:
        up.wait(lambda: len(up.many()) == 40)
        up.wait(lambda: "STARTED" not in dict(up.runs()).values())
    assert len(set(up.many())) == 40
    assert lake.query("select count(*), count(distinct item_id) from int_shop__many") == [(41, 41)]
    remove_catalog(lake.root)
