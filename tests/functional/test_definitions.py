"""The lake as Dagster sees it, a tick, a run, all in this process; test_dagster.py has the daemon."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg  # noqa: TID253
import pytest

from lakeward.build import build
from lakeward.definitions import build_definitions  # noqa: TID253
from tests.fakes import source_counting
from tests.scratch import REPOSITORY, ScratchLake

WORDS = """
{{ config(tags=['enriched'], materialized='table') }}
select item_id, word from {{ ref('int_shop__items') }}
"""


@pytest.fixture
def items(lake: ScratchLake) -> ScratchLake:
    lake.add_stream("shop/items", config={"target_lag": "2d"})
    lake.write("dag/enriched/words/fct_words.sql", WORDS)
    return lake


def tick(lake: ScratchLake, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    definitions = build_definitions(lake.root)
    sensor = definitions.resolve_sensor_def("landing")
    context = dg.build_sensor_context(
        instance, cursor, repository_def=definitions.get_repository_def(), sensor_name="landing"
    )
    return sensor.evaluate_tick(context)


def materialize(lake: ScratchLake, instance: dg.DagsterInstance, *keys: str) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(lake.root)
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(key) for key in keys], raise_on_error=False
    )


def test_the_shipped_lake_is_a_graph_from_landing_to_mart() -> None:
    graph = build_definitions(REPOSITORY / "orchestration").resolve_asset_graph()

    def above(name: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}

    assert above("fct_sales") == {"int_shopify__orders", "int_shopify__order_refunds"}
    assert above("int_shopify__orders") == {"shopify_orders"}
    assert above("shopify_orders") == {"landing/shopify/orders"}
    orders = graph.get(dg.AssetKey("int_shopify__orders"))
    assert orders.group_name == "shopify"
    assert "one row per order" in (orders.description or "").lower()
    assert "read_parquet" in (orders.description or "")
    columns = orders.metadata["dagster/column_schema"].columns
    assert any(column.name == "order_id" and column.description for column in columns)
    assert graph.get(dg.AssetKey("fct_sales")).group_name == "sales"
    checks = {
        key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey("int_shopify__orders")
    }
    assert {"unique_int_shopify__orders_order_id", "not_null_int_shopify__orders_order_id"} <= checks


def test_a_tick_asks_for_what_is_pending_and_a_run_feeds_it(items: ScratchLake) -> None:
    items.land("shop/items", 1, "a.parquet", range(5))
    with dg.instance_for_test() as instance:
        (request,) = tick(items, instance).run_requests
        assert request.run_key is None
        assert request.tags["lakeward/stream"] == "shop/items"
        assert request.tags["lakeward/files"] == "1"
        done = materialize(items, instance, *(key.to_user_string() for key in request.asset_selection))
        assert done.success
        (event,) = done.asset_materializations_for_node("feed_shop__items")[1:]
        numbers = {name: value.value for name, value in event.metadata.items()}
        assert (numbers["files"], numbers["rows"], numbers["dagster/row_count"]) == (1, 5, 5)
        (check,) = done.get_asset_check_evaluations()
        assert check.passed
        again = tick(items, instance)
        assert not again.run_requests
        assert not again.asset_events, "what Dagster fed itself is no news"


def test_newer_rows_count_as_replaced(items: ScratchLake) -> None:
    items.land("shop/items", 1, "a.parquet", range(5))
    items.land("shop/items", 2, "b.parquet", range(3, 8))
    with dg.instance_for_test() as instance:
        done = materialize(items, instance, "shop_items", "int_shop__items")
        event = done.asset_materializations_for_node("feed_shop__items")[1]
        assert event.metadata["rows_replaced"].value == 2


def test_a_run_with_nothing_to_do_says_nothing_new(items: ScratchLake) -> None:
    with dg.instance_for_test() as instance:
        done = materialize(items, instance, "shop_items", "int_shop__items")
        assert done.success
        assert not done.asset_materializations_for_node("feed_shop__items")


def test_what_was_fed_elsewhere_is_told_once(items: ScratchLake) -> None:
    items.land("shop/items", 1, "a.parquet", range(5))
    items.feed()
    with dg.instance_for_test() as instance:
        first = tick(items, instance)
        assert [event.asset_key.to_user_string() for event in first.asset_events] == ["int_shop__items"]
        assert not tick(items, instance, first.cursor).asset_events


def test_dbts_tests_run_again_after_a_feed_once_the_hour_has_turned(items: ScratchLake) -> None:
    items.write(
        "dag/processed/shop/_items.yml",
        "models: [{name: int_shop__items, columns: [{name: item_id, data_tests: [unique]}]}]",
    )
    check = dg.AssetCheckKey(dg.AssetKey("int_shop__items"), "unique_int_shop__items_item_id")
    definitions, looked = build_definitions(items.root), None

    def asked(at: str) -> int:
        nonlocal looked
        looked = dg.evaluate_automation_conditions(
            definitions,
            instance,
            asset_selection=dg.AssetSelection.checks(check),
            evaluation_time=datetime.fromisoformat(f"2026-11-25T{at}+00:00"),
            cursor=looked.cursor if looked else None,
        )
        return looked.total_requested

    def feed() -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization("int_shop__items"))

    with dg.instance_for_test() as instance:
        feed()
        assert [asked("10:10:00"), asked("10:10:30")] == [1, 0]
        feed()
        assert [asked("10:20:00"), asked("10:59:30")] == [0, 0]
        assert [asked("11:00:20"), asked("11:00:50"), asked("12:00:10")] == [1, 0, 0]
        feed()
        assert asked("12:10:00") == 1


def test_a_quarantined_file_fails_the_check_and_not_the_run(items: ScratchLake) -> None:
    items.land("shop/items", 1, "a.parquet", range(5)).with_name("b.parquet").write_bytes(b"no Parquet")
    with dg.instance_for_test() as instance:
        done = materialize(items, instance, "shop_items", "int_shop__items")
        assert done.success
        (check,) = done.get_asset_check_evaluations()
        assert not check.passed
        assert "b.parquet" in (check.description or "")


def test_a_failed_feed_fails_the_run_with_the_command_lines_words_and_rests(items: ScratchLake) -> None:
    model = items.project_dir / "dag/processed/shop/int_shop__items.sql"
    model.write_text(model.read_text().replace("as word,", "as word,\n    nothing,"))
    items.land("shop/items", 1, "a.parquet", range(5))
    with dg.instance_for_test() as instance:
        (request,) = tick(items, instance).run_requests
        definitions = build_definitions(items.root)
        done = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[*request.asset_selection],
            raise_on_error=False,
            tags=request.tags,
        )
        assert not done.success
        failure = done.failure_data_for_node("feed_shop__items")
        assert failure is not None
        assert failure.user_failure_data is not None
        assert "int_shop__items" in (failure.user_failure_data.description or "")
        assert not tick(items, instance).run_requests, "it rests"
        items.land("shop/items", 2, "b.parquet", range(5))
        assert tick(items, instance).run_requests, "until a file comes"


def test_marts_are_built_and_a_failed_one_is_red(items: ScratchLake) -> None:
    items.land("shop/items", 1, "a.parquet", range(5))
    items.feed()
    with dg.instance_for_test() as instance:
        assert materialize(items, instance, "fct_words").success
        assert items.query("select count(*) from fct_words") == [(5,)]
        items.write("dag/enriched/words/fct_words.sql", WORDS.replace("word ", "nothing "))
        assert not materialize(items, instance, "fct_words").success
        assert "fct_words: its last build failed" in items.cli("status", check=False).stdout


def test_what_is_fed_while_a_mart_is_built_is_in_it_at_the_end(
    items: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    items.land("shop/items", 1, "a.parquet", range(5))
    items.feed()
    builds: list[int] = []

    def build_and_feed(*arguments: Any) -> Any:
        errors = build(*arguments)
        if not builds:
            items.land("shop/items", 2, "b.parquet", range(5, 9))
            items.cli("feed")
        builds.append(len(arguments[0]))
        return errors

    monkeypatch.setattr("lakeward.definitions.enriched.build", build_and_feed)
    with dg.instance_for_test() as instance:
        assert materialize(items, instance, "fct_words").success
    assert items.query("select count(*) from fct_words") == [(9,)]
    assert builds == [1, 1]


def test_a_broken_stream_file_is_an_asset_that_says_so(items: ScratchLake) -> None:
    items.write("dag/streams/shop/broken.json", "{")
    graph = build_definitions(items.root).resolve_asset_graph()
    assert "broken.json: not JSON" in (graph.get(dg.AssetKey("shop_broken")).description or "")
    assert dg.AssetKey("shop_items") in graph.get_all_asset_keys()


def test_a_project_that_never_parsed_still_loads(items: ScratchLake) -> None:
    items.write("dag/enriched/words/fct_words.sql", "{{ ref(")
    graph = build_definitions(items.root).resolve_asset_graph()
    assert dg.AssetKey("shop_items") in graph.get_all_asset_keys()


def test_no_name_tag_or_owner_that_dagster_refuses_takes_the_others_down(items: ScratchLake) -> None:
    items.add_stream("shop/items", config={"target_lag": "30s"})  # below Dagster's minute
    for stream in ("a/b_c", "a_b/c"):
        items.add_stream(stream)
    for path in ("shop/shop-items.json", "shop/shop items.json"):
        items.write(f"dag/streams/{path}", "{}")
    items.write("dag/enriched/words/shop_items.sql", WORDS)
    items.write(
        "dag/enriched/my words-2/fct-a b.sql", WORDS.replace("'enriched'", "'enriched', 'pii: höchst'")
    )
    groups = "groups: [{name: g, owner: {name: a, email: [not an address, a@example.com]}}]\n"
    items.write("dag/enriched/words/g.yml", groups + "models: [{name: fct_words, config: {group: g}}]")
    definitions = build_definitions(items.root)
    definitions.get_repository_def()
    graph = definitions.resolve_asset_graph()
    assert {
        "shop_items", "int_shop__items", "a_b_c", "int_a__b_c", "fct_words", "fct_a_b",
    } <= {key.to_user_string() for key in graph.get_all_asset_keys()}  # fmt: skip
    assert graph.get(dg.AssetKey("fct_words")).owners == ["a@example.com"]
    assert graph.get(dg.AssetKey("fct_a_b")).group_name == "my_words_2"
    broken = {
        "a_b_c_": "a_b/c and a/b_c would be the same asset, a_b_c",
        "words_shop_items": "shop_items and shop/items would be the same asset",
        "shop_shop_items": "cannot name a source or stream",
        "shop_shop_items_": "cannot name a source or stream",
    }
    for name, said in broken.items():
        assert said in (graph.get(dg.AssetKey(name)).description or "")


def test_the_job_replays_a_stream_from_a_day_on(items: ScratchLake) -> None:
    for day in (1, 2, 3):
        items.land("shop/items", day, "a.parquet", range(day))
    items.feed()
    config = {"ops": {"make_pending_again": {"config": {"stream": "shop/items", "since": "2026-11-02"}}}}
    with dg.instance_for_test() as instance:
        job = build_definitions(items.root).resolve_job_def("replay")
        assert job.execute_in_process(instance=instance, run_config=config).success
    assert items.feed()["shop/items"].files == 2
    assert items.query("select count(*), count(distinct item_id) from int_shop__items") == [(3, 3)]


def test_a_defs_yaml_may_name_the_lake_as_a_component(
    items: ScratchLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "acme"\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    folder = tmp_path / "acme" / "defs" / "lake"
    folder.mkdir(parents=True)
    for package in (folder.parent.parent, folder.parent):
        (package / "__init__.py").touch()
    component = {
        "type": "lakeward.LakeComponent",
        "attributes": {"lake": os.path.relpath(items.root, folder)},
    }
    (folder / "defs.yaml").write_text(json.dumps(component))
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = dg.load_from_defs_folder(path_within_project=tmp_path).resolve_asset_graph()
    assert dg.AssetKey("shop_items") in graph.get_all_asset_keys()


def test_a_source_is_a_job_with_its_schedule_that_says_what_landed(
    items: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {
        "connector": source_counting.__file__, "schedule": "15 6 * * *",
        "config": {"streams": {"items": 5}, "die_at": 3, "state_every": 1},
    }  # fmt: skip
    items.write("sources/shop.yml", json.dumps(source))
    definitions = build_definitions(items.root)
    assert definitions.resolve_schedule_def("sync_shop").cron_schedule == "15 6 * * *"
    job = definitions.resolve_job_def("sync_shop")
    with dg.instance_for_test() as instance:
        failed = job.execute_in_process(instance=instance, raise_on_error=False)
        assert "exit code 3" in str(failed.failure_data_for_node("read_shop"))
        landed = instance.get_latest_materialization_event(dg.AssetKey(["landing", "shop", "items"]))
        assert landed is not None
        assert landed.asset_materialization is not None
        assert landed.asset_materialization.metadata["records"].value == 3

        items.add_stream("shop/a_ghost")  # before items by name, and not read
        items.write("sources/shop.yml", json.dumps(source | {"config": {"streams": {"items": 9}}}))
        again = build_definitions(items.root).resolve_job_def("sync_shop")
        assert not again.execute_in_process(instance=instance, raise_on_error=False).success
        landed = instance.get_latest_materialization_event(dg.AssetKey(["landing", "shop", "items"]))
        assert landed is not None
        assert landed.asset_materialization is not None
        assert landed.asset_materialization.metadata["records"].value == 6
        assert not instance.get_latest_materialization_event(dg.AssetKey(["landing", "shop", "a_ghost"]))

    monkeypatch.setenv("LAKEWARD_AIRBYTE_URL", "https://airbyte.example")  # a server syncs, so we do not
    assert "sync_shop" not in {job.name for job in build_definitions(items.root).jobs or ()}
