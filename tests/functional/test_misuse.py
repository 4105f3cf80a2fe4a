"""Models and tables that would lose or double rows if fed: refused, by feeder and plain dbt alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lakeward import feed as engine
from lakeward.attempt import Progress
from lakeward.lake import open_lake
from lakeward.project import open_tools
from tests.scratch import APPEND, MODEL, ScratchLake


def configured(extra: str) -> str:
    return MODEL.replace("materialized=", f"{extra}, materialized=")


@pytest.mark.parametrize(
    ("folder", "model", "told"),
    [
        ("processed/shop", MODEL.replace("incremental'", "table'", 1), "materialized as table"),
        ("processed/shop", MODEL.replace("incremental'", "view'", 1), "materialized as view"),
        ("staging", MODEL, "without lakeward's hooks"),
        ("processed/shop", configured("full_refresh=true"), "replace the table by"),
    ],
)
def test_a_model_that_would_lose_rows_is_not_fed(
    lake: ScratchLake, folder: str, model: str, told: str
) -> None:
    lake.add_stream("shop/good")
    lake.write("dag/streams/shop/bad.json", "{}")
    lake.write(f"dag/{folder}/int_shop__bad.sql", model.replace("SOURCE__STREAM", "shop__bad"))
    for day in (1, 2):
        for stream in ("shop/good", "shop/bad"):
            lake.land(stream, day, "a.parquet", range(day * 10, day * 10 + 5))

    fed = lake.cli("feed", check=False)

    assert fed.returncode == 1
    assert told in fed.stderr
    assert lake.tables() == ["int_shop__good"]
    assert len(lake.events()) == 2
    status = lake.cli("status", check=False)
    assert status.returncode == 1
    assert told in status.stdout
    if "full_refresh" not in model:  # with plain dbt that loads everything, every time
        done = lake.dbt("run", "-s", "int_shop__bad", check=False)
        assert done.returncode == 1
        assert told in done.stdout


def test_one_unfit_model_of_a_stream_does_not_hold_the_others_back(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.write(
        "dag/processed/shop/int_shop__items_b.sql",
        MODEL.replace("SOURCE__STREAM", "shop__items").replace("incremental'", "ephemeral'", 1),
    )
    lake.land("shop/items", 1, "a.parquet", range(5))
    assert "materialized as ephemeral" in lake.feed()["shop/items"].errors["int_shop__items_b"]
    lake.land("shop/items", 2, "b.parquet", range(5, 10))
    lake.feed()
    assert len(lake.table("int_shop__items")) == 10
    assert "nothing pending" not in lake.cli("feed", check=False).stdout


def test_a_model_that_never_reads_the_files_is_refused(lake: ScratchLake) -> None:
    lake.add_stream(
        "shop/items", model="{{ config(tags=['shop__items'], materialized='incremental') }} select 1 as a"
    )
    lake.land("shop/items", 1, "a.parquet", range(5))
    assert 'never reads {{ var("files") }}' in lake.feed()["shop/items"].errors["int_shop__items"]
    assert lake.events() == []


def test_incremental_predicates_are_refused(lake: ScratchLake) -> None:
    lake.add_stream(
        "shop/items",
        model=MODEL.replace("materialized=", "incremental_predicates=['day > 1'], materialized="),
    )
    for day in (1, 2):
        lake.land("shop/items", day, "a.parquet", range(5))
        report = lake.feed()["shop/items"]
    assert "has incremental_predicates" in report.errors["int_shop__items"]


def test_a_model_may_read_its_own_table(lake: ScratchLake) -> None:
    """The table must still be what it was when the insert's rows are computed."""
    first = """year,
    {% if is_incremental() %}
    coalesce((select min(first_at) from {{ this }} as t where t.item_id = id), _airbyte_extracted_at)
    {% else %} _airbyte_extracted_at {% endif %} as first_at,"""
    lake.add_stream("shop/items", model=MODEL.replace("year,", first, 1))
    for day in (1, 2, 3):
        lake.land("shop/items", day, "a.parquet", range(3), word=str(day))
        assert not lake.feed()["shop/items"].errors
    assert lake.query("select distinct word, first_at::date::varchar from int_shop__items") == [
        ("3", "2026-11-01")
    ]


