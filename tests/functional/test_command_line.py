"""The contract of the command line: words, JSON, exit codes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from lakeward.check import check
from lakeward.errors import LakeError
from tests.functional.conftest import shipped_flows
from tests.scratch import MODEL, ScratchLake, launcher


def test_build_runs_only_marts_whose_upstreams_changed(lake: ScratchLake) -> None:
    for stream in ("shop/items", "shop/prices"):
        lake.add_stream(stream)
        lake.land(stream, 1, "a.parquet", range(3))
    lake.write("dag/enriched/fct_items.sql", "{{ config(tags=['enriched'], materialized='table') }}\n"
               "select item_id from {{ ref('int_shop__items') }}")  # fmt: skip
    lake.cli("run")
    for stream in ("shop/items", "shop/prices"):
        lake.land(stream, 2, "b.parquet", range(3, 6))
    lake.cli("feed", "shop/prices")
    assert "nothing to build" in lake.cli("build").stdout
    lake.cli("feed", "shop/items")
    assert "built fct_items (int_shop__items changed)" in lake.cli("build").stdout
    assert "nothing to build" in lake.cli("build").stdout


def test_a_mart_that_fails_is_red_until_it_builds(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.write("dag/enriched/fct_items.sql", "{{ config(tags=['enriched'], materialized='table') }}\n"
               "select item_id, nothing from {{ ref('int_shop__items') }}")  # fmt: skip
    lake.land("shop/items", 1, "a.parquet", range(3))
    assert lake.cli("run", check=False).returncode == 1
    status = lake.cli("status", check=False)
    assert status.returncode == 1
    assert "fct_items: its last build failed" in status.stdout
    lake.write("dag/enriched/fct_items.sql", "{{ config(tags=['enriched'], materialized='table') }}\n"
               "select item_id from {{ ref('int_shop__items') }}")  # fmt: skip
    lake.cli("run")
    assert lake.cli("status").returncode == 0


def test_status_is_red_when_a_stream_is_over_its_target_lag(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"target_lag": "1h"})
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    done = lake.cli("status", check=False)
    assert done.returncode == 1
    assert "target_lag is 1h 0m" in done.stdout


def test_status_names_the_columns_that_differ_from_the_table(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    lake.add_stream("shop/items", model=MODEL.replace("as word", "as term"))
    lake.dbt("parse")
    said = lake.cli("status").stdout
    assert "+ term, - word" in said
    assert "dbt run --full-refresh -s int_shop__items" in said


def test_status_works_before_anything_was_ever_fed_and_creates_nothing(embedded_lake: ScratchLake) -> None:
    embedded_lake.add_stream("shop/items")
    embedded_lake.land("shop/items", 1, "a.parquet", range(3))
    status = json.loads(embedded_lake.cli("status", "--json").stdout)
    assert status["streams"][0]["pending_files"] == 1
    assert sorted(path.name for path in (embedded_lake.root / ".lake").iterdir()) == ["landing"]


def test_commands_with_nothing_to_do_do_not_import_dbt(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    probe = (
        "import sys; from lakeward.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "assert not [name for name in sys.modules if name == 'dbt' or name.startswith('dbt.')]"
    )
    for command in (["status"], ["feed"], ["files", "shop/items"]):
        subprocess.run(
            [sys.executable, "-c", probe, *command], cwd=lake.root, check=True, capture_output=True
        )


def test_check_passes_on_the_shipped_lake_without_data_or_server(lake: ScratchLake) -> None:
    shipped_flows(lake, "shopify", "klaviyo")
    shutil.rmtree(lake.root / ".lake")
    done = lake.cli("check")
    assert "9 streams checked: 0 errors, 0 warnings" in done.stdout
    assert not (lake.root / ".lake" / "catalog").exists()


PROCESSED = "dag/processed/shop/int_shop__b.sql"
B = MODEL.replace("SOURCE__STREAM", "shop__b")


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        ("stream_has_model", "dag/streams/shop/extra.json", "{}"),
        ("stream_file", "dag/streams/shop/items.json", '{"cursor_feild": ["x"]}'),
        ("macros_current", "macros/lakeward.sql", "-- mine"),
        ("stream_exists", PROCESSED, MODEL.replace("SOURCE__STREAM", "shop__c")),
        ("one_stream_tag", PROCESSED, MODEL.replace(", 'SOURCE__STREAM'", "")),
        ("has_key", PROCESSED, B.replace("    unique_key='item_id',\n", "")),
        ("guardable", PROCESSED, B.replace("delete+insert", "merge")),
        ("guardable", PROCESSED, B.replace("    _airbyte_extracted_at,\n", "")),
        ("breaks_ties", PROCESSED, B),
        ("can_be_fed", PROCESSED, B.replace("incremental'", "table'", 1)),
        ("reads_files", PROCESSED, "{{ config(tags=['shop__b'], unique_key='a') }} select 1 as a"),
        ("name_and_folder", "dag/processed/shop/items_again.sql", B),
        ("enriched_tag", "dag/enriched/fct_a.sql", "select 1 as a"),
        ("project_parses", "dag/enriched/fct_a.sql", "select {{ nothing("),
    ],
)
def test_check_finds(embedded_lake: ScratchLake, rule: str, path: str, text: str) -> None:
    lake = embedded_lake
    lake.add_stream("shop/items")
    lake.add_stream("shop/b")
    lake.project()
    lake.write(path, text)
    project = lake.project()
    found = check(lake.project_dir, project.manifest, project.parse_error)
    assert rule in [finding.rule for finding in found], found
    assert all(part for finding in found for part in asdict(finding).values())


def test_check_exits_2_and_says_what_where_why_and_the_remedy(embedded_lake: ScratchLake) -> None:
    embedded_lake.add_stream("shop/items", model=MODEL.replace("    unique_key='item_id',\n", ""))
    done = embedded_lake.cli("check", check=False)
    assert done.returncode == 2
    assert "int_shop__items.sql: has no unique_key  [has_key, error]" in done.stdout
    assert "why: " in done.stdout
    assert "remedy: " in done.stdout
    (finding,) = json.loads(embedded_lake.cli("check", "--json", check=False).stdout)["findings"]
    assert finding["rule"] == "has_key"


def test_a_project_that_does_not_parse_keeps_feeding_on_the_last_good_manifest(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    lake.land("shop/items", 2, "b.parquet", range(3, 6))
    lake.write(
        "dag/enriched/fct_broken.sql", "{{ config(tags=['enriched']) }} select * from {{ ref('nobody') }}"
    )
    done = lake.cli("feed", check=False)
    assert done.returncode == 1
    assert "fct_broken" in done.stderr
    assert len(lake.table("int_shop__items")) == 6


def test_mistakes_of_the_user_exit_2_and_say_what_to_do(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    lake.write("dag/streams/shop/broken.json", '{"curser": 1}')
    for arguments, said in (
        (["feed", "shop/itmes"], 'no stream "shop/itmes"'),
        (["sql", "select nothing"], "nothing"),
        (["sql", ";"], "no statement was given"),
        (["sql", "--json", "select 1 as a, 2 as a"], "two columns are called a"),
        (["feed", "shop/broken"], 'unknown key "curser"'),
        (["quarantine", "retry", "shop/items"], "nothing to retry"),
        (["feed", "--no-such-flag"], "No such option"),
    ):
        done = lake.cli(*arguments, check=False)
        assert done.returncode == 2, arguments
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_feed_watch_loads_what_lands_while_it_runs_and_stops_cleanly(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    watching = launcher().start("lakeward", "feed", "--watch", cwd=lake.root)
    try:
        _wait_for_rows(lake, 3)
        lake.land("shop/items", 2, "b.parquet", range(3, 8))
        _wait_for_rows(lake, 8)
    finally:
        watching.kill(signal.SIGINT)
        done = watching.wait(30)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def _wait_for_rows(lake: ScratchLake, rows: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if len(lake.table("int_shop__items")) == rows:
                return
        except (LakeError, AssertionError):
            pass  # not there yet
        time.sleep(0.5)
    pytest.fail(f"int_shop__items did not reach {rows} rows")


def test_a_mart_on_a_failed_mart_says_so_and_both_are_red(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    config = "{{ config(tags=['enriched'], materialized='table') }}\n"
    lake.write("dag/enriched/fct_a.sql", config + "select nothing from {{ ref('int_shop__items') }}")
    lake.write("dag/enriched/fct_b.sql", config + "select * from {{ ref('fct_a') }}")
    lake.land("shop/items", 1, "a.parquet", range(3))
    said = lake.cli("run", check=False).stderr
    assert "fct_b: skipped: fct_a failed" in said
    assert lake.cli("run", check=False).returncode == 1
    marts = json.loads(lake.cli("status", "--json", check=False).stdout)["marts"]
    assert [mart["name"] for mart in marts if mart["error"]] == ["fct_a", "fct_b"]
    assert lake.query("select count(*) from meta.build_log") == [(2,)]  # the same error is said once


def test_what_json_cannot_say_is_null_or_text(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    statement = (
        "select 'nan'::double as a, '-inf'::float as b, ['nan'::double, 1] as c, '\\x00ab'::blob as d, "
        "time '01:02:03' as e, interval 90 second as f, 1.50::decimal(9,2) as g, "
        "{'h': date '2026-11-01'} as h"
    )
    (row,) = json.loads(lake.cli("sql", "--json", statement).stdout, parse_constant=pytest.fail)
    assert row == {
        "a": None, "b": None, "c": [None, 1], "d": "006162", "e": "01:02:03", "f": 90, "g": 1.5,
        "h": {"h": "2026-11-01"},
    }  # fmt: skip


def test_files_of_every_status_have_the_same_keys(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    lake.feed()
    lake.land("shop/items", 2, "b.parquet", range(3))
    applied, pending = json.loads(lake.cli("files", "shop/items", "--json").stdout)
    assert (applied["status"], pending["status"]) == ("applied", "pending")
    assert list(applied) == list(pending)


def test_a_data_url_that_is_not_the_lakes_is_named_and_nothing_created(
    embedded_lake: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_lake.add_stream("shop/items")
    embedded_lake.land("shop/items", 1, "a.parquet", range(3))
    embedded_lake.cli("feed")
    elsewhere = embedded_lake.root / "elsewhere"
    monkeypatch.setenv("LAKEWARD_DATA_URL", str(elsewhere))
    done = embedded_lake.cli("status", check=False)
    assert done.returncode == 2
    assert f"data_url is {elsewhere}" in done.stderr
    assert not elsewhere.exists()


def test_a_stream_without_a_model_shows_what_waits_for_one(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.write("dag/streams/shop/orphan.json", "{}")
    lake.land("shop/orphan", 1, "a.parquet", range(3))
    lake.feed()
    rows = json.loads(lake.cli("status", "--json", check=False).stdout)["streams"]
    orphan = next(row for row in rows if row["stream"] == "shop/orphan")
    assert (orphan["pending_files"], orphan["red"]) == (1, True)


def test_nothing_but_the_answer_goes_to_stdout_however_long_a_query_takes(lake: ScratchLake) -> None:
    """A process without a main file, as each worker is, DuckDB takes for a person who likes progress bars."""
    lake.add_stream("shop/items")
    lake.project()
    ask = (
        "from pathlib import Path; from lakeward.lake import open_lake; "
        "from lakeward.settings import load_settings\n"
        "with open_lake(load_settings(Path('orchestration'))) as lake:\n"
        "    print(lake.query(\"select current_setting('enable_progress_bar')\"))"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=lake.root, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[(False,)]\n"


def test_what_looks_like_markup_is_shown_as_it_is(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "[red]hidden[id].parquet", range(3))
    lake.feed()
    assert "[red]hidden[id].parquet" in lake.cli("files", "shop/items").stdout
    shown = lake.cli("sql", "select '[/red]' as \"[id]\"").stdout
    assert ("[id]" in shown, "[/red]" in shown) == (True, True)
