"""Files and values as nobody should send them: each is named, none lost, all beside it loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb
import pytest

from tests.scratch import APPEND, MODEL, ScratchLake

pytestmark = pytest.mark.every_setting

GOOD = "{'word': 'good', 'amount': 1.5} as attributes"


def rows(
    day: int,
    columns: str = f"1::bigint as id, {GOOD}",
    at: str = "timestamptz '2026-11-{day:02} 12:00:00+00'",
) -> str:
    """A landed file's select: Airbyte's columns, then `columns`."""
    moment = at.format(day=day)
    return f"select 'r' as _airbyte_raw_id, {moment} as _airbyte_extracted_at, 1::bigint as " \
        f"_airbyte_generation_id, {columns}"  # fmt: skip


def names(paths: object) -> set[str]:
    assert isinstance(paths, dict | list)
    return {path.rsplit("/", 1)[-1] for path in paths}


def ids(lake: ScratchLake, model: str = "int_shop__items") -> list[object]:
    return [key for (key,) in lake.query(f"select item_id from {model} order by 1 nulls last")]


def test_no_sound_parquet_is_quarantined_and_the_files_beside_it_are_loaded(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for number in range(1, 6):
        lake.land("shop/items", number, "good.parquet", range(number * 10, number * 10 + 10))
    sound = lake.land("shop/items", 1, "zero rows.parquet", range(0)).read_bytes()
    bad = {
        "empty.parquet": b"",
        "text.parquet": b"id,word\n1,a\n",
        "truncated.parquet": sound[:-20],
        "magic.parquet": sound[:-4] + b"PARX",
        "footer.parquet": sound[:-8] + b"\xff\xff\xff\x7f" + sound[-4:],
    }
    folder = lake.landing / "raw/shop/items/year=2026/month=11/day=03"
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    with duckdb.connect() as con:
        con.execute("pragma add_parquet_key('k', '0123456789112345')")
        con.execute("set force_mbedtls_unsafe = 'true'")
        con.execute(
            f"copy (select 1 as id) to '{folder}/encrypted.parquet' (format parquet, encryption_config "
            "{footer_key: 'k'})"
        )
    loose = lake.landing / "raw/shop/items/loose.parquet"
    loose.write_bytes(sound)

    report = lake.feed()["shop/items"]

    assert names(report.quarantined) == {*bad, "encrypted.parquet", "loose.parquet"}
    assert all(report.quarantined.values())
    assert not report.failed
    assert ids(lake) == [*range(10, 60)]
    assert "zero rows.parquet" in lake.events()
    status = lake.cli("status", check=False)
    assert status.returncode == 1
    assert "7 quarantined; lakeward quarantine list shop/items" in status.stdout
    listed = json.loads(lake.cli("quarantine", "list", "--json").stdout)
    assert all(row["error"] for row in listed)


def test_pages_that_cannot_be_decoded_are_found_by_halving(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for number in range(1, 17):
        lake.land("shop/items", number, "good.parquet", range(number * 10, number * 10 + 10))
    rotten = lake.landing / "raw/shop/items/year=2026/month=11/day=09/good.parquet"
    content = bytearray(rotten.read_bytes())
    content[4:400] = bytes(396)
    rotten.write_bytes(content)

    report = lake.feed()["shop/items"]

    assert names(report.quarantined) == {"good.parquet"}
    assert len(ids(lake)) == 150
    runs = lake.query("select count(distinct batch_id) from meta.feeder_log where event = 'applied'")
    assert runs[0][0] <= 5  # 8 + 4 + 2 + 1 files, or fewer: every half that is sound is loaded at once


def test_a_broken_file_of_which_duckdb_says_no_kind_is_quarantined_alone(lake: ScratchLake) -> None:
    """One byte, in the footer of one file and in a page of another."""
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "good.parquet", range(10))
    pages = lake.land("shop/items", 2, "pages.parquet", range(10, 500))
    footer = lake.land("shop/items", 3, "footer.parquet", range(10, 20))
    whole = pages.read_bytes()
    length = 8 + int.from_bytes(whole[-8:-4], "little")
    spoil(pages, range(4, len(whole) - length))
    spoil(footer, range(len(footer.read_bytes()) - length + 40, len(footer.read_bytes()) - 8))
    report = lake.feed()["shop/items"]
    assert names(report.quarantined) == {"pages.parquet", "footer.parquet"}
    assert (report.failed, len(ids(lake))) == (False, 10)


def spoil(path: Path, places: range) -> None:
    """The first byte there of which DuckDB complains with words that have no kind."""
    whole = path.read_bytes()
    with duckdb.connect() as con:
        con.execute("set enable_external_file_cache = false")  # it goes by the file's time
        for place in places:
            path.write_bytes(whole[:place] + b"\x0e" + whole[place + 1 :])
            try:
                con.execute("select id from read_parquet(?)", [str(path)]).fetchall()
            except duckdb.Error as error:
                if "Error: " not in str(error) and "Exception: " not in str(error):
                    return
    raise AssertionError("none")


def test_a_value_cannot_pass_for_an_error_of_the_machine(lake: ScratchLake) -> None:
    """Messages are told apart by DuckDB's words, not by the data's."""
    lake.add_stream("shop/items", model=MODEL.replace("'$.amount' as double", "'$.word' as int"))
    lake.land("shop/items", 1, "good.parquet", range(10), word="7")
    for number, word in enumerate(["HTTP Error 500", "Transaction conflict", "Out of Memory Error"]):
        lake.land("shop/items", 2, f"{number}.parquet", range(100, 105), word=word)
    report = lake.feed()["shop/items"]
    assert names(report.quarantined) == {"0.parquet", "1.parquet", "2.parquet"}
    assert (report.conflicts, report.failed, len(ids(lake))) == (0, False, 10)


def test_invalid_json_and_values_out_of_range_are_one_files_fault(lake: ScratchLake) -> None:
    narrow = MODEL.replace("'$.amount' as double", "'$.amount' as tinyint")
    lake.add_stream("shop/items", model=narrow)
    for number, text in enumerate(['{"word": "a", "amount": 1}', "{no json", '{"word": "a", "amount": 300}']):
        lake.land_sql(
            "shop/items", 1, f"{number}.parquet", rows(1, f"{number} as id, '{text}' as attributes")
        )
    report = lake.feed()["shop/items"]
    assert names(report.quarantined) == {"1.parquet", "2.parquet"}
    assert ids(lake) == [0]


def test_null_keys_and_keys_twice_in_a_file_are_one_row_each(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for day in (1, 2):
        twice = "unnest([1, 1, null, null, 2])::bigint as id"
        lake.land_sql("shop/items", day, "a.parquet", rows(day, f"{twice}, {GOOD}"))
        lake.feed()
    assert ids(lake) == [1, 2, None]


def test_a_file_without_the_key_column_is_a_row_without_a_key(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "good.parquet", range(5))
    lake.feed()
    lake.land_sql("shop/items", 2, "keyless.parquet", rows(2, f"7 as other, {GOOD}"))
    lake.feed()
    # `id` is a known column: NULL, as everywhere else, and the model's own not_null test says so.
    assert ids(lake) == [*range(5), None]


RETYPED = [
    ("1::bigint", "2.0::double", True),
    ("1::bigint", "10.75::double", False),
    ("1::bigint", "'12'", True),
    ("1::bigint", "'12.9'", False),
    ("1::int", "3000000000::bigint", False),
    ("1.5::decimal(9,2)", "1.125::decimal(9,3)", False),
    ("1.5::double", "9007199254740993::bigint", False),
    ("date '2026-01-01'", "timestamp '2026-01-02 00:00:00'", True),
    ("date '2026-01-01'", "timestamp '2026-01-02 10:00:00'", False),
    ("'text'", "12::bigint", True),
    ("[{'price': 1}]", "[{'price': 10.75}]", False),
    ("[{'price': 1}]", "[{'price': 2.0::double}]", True),
    ("{'price': 1}", "{'price': 2, 'new': 'left out, as a column would be'}", True),
    ("[1, 2]", "[1.5, 2.5]", False),
    ("true", "7", False),
    ("true", "1", True),
]


def test_a_retyped_column_is_converted_where_nothing_is_lost_and_quarantined_where_something_is(
    lake: ScratchLake,
) -> None:
    """A column per case. What fits comes in one file, what does not in a file for each."""
    columns = [f"number{case}" for case in range(len(RETYPED))]
    lake.add_stream("shop/items", model=MODEL.replace("year,", f"{', '.join(columns)},\n    year,", 1))

    def landed(day: int, name: str, retyped: list[int]) -> None:
        values = (
            f"{then if case in retyped else first} as {columns[case]}"
            for case, (first, then, _) in enumerate(RETYPED)
        )
        select = rows(day, f"{day}::bigint as id, {GOOD}, {', '.join(values)}")
        lake.land_sql("shop/items", day, f"{name}.parquet", select)

    landed(1, "base", [])
    lake.feed()
    fits = [case for case, (_, _, is_kept) in enumerate(RETYPED) if is_kept]
    landed(2, "fits", fits)
    misfits = [case for case in range(len(RETYPED)) if case not in fits]
    for case in misfits:
        landed(3 + case, f"misfit{case}", [case])
    report = lake.feed()["shop/items"]
    assert not report.failed
    assert names(report.quarantined) == {f"misfit{case}.parquet" for case in misfits}
    assert ids(lake) == [1, 2]
    assert "column number1: DOUBLE 10.75 does not fit the table's BIGINT" in str(report)


@pytest.mark.parametrize("model", [MODEL, APPEND], ids=["keyed", "append"])
def test_times_of_every_kind_for_extracted_at_end_in_one_table(lake: ScratchLake, model: str) -> None:
    lake.add_stream("shop/items", model=model)
    moments = [
        "timestamptz '2026-11-{day:02} 12:00:00+00'",
        "epoch_ms(timestamptz '2026-11-{day:02} 12:00:00+00')",
        "timestamp '2026-11-{day:02} 12:00:00'",
        "'2026-11-{day:02} 12:00:00+00'",
    ]
    for day, at in enumerate(moments, 1):
        lake.land_sql("shop/items", day, "a.parquet", rows(day, f"{day}::bigint as id, {GOOD}", at))
    lake.land_sql("shop/items", 9, "b.parquet", rows(9, f"9::bigint as id, {GOOD}", "'yesterday'"))
    report = lake.feed()["shop/items"]
    assert names(report.quarantined) == {"b.parquet"}
    assert not report.failed
    times = lake.query("select _airbyte_extracted_at::date::varchar from int_shop__items order by item_id")
    assert times == [(f"2026-11-0{day}",) for day in (1, 2, 3, 4)]


def test_structs_that_one_statement_cannot_read_come_in_batches_of_their_own(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    shapes = ["{'word': 'a', 'x': 1}", "{'word': 'b', 'x': [1, 2]}", '\'{"word": "c"}\'', "[{'word': 'd'}]"]
    for number, shape in enumerate(shapes):
        columns = f"{number}::bigint as id, {shape} as attributes"
        lake.land_sql("shop/items", 1, f"{number}.parquet", rows(1, columns))
    assert not lake.feed()["shop/items"].failed
    assert lake.table("int_shop__items") == [(0, "a"), (1, "b"), (2, "c"), (3, None)]


def test_a_struct_field_that_a_whole_batch_lacks_is_null(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=MODEL.replace("attributes::JSON->>'$.word'", "attributes.word"))
    lake.land_sql("shop/items", 1, "a.parquet", rows(1))
    lake.feed()
    lake.land_sql("shop/items", 2, "b.parquet", rows(2, "2::bigint as id, {'amount': 2.5} as attributes"))
    assert not lake.feed()["shop/items"].failed
    assert lake.table("int_shop__items") == [(1, "good"), (2, None)]


def test_more_misfits_than_one_would_blame_a_model_for_are_all_found(lake: ScratchLake) -> None:
    lake.add_stream("shop/items", model=MODEL.replace("year,", "number,\n    year,", 1))
    lake.land_sql("shop/items", 1, "a.parquet", rows(1, f"0::bigint as id, {GOOD}, 1::bigint as number"))
    lake.feed()
    for number in range(15):
        value = "2.0::double" if number in (5, 12) else "10.75::double"
        columns = f"{number}::bigint as id, {GOOD}, {value} as number"
        lake.land_sql("shop/items", 2, f"{number}.parquet", rows(2, columns))
    report = lake.feed()["shop/items"]
    assert len(report.quarantined) == 13
    assert not report.failed
    assert ids(lake) == [0, 5, 12]


@pytest.mark.slow
def test_a_new_cast_that_is_wrong_quarantines_none_of_a_hundred_good_files(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for number in range(100):
        lake.land("shop/items", 1 + number % 20, f"{number}.parquet", range(number, number + 1))
    wrong = MODEL.replace("'$.amount' as double", "'$.word' as double")
    lake.add_stream("shop/items", model=wrong)
    report = lake.feed()["shop/items"]
    assert report.quarantined == {}
    assert "Could not convert" in report.errors["int_shop__items"]
    status = json.loads(lake.cli("status", "--json", check=False).stdout)["streams"][0]
    assert (status["pending_files"], status["red"]) == (100, True)
    lake.add_stream("shop/items")
    assert lake.feed()["shop/items"].files == 100


def test_a_lone_misfit_is_quarantined_only_if_a_file_like_it_loads_today(lake: ScratchLake) -> None:
    """With nothing beside it, a loaded file of the same columns is run again, and undone."""
    macro = "{% macro number(x) %} cast({{ x }} as double) {% endmacro %}"
    lake.write("macros/number.sql", macro)
    lake.add_stream("shop/items", model=MODEL.replace(
        "cast(attributes::JSON->>'$.amount' as double)", "{{ number(\"attributes::JSON->>'$.word'\") }}"
    ))  # fmt: skip
    lake.land("shop/items", 1, "good.parquet", range(5), word="7")
    lake.feed()
    lake.write("macros/number.sql", macro.replace("{{ x }}", "'all wrong ' || {{ x }}"))
    lake.land("shop/items", 2, "innocent.parquet", range(5, 10), word="8")
    report = lake.feed()["shop/items"]
    assert report.quarantined == {}
    assert "all wrong" in report.errors["int_shop__items"]

    lake.write("macros/number.sql", macro)
    assert lake.feed()["shop/items"].files == 1
    lake.land("shop/items", 3, "misfit.parquet", range(10, 15), word="nine")
    report = lake.feed()["shop/items"]
    assert names(report.quarantined) == {"misfit.parquet"}
    assert len(ids(lake)) == 10
    assert lake.query("select count(*) from meta.feeder_log where event = 'applied'") == [(2,)]


@pytest.mark.folder_only
def test_names_of_every_kind_are_read_as_themselves(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    odd = ["it's", "sp ace", "year%3D2026", "st*r", "what?", "[1]", "{a,b}", "ünï", "new\nline", 'qu"ote',
           "back\\slash", "#hash", "tab\there"]  # fmt: skip
    for number, name in enumerate(odd):
        lake.land_sql("shop/items", 1, "plain", rows(1, f"{number}::bigint as id, {GOOD}")).rename(
            lake.landing / "raw/shop/items/year=2026/month=11/day=01" / f"{name}.parquet"
        )
    lake.land("shop/items", 2, "back\\slash[1].parquet", range(99, 100))
    report = lake.feed()["shop/items"]
    assert not report.failed
    ((path, why),) = report.quarantined.items()
    assert path.endswith("back\\slash[1].parquet")
    assert "rename it" in why
    assert ids(lake) == [*range(len(odd))]
    found = lake.query("select _source_file from int_shop__items order by item_id")
    assert [Path(file).name for (file,) in found] == [f"{name}.parquet" for name in odd]


@pytest.mark.folder_only
def test_what_cannot_be_listed_stops_neither_its_stream_nor_the_others(lake: ScratchLake) -> None:
    for number, stream in enumerate(("shop/items", "shop/others")):
        lake.add_stream(stream)
        for day in (1, 2, 3):
            lake.land(stream, day, "a.parquet", range(number * 100 + day * 10, number * 100 + day * 10 + 5))
    folder = lake.landing / "raw/shop/items/year=2026/month=11/day=01"
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.parquet")).write_bytes(b"x")
    (folder / "loop").symlink_to(lake.landing / "raw/shop/items")
    fed = lake.cli("feed", check=False)
    assert fed.returncode == 1
    assert "has a name that is not UTF-8: rename it" in fed.stderr
    assert ids(lake) == [*range(10, 15), *range(20, 25), *range(30, 35)]
    assert ids(lake, "int_shop__others") == [*range(110, 115), *range(120, 125), *range(130, 135)]
    assert json.loads(lake.cli("quarantine", "list", "--json").stdout) == []
    assert "not UTF-8" in lake.cli("status", check=False).stdout


def test_a_manifest_cut_short_by_a_kill_is_made_again(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(5))
    lake.project()
    manifest = lake.project_dir / "target/partial_parse.msgpack"
    for content in (manifest.read_bytes()[:1000], b""):
        manifest.write_bytes(content)
        lake.cli("feed")
    assert len(ids(lake)) == 5