def test_a_table_dropped_while_a_feed_is_under_way_is_built_from_everything(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", config={"batch_max_bytes": 1}, model=APPEND)
    for day in range(1, 6):
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 10))
    project = lake.project()
    (stream,) = project.streams
    drops = iter([True])

    def drop_once(progress: Progress) -> None:
        for _ in drops:
            with open_lake(project.settings) as other:
                assert other is not None
                other.query("drop table main.int_shop__items")

    with open_tools(project.settings, lambda _: None) as tools:
        models = project.manifest.of_stream(stream.tag)
        report = engine.feed(stream, models, replace(tools, say=drop_once))

    assert not report.errors
    assert report.conflicts == 1
    assert lake.query("select count(*), count(distinct item_id) from int_shop__items") == [(50, 50)]
    assert lake.feed()["shop/items"].batches == 0


def test_a_table_that_the_ledger_does_not_know_is_refused_with_the_remedy(lake: ScratchLake) -> None:
    lake.add_stream("shop/old")
    lake.land("shop/old", 1, "a.parquet", range(10))
    lake.feed()
    lake.write("dag/streams/shop/new.json", "{}")
    sql = lake.project_dir / "dag/processed/shop/int_shop__old.sql"
    sql.write_text(sql.read_text().replace("shop__old", "shop__new"))
    lake.land("shop/new", 1, "a.parquet", range(100, 105))

    report = lake.feed("shop/new")["shop/new"]

    assert "has a table that the ledger does not know" in report.errors["int_shop__old"]
    assert "dbt run --full-refresh -s int_shop__old" in report.errors["int_shop__old"]
    assert len(lake.table("int_shop__old")) == 10
    lake.dbt("run", "--full-refresh", "-s", "int_shop__old")
    assert [key for key, _ in lake.table("int_shop__old")] == list(range(100, 105))


def test_a_failed_full_refresh_does_not_count_as_a_listing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(5))
    lake.feed()
    before = len(lake.query("from meta.feeder_log where event = 'listed'"))
    lake.add_stream("shop/items", model=MODEL.replace("'$.amount' as double", "'$.word' as double"))
    lake.dbt("run", "--full-refresh", "-s", "int_shop__items", check=False)
    assert len(lake.query("from meta.feeder_log where event = 'listed'")) == before


def test_a_file_rewritten_between_listing_and_reading_is_read_once_as_it_is(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=APPEND)
    lake.land("shop/items", 1, "a.parquet", range(5), word="first")
    project = lake.project()
    (stream,) = project.streams
    rewrites = iter([True])
    with open_tools(project.settings, lambda _: None) as tools:

        def rewrite_once() -> object:
            for _ in rewrites:
                lake.land("shop/items", 1, "a.parquet", range(7), word="second")
            return tools.transform()

        models = project.manifest.of_stream(stream.tag)
        report = engine.feed(stream, models, replace(tools, transform=rewrite_once))  # type: ignore[arg-type]

    assert report.conflicts == 1
    assert lake.table("int_shop__items") == [(i, "second") for i in range(7)]
    assert lake.feed()["shop/items"].batches == 0


def test_other_macros_than_the_installed_ones_are_refused(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(5))
    macros = lake.project_dir / "macros/lakeward.sql"
    macros.write_text(macros.read_text() + "\n")
    done = lake.dbt("run", check=False)
    assert "macros/lakeward.sql is not the installed lakeward's" in done.stdout
    assert "macros/lakeward.sql is not the installed" in lake.feed()["shop/items"].errors["shop/items"]
