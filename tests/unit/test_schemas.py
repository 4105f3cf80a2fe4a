from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakeward.schemas import KnownColumns, compatible, merged, readable_together
from lakeward.sql import quote_identifier

SCALARS = st.sampled_from(["BIGINT", "INTEGER", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP WITH TIME ZONE",
                           "DECIMAL(18,2)"])  # fmt: skip
NAMES = st.text("aB \"(),'é[]", min_size=1, max_size=4).filter(lambda name: name.strip() == name)


def structs(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    fields = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    return fields.map(
        lambda found: f"STRUCT({', '.join(f'{quote_identifier(k)} {v}' for k, v in found.items())})"
    )


TYPES = st.recursive(
    SCALARS, lambda inner: structs(inner) | inner.map(lambda kind: kind + "[]"), max_leaves=6
)


@given(TYPES)
def test_any_type_is_compatible_with_itself_and_merges_to_the_same(kind: str) -> None:
    assert compatible(kind, kind)
    assert compatible(kind, merged(kind, kind))
    assert merged(merged(kind, kind), kind) == merged(kind, kind)


@given(structs(TYPES), structs(TYPES))
def test_what_is_merged_has_the_fields_of_both(one: str, other: str) -> None:
    both = KnownColumns([("a", merged(one, other))])
    assert both.missing_from([(("a", one),), (("a", other),)]) == ()


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("INTEGER", "BIGINT", True),
        ("BIGINT", "DOUBLE", False),  # 9007199254740993 would become an even number
        ("DECIMAL(18,2)", "DECIMAL(38,9)", False),
        ("VARCHAR", "STRUCT(a BIGINT)", False),
        ("STRUCT(a BIGINT)", "STRUCT(b VARCHAR)", True),
        ("STRUCT(a BIGINT)", "STRUCT(a BIGINT[])", False),
        ("STRUCT(a BIGINT)[]", "STRUCT(a INTEGER, b DATE)[]", True),
        ("BIGINT", "TIMESTAMP WITH TIME ZONE", False),
        ('STRUCT("a b" BIGINT, c VARCHAR)', 'STRUCT("a b" VARCHAR)', False),
    ],
)
def test_files_are_read_together_when_no_value_changes(one: str, other: str, together: bool) -> None:
    assert compatible(one, other) is together
    assert compatible(other, one) is together
    assert (readable_together([{"x": one}], (("X", other),)) == 0) is together


def test_duckdb_reads_what_is_called_compatible(tmp_path: object) -> None:
    with duckdb.connect() as con:
        for number, value in enumerate(["{'a': 1}", "{'a': 2, 'b': 'x'}", "{'c': [{'d': 1}]}"]):
            con.execute(f"copy (select {value} as s) to '{tmp_path}/{number}.parquet' (format parquet)")
        kinds = [
            con.execute(f"describe from '{tmp_path}/{number}.parquet'").fetchall()[0][1]
            for number in range(3)
        ]
        assert all(compatible(one, other) for one in kinds for other in kinds)
        read = con.execute(f"from read_parquet('{tmp_path}/*.parquet', union_by_name=true)").fetchall()
    assert [row[0]["a"] for row in read] == [1, 2, None]


def test_a_known_field_that_no_file_has_is_missing_and_names_ignore_case() -> None:
    known = KnownColumns([("Id", "BIGINT"), ("s", "STRUCT(a BIGINT, b VARCHAR)"), ("t", "VARCHAR")])
    assert known.missing_from([(("ID", "BIGINT"), ("s", "STRUCT(a BIGINT)"), ("t", "BIGINT"))]) == (
        ("s", "STRUCT(a BIGINT, b VARCHAR)"),
    )
    assert known.learn([("id", "BIGINT"), ("T", "BIGINT"), ("new", "DATE")]) == {"T": "BIGINT", "new": "DATE"}
    assert known.learn([("t", "VARCHAR"), ("t", "BIGINT")]) == {}
