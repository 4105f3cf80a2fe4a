"""What lands may be called anything: a whole feed of files and columns whose names would like to be SQL."""

from __future__ import annotations

import json

from lakeward.sql import quote_identifier
from tests.scratch import MODEL, ScratchLake

EVERYTHING = MODEL[: MODEL.index("    filename")] + (
    "    * rename (id as item_id, filename as _source_file)\n\n"
    'from read_parquet({{ var("files") }}, filename=true)\n'
)
COLUMNS = [
    'a"b', "it's", 'x") select 1; drop table main.int_shop__items; --', "'; select error('x') --", '""',
    "sel;ect", "{{ 1/0 }}", "{% raw", "{# c", "$1", "%s", "?", "back\\slash", "new\nline",
    "ü😀", "select", "a b",
]  # fmt: skip
FILES = [
    "it's.parquet", 'a"b.parquet', "'] ; select error('x') --.parquet", "{{ 1-0 }}.parquet",
    "{% raw %}.parquet", "new\nline.parquet", "*.parquet", "[ab].parquet", "$1 %s.parquet",
    "%2e%2e.parquet", "ü.parquet", "back\\slash.parquet", "a?.parquet",
]  # fmt: skip


def test_columns_of_any_name_are_loaded_again_and_again(lake: ScratchLake) -> None:
    """Into a new table, into the table, with another type, and rebuilt."""
    lake.add_stream("shop/items", model=EVERYTHING)
    for day, kind in ((1, "int"), (2, "double"), (3, "int")):
        values = [f"{number}::{kind}" for number, _ in enumerate(COLUMNS)]
        names = [quote_identifier(name) for name in COLUMNS]
        columns = ", ".join(f"{value} as {name}" for value, name in zip(values, names, strict=True))
        fields = ", ".join(f"{name} := {value}" for value, name in zip(values, names, strict=True))
        lake.land_sql(
            "shop/items",
            day,
            "a.parquet",
            f"select timestamptz '2026-11-0{day} 00:00:00+00' as _airbyte_extracted_at, {day} as id, "
            f"{columns}, struct_pack({fields}) as attributes",
        )
        report = lake.feed()["shop/items"]
        assert (report.errors, report.quarantined) == ({}, {})
    for _ in range(2):
        shown = ", ".join(quote_identifier(name) for name in COLUMNS)
        rows = lake.query(f"select item_id, {shown}, attributes from int_shop__items order by 1")
        assert [row[0] for row in rows] == [1, 2, 3]
        for row in rows:
            found, attributes = list(row[1:-1]), row[-1]
            assert found == list(range(len(COLUMNS)))
            assert attributes == dict(zip(COLUMNS, found, strict=True))
        lake.cli("refresh", "shop/items")


def test_files_of_any_name_are_loaded_once(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    for number, name in enumerate(FILES):
        lake.land_sql(
            "shop/items",
            1,
            "made",
            f"select timestamptz '2026-11-01 12:00:00+00' as _airbyte_extracted_at, {number}::bigint as id, "
            "{'word': 'a', 'amount': 1.5} as attributes",
        ).rename(lake.landing / "raw/shop/items/year=2026/month=11/day=01" / name)
    report = lake.feed()["shop/items"]
    assert (report.errors, report.quarantined, report.files) == ({}, {}, len(FILES))
    assert lake.table("int_shop__items") == [(number, "a") for number in range(len(FILES))]
    assert set(lake.events()) == set(FILES)
    assert lake.feed()["shop/items"].files == 0
    shown = lake.cli("files", "shop/items", "--json").stdout
    assert "{{ 1-0 }}.parquet" in shown
    lake.dbt("run", "--full-refresh", "-s", "int_shop__items")
    assert len(lake.table("int_shop__items")) == len(FILES)


def test_a_landing_zone_of_any_name_is_only_a_place(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(3))
    odd = lake.root / 'it\'s {{ 1-0 }} [ab]* "zone"'
    lake.landing.rename(odd)
    (lake.project_dir / "lakeward.toml").write_text(f"landing_url = '''{odd}'''\n")
    lake.dbt("compile", "-s", "int_shop__items")
    (compiled,) = (lake.project_dir / "target" / "compiled").rglob("int_shop__items.sql")
    assert "it''s" in compiled.read_text()
    assert lake.feed()["shop/items"].rows == 3
    assert len(lake.table("int_shop__items")) == 3


def test_a_name_does_not_steer_the_terminal(lake: ScratchLake) -> None:
    lake.add_stream("shop/items")
    made = lake.land("shop/items", 1, "made", range(3))
    made.rename(made.with_name("\x1b[2J\x1b]0;title\x07 \x9b1m.parquet")).write_bytes(b"no Parquet")
    fed = lake.cli("feed", check=False)
    shown = [lake.cli(*command, check=False) for command in (["files", "shop/items"], ["quarantine", "list"])]
    for done in (fed, *shown):
        told = done.stdout + done.stderr
        assert "␛[2J␛]0;title␇" in told
        assert not set("\x1b\x07\x9b") & set(told)
    told = lake.cli("files", "shop/items", "--json").stdout
    assert not set("\x1b\x07\x9b") & set(told)
    assert json.loads(told)[0]["path"].endswith("\x1b[2J\x1b]0;title\x07 \x9b1m.parquet")
