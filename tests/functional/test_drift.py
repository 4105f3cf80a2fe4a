"""Schemas that change over time: columns added, missing, retyped; nested fields come and go."""

from __future__ import annotations

import pytest

from tests.scratch import MODEL, ScratchLake

pytestmark = pytest.mark.every_setting

META = (
    "select 'r' as _airbyte_raw_id, timestamptz '2026-11-{day:02} 12:00:00+00' as _airbyte_extracted_at, "
    "1::bigint as _airbyte_generation_id, "
)
WITH_NOTE = MODEL.replace("year,", "note,\n    year,", 1)


def rows(day: int, columns: str) -> str:
    return META.format(day=day) + columns


def test_an_added_column_is_reported_and_the_models_load_on(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land_sql("shop/items", 1, "a.parquet", rows(1, "1::bigint as id, {'word': 'a'} as attributes"))
    assert lake.feed()["shop/items"].new_columns == {}  # the first file's columns are not news
    lake.land_sql(
        "shop/items", 2, "b.parquet", rows(2, "2::bigint as id, {'word': 'b'} as attributes, 'x' as note")
    )
    assert lake.feed()["shop/items"].new_columns == {"note": "VARCHAR"}
    assert lake.table("int_shop__items") == [(1, "a"), (2, "b")]


def test_a_column_missing_from_some_files_or_a_whole_batch_is_null(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=WITH_NOTE)
    with_note = "{'word': 'a'} as attributes, 'x' as note"
    lake.land_sql("shop/items", 1, "a.parquet", rows(1, f"1::bigint as id, {with_note}"))
    lake.land_sql("shop/items", 1, "b.parquet", rows(1, "2::bigint as id, {'word': 'b'} as attributes"))
    lake.feed()
    lake.land_sql("shop/items", 2, "c.parquet", rows(2, "3::bigint as id, {'word': 'c'} as attributes"))
    report = lake.feed()["shop/items"]
    assert not report.errors
    notes = lake.query("select item_id, note from int_shop__items order by 1")
    assert notes == [(1, "x"), (2, None), (3, None)]


def test_a_column_never_seen_is_an_error_that_names_it_and_quarantines_nothing(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=WITH_NOTE)
    lake.land_sql("shop/items", 1, "a.parquet", rows(1, "1::bigint as id, {'word': 'a'} as attributes"))
    report = lake.feed()["shop/items"]
    assert "note" in report.errors["int_shop__items"]
    assert not report.quarantined


def test_numbers_and_timestamps_for_extracted_at_end_in_one_table(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(5), word="timestamp")
    millis = (
        "select 'r' as _airbyte_raw_id, 1::bigint as _airbyte_generation_id, i::bigint as id, "
        "epoch_ms(timestamptz '2026-11-02 12:00:00+00') as _airbyte_extracted_at, "
        "{'word': 'number', 'amount': 1.0} as attributes from range(3, 8) as t(i)"
    )
    lake.land_sql("shop/items", 2, "b.parquet", millis)
    older = millis.replace("2026-11-02", "2026-10-02").replace("'number'", "'stale'").replace("8)", "9)")
    lake.land_sql("shop/items", 3, "c.parquet", older)
    report = lake.feed()["shop/items"]
    assert not report.errors
    assert not report.quarantined
    words = dict(lake.table("int_shop__items"))
    assert [words[i] for i in range(9)] == ["timestamp"] * 3 + ["number"] * 5 + ["stale"]
    lag = lake.query("select max(extracted_at) = timestamptz '2026-11-02 12:00:00+00' from meta.feeder_files")
    assert lag == [(True,)]


def test_json_text_and_a_struct_in_one_stream_both_load(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land_sql("shop/items", 1, "a.parquet", rows(1, "1::bigint as id, {'word': 'struct'} as attributes"))
    text = """'{"word": "text"}' as attributes"""
    lake.land_sql("shop/items", 1, "b.parquet", rows(1, f"2::bigint as id, {text}"))
    lake.feed()
    assert lake.table("int_shop__items") == [(1, "struct"), (2, "text")]


def test_plain_full_refresh_over_files_that_cannot_be_read_together_stops_and_names_them(
    lake: ScratchLake,
) -> None:
    lake.add_stream("shop/items")
    lake.land_sql("shop/items", 1, "a.parquet", rows(1, "1::bigint as id, {'word': 'struct'} as attributes"))
    text = """'{"word": "text"}' as attributes"""
    lake.land_sql("shop/items", 2, "b.parquet", rows(2, f"2::bigint as id, {text}"))
    lake.feed()
    done = lake.dbt("run", "--full-refresh", "-s", "int_shop__items", check=False)
    assert done.returncode == 1
    assert "b.parquet" in done.stdout
    assert '"attributes" is VARCHAR' in done.stdout
    assert lake.table("int_shop__items") == [(1, "struct"), (2, "text")]


def test_null_keys_and_composite_keys_do_not_pile_up(lake: ScratchLake) -> None:
    composite = MODEL.replace("unique_key='item_id'", "unique_key=['item_id', 'word']")
    lake.add_stream("shop/items", model=composite.replace("partition by id ", "partition by id, word "))
    for day in (1, 2, 3):
        lake.land_sql(
            "shop/items", day, "a.parquet",
            rows(day, "unnest([1, null])::bigint as id, {'word': 'w'} as attributes"),
        )  # fmt: skip
        lake.feed()
    assert lake.query("select item_id, word, day from int_shop__items order by 1") == [
        (1, "w", 3),
        (None, "w", 3),
    ]


def test_ties_go_to_the_greater_source_file_whatever_the_order(lake: ScratchLake) -> None:
    for stream, names in (("shop/one", ["a", "b"]), ("shop/two", ["b", "a"])):
        lake.add_stream(stream)
        for name in names:
            lake.land(stream, 1, f"{name}.parquet", range(2), word=name)
            lake.feed(stream)
        assert {word for _, word in lake.table(f"int_{stream.replace('/', '__')}")} == {"b"}


def test_a_row_without_a_timestamp_is_oldest(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(2), word="dated")
    lake.feed()
    undated = (
        "select 'r' as _airbyte_raw_id, null::timestamptz as _airbyte_extracted_at, "
        "1::bigint as _airbyte_generation_id, i::bigint as id, "
        "{'word': 'undated', 'amount': 1.0} as attributes from range(1, 4) as t(i)"
    )
    lake.land_sql("shop/items", 2, "b.parquet", undated)
    lake.feed()
    assert lake.table("int_shop__items") == [(0, "dated"), (1, "dated"), (2, "undated"), (3, "undated")]
    lake.land("shop/items", 1, "c.parquet", range(2, 4), word="dated")
    lake.feed()
    assert {word for _, word in lake.table("int_shop__items")} == {"dated"}


def test_a_column_hidden_by_the_partition_is_said(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land_sql(
        "shop/items", 1, "a.parquet", rows(1, "1::bigint as id, {'word': 'a'} as attributes, 1999 as Year")
    )
    assert lake.feed()["shop/items"].hidden_columns == ["Year"]
    assert lake.query("select year from int_shop__items") == [(2026,)]


def test_a_model_in_another_schema_is_refused(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=MODEL.replace("materialized=", "schema='other', materialized="))
    lake.land("shop/items", 1, "a.parquet", range(3))
    assert "remove its schema config" in lake.feed()["shop/items"].errors["int_shop__items"]
