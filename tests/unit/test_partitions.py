from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakeward.partitions import is_landed_name, partition_date


@given(st.dates(min_value=date(1000, 1, 1)))
def test_a_partition_survives_the_round_trip(day: date) -> None:
    assert partition_date(f"raw/s/t/year={day:%Y}/month={day:%m}/day={day:%d}/a.parquet") == day


def test_month_and_day_may_be_unpadded() -> None:
    assert partition_date("raw/s/t/year=2026/month=3/day=9/a.parquet") == date(2026, 3, 9)


@pytest.mark.parametrize(
    "path",
    [
        "raw/s/t/a.parquet",
        "raw/s/t/year=2026/month=02/day=31/a.parquet",
        "raw/s/t/year=2026/month=02/day=01/deeper/a.parquet",
        "raw/s/t/year=2026/month=02/a.parquet",
    ],
)
def test_a_path_outside_a_day_folder_has_no_partition(path: str) -> None:
    assert partition_date(path) is None


@pytest.mark.parametrize(
    ("name", "landed"),
    [
        ("0.parquet", True),
        ("0.parquet-1", True),
        ("part_1_1790000000000.parquet", True),
        ("new\nline.parquet", True),
        (".0.parquet.partial", False),
        ("._0.parquet", False),
        ("_SUCCESS", False),
        ("0.parquet.crc", False),
        ("0.csv", False),
    ],
)
def test_what_counts_as_landed_by_name(name: str, landed: bool) -> None:
    assert is_landed_name(f"raw/s/t/year=2026/month=01/day=01/{name}") is landed
