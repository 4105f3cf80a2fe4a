from __future__ import annotations

from datetime import date
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from lakeward.batching import Limits, plan_batches
from lakeward.intake import Inspected
from lakeward.schemas import Columns, compatible
from lakeward.stores import LandedFile

SHAPES: list[Columns] = [
    (("id", "BIGINT"), ("_airbyte_extracted_at", "TIMESTAMP WITH TIME ZONE")),
    (("id", "BIGINT"), ("_airbyte_extracted_at", "BIGINT")),
    (("id", "BIGINT"), ("_airbyte_extracted_at", "BIGINT"), ("extra", "VARCHAR")),
    (("id", "INTEGER"), ("attributes", "STRUCT(a BIGINT)")),
    (("id", "BIGINT"), ("attributes", "VARCHAR")),
    (("id", "BIGINT"), ("attributes", "STRUCT(a BIGINT)[]")),
]


def item(number: int, size: int, columns: Columns) -> Inspected:
    file = LandedFile(f"raw/s/t/{number}.parquet", "etag", size, date(2026, 1, 1))
    return Inspected(file, 1, columns, None, None, None)


files = st.lists(st.tuples(st.integers(1, 100), st.sampled_from(SHAPES)), max_size=60).map(
    lambda drawn: [item(number, size, shape) for number, (size, shape) in enumerate(drawn)]
)


@given(files, st.integers(1, 200), st.integers(1, 20))
def test_batching_loses_nothing_doubles_nothing_and_stays_under_its_limits(
    drawn: list[Inspected], max_bytes: int, max_files: int
) -> None:
    batches = plan_batches(drawn, Limits(max_bytes, max_files))
    assert sorted(entry.file.path for batch in batches for entry in batch) == sorted(
        entry.file.path for entry in drawn
    )
    for batch in batches:
        assert len(batch) <= max_files
        assert len(batch) == 1 or sum(entry.file.size for entry in batch) <= max_bytes
        assert [entry.file.path for entry in batch] == [entry.file.path for entry in drawn if entry in batch]
        for one, other in combinations(batch, 2):
            mine, others = dict(one.columns), dict(other.columns)
            assert all(compatible(mine[name], others[name]) for name in mine.keys() & others.keys())


def test_ten_small_files_are_one_batch() -> None:
    drawn = [item(number, 10, SHAPES[0]) for number in range(10)]
    assert len(plan_batches(drawn, Limits(1024, 1000))) == 1


def test_a_timestamp_is_never_read_beside_a_number() -> None:
    batches = plan_batches([item(0, 1, SHAPES[0]), item(1, 1, SHAPES[1])], Limits(1024, 1000))
    assert len(batches) == 2


def test_text_is_never_read_beside_a_struct() -> None:
    batches = plan_batches([item(0, 1, SHAPES[3]), item(1, 1, SHAPES[4])], Limits(1024, 1000))
    assert len(batches) == 2


def test_a_file_with_an_added_column_shares_the_batch() -> None:
    batches = plan_batches([item(0, 1, SHAPES[1]), item(1, 1, SHAPES[2])], Limits(1024, 1000))
    assert len(batches) == 1
