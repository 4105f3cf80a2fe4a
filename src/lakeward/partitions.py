"""Where a stream's files lie, as a path and as a date, in both directions.

The layout is the one Airbyte's S3 destination writes for
`raw/${NAMESPACE}/${STREAM_NAME}/year=${YEAR}/month=${MONTH}/day=${DAY}/`; older versions of it
do not pad month and day, so `month=3` and `month=03` are the same partition.
"""

from __future__ import annotations

import re
from datetime import date

_DAY_FOLDER = re.compile(r"(?:^|/)year=([1-9]\d{3})/month=(\d{1,2})/day=(\d{1,2})/[^/]+\Z", re.ASCII)
_PART = re.compile(r"(?:year|month|day)=(\d{1,4})", re.ASCII)
_LANDED_NAME = re.compile(r"[^._].*\.parquet(-\d+)?", re.DOTALL | re.ASCII)


def stream_root(source: str, stream: str) -> str:
    """`raw/shopify/orders/`, relative to the landing root."""
    return f"raw/{source}/{stream}/"


def partition_date(path: str) -> date | None:
    """The partition a file lies in; None when it lies in none (or in a 31st of February)."""
    found = _DAY_FOLDER.search(path)
    if found is None:
        return None
    try:
        return date(*(int(part) for part in found.groups()))
    except ValueError:
        return None


def partition_folder(day: date) -> str:
    """`year=2026/month=03/day=01/`: as Airbyte writes it today."""
    return f"year={day.year}/month={day.month:02}/day={day.day:02}/"


def partition_number(folder: str) -> int | None:
    """`month=03` is 3; None for a folder that is no part of a partition."""
    found = _PART.fullmatch(folder)
    return int(found[1]) if found else None


def is_landed_name(path: str) -> bool:
    """True for Parquet by name, also for `0.parquet-1`, which Airbyte's collision guard writes.

    Names that begin with `.` or `_` are other programs' unfinished files, by old convention.
    """
    return _LANDED_NAME.fullmatch(path.rsplit("/", 1)[-1]) is not None
