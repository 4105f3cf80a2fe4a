"""Which files one model run reads, and what must be known about them first.

A plan is made once per run, from one listing: the model's SQL renders it, the pre-hook compares its
fence, the post-hook records exactly it. The feeder and plain dbt (through the plugin) plan here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.errors import LakeError, LandingError
from lakeward.sql import escape_glob, quote_identifier, quote_list, quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import LandedFile, Landing
    from lakeward.ledger import Ledger
    from lakeward.reading import Reading
    from lakeward.streams import Stream

Columns = tuple[tuple[str, str], ...]

_WIDENING = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE"}


@dataclass(frozen=True)
class Inspected:
    """A landed file and what its Parquet footer says; no data page was read."""

    file: LandedFile
    rows: int
    columns: Columns
    extracted_at: datetime | None
    generation: int | None


@dataclass(frozen=True)
class Inspection:
    readable: tuple[Inspected, ...]
    unreadable: tuple[tuple[LandedFile, str], ...]  # to be quarantined, each with DuckDB's reason
    vanished: tuple[LandedFile, ...]  # listed, then gone


@dataclass(frozen=True)
class Plan:
    """One run of one model: what it reads, what it records, and the fence it must find unmoved."""

    stream: Stream
    model: str
    build: int
    is_new_build: bool
    fence: int
    files: tuple[Inspected, ...]
    batch_id: str
    shape: str | None = None  # an empty Parquet file that brings columns none of the files has


def get_files_after_cursor(reading: Reading, landing: Landing, stream: Stream) -> list[LandedFile]:
    """Pending files, oldest partition first.

    Partition-aware: lists from the reading's lower bound, then takes away what the ledger holds.
    """
    return reading.pending(landing.list(stream, reading.since))


def inspect(lake: Lake, landing: Landing, files: Sequence[LandedFile]) -> Inspection:
    """Read the footers of `files`. One pass when all are sound; a broken one is found by halving.

    Raises LandingError when the store does not answer: that is nobody's broken file.
    """
    if not files:
        return Inspection((), (), ())
    outside = [file for file in files if file.partition is None]
    if outside:
        reason = "lies in no year=/month=/day= folder"
        rest = inspect(lake, landing, [file for file in files if file.partition is not None])
        return Inspection(
            rest.readable, (*rest.unreadable, *((file, reason) for file in outside)), rest.vanished
        )
    try:
        return Inspection(tuple(_footers(lake, landing, files)), (), ())
    except LakeError as error:
        if len(files) == 1:
            return _culprit(landing, files[0], error)
    middle = len(files) // 2
    left, right = inspect(lake, landing, files[:middle]), inspect(lake, landing, files[middle:])
    return Inspection(
        left.readable + right.readable,
        left.unreadable + right.unreadable,
        left.vanished + right.vanished,
    )


def readable_together(groups: Sequence[dict[str, str]], columns: Columns) -> int | None:
    """Index of the first group of columns that a file with `columns` can be read beside; None: none.

    DuckDB's union_by_name adds missing columns, merges struct fields and widens numbers; it fails or
    turns values into NULL where a column is a timestamp here and a number there, or text here and a
    struct there (airbytehq/airbyte#52559).
    """
    for index, group in enumerate(groups):
        if all(name not in group or _compatible(group[name], kind) for name, kind in columns):
            return index
    return None


def record_new_columns(
    ledger: Ledger, stream: Stream, known: dict[str, str], files: Iterable[Inspected]
) -> dict[str, str]:
    """Append columns (or types) first seen in `files` to the lake's memory; returns the new ones."""
    seen = set(known.items())
    fresh: dict[str, str] = {}
    for item in files:
        new = {name: kind for name, kind in item.columns if (name, kind) not in seen}
        if new:
            ledger.record_columns(stream, new, item.file.path)
            seen |= new.items()
            fresh |= new
    return fresh


def hidden_columns(columns: Iterable[str]) -> list[str]:
    """Columns of the files' own that nobody can select: DuckDB puts the partition's value in their place."""
    return [name for name in columns if name.lower() in ("year", "month", "day")]


def shape_for(lake: Lake, known: dict[str, str], files: Sequence[Inspected]) -> str | None:
    """An empty file with the known columns that `files` lack; None when they lack none."""
    have = {name for item in files for name, _ in item.columns}
    missing = tuple((name, kind) for name, kind in known.items() if name not in have)
    return _shape(lake, missing) if missing else None


def render(plan: Plan, landing: Landing) -> str:
    """What `{{ var("files") }}` becomes inside `read_parquet(…)`; the seed's own arguments follow it."""
    paths = [escape_glob(landing.url(item.file.path)) for item in plan.files]
    if plan.shape is not None:
        paths.append(plan.shape)
    return (
        f"{quote_list(paths)}, union_by_name=true, "
        "hive_types={'year': bigint, 'month': bigint, 'day': bigint}"
    )


def _footers(lake: Lake, landing: Landing, files: Sequence[LandedFile]) -> Iterator[Inspected]:
    by_url = {landing.url(file.path): file for file in files}
    urls = quote_list(escape_glob(url) for url in by_url)
    schemas = lake.query(
        f"""
        select shape, list(file_name)
        from (
            select file_name, string_agg(
                concat_ws(':', name, type, duckdb_type, num_children), ',' order by column_id
            ) as shape
            from parquet_schema({urls}) group by file_name
        )
        group by shape"""
    )
    columns: dict[str, Columns] = {}
    for _, names in schemas:
        described = _describe(lake, names[0])
        columns |= dict.fromkeys(names, described)
    facts = lake.query(
        f"""
        select file_name, num_rows, generation, coalesce(
            try_cast(extracted as timestamptz), make_timestamptz(try_cast(extracted as bigint) * 1000)
        )
        from parquet_file_metadata({urls})
        left join (
            select file_name,
                max(stats_max_value) filter (path_in_schema = '_airbyte_extracted_at') as extracted,
                max(try_cast(stats_max_value as bigint))
                    filter (path_in_schema = '_airbyte_generation_id') as generation
            from parquet_metadata({urls})
            where path_in_schema in ('_airbyte_extracted_at', '_airbyte_generation_id')
            group by file_name
        ) using (file_name)"""
    )
    found = {name: (rows, generation, extracted) for name, rows, generation, extracted in facts}
    for url, file in by_url.items():
        rows, generation, extracted = found[url]
        yield Inspected(file, rows, columns[url], extracted, generation)


def _describe(lake: Lake, url: str) -> Columns:
    path = quote_literal(escape_glob(url))
    rows = lake.query(f"describe select * from read_parquet({path}, hive_partitioning=false)")
    return tuple((name, kind) for name, kind, *_ in rows)


def _culprit(landing: Landing, file: LandedFile, error: LakeError) -> Inspection:
    if landing.head(file.path) is None:
        return Inspection((), (), (file,))
    if error.message.startswith(("IO Error", "HTTP Error", "Connection Error")):
        raise LandingError(f"{file.path}: {error.message}") from error
    return Inspection((), ((file, error.message),), ())


def _compatible(one: str, other: str) -> bool:
    if one == other or {one, other} <= _WIDENING:
        return True
    alike = any(one.startswith(kind) and other.startswith(kind) for kind in ("STRUCT", "DECIMAL"))
    return alike and one.endswith("[]") == other.endswith("[]")


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lakeward-shapes-")


def _shape(lake: Lake, columns: Columns) -> str:
    folder = Path(_scratch().name, f"{abs(hash(columns)):x}", "year=1970", "month=1", "day=1")
    path = folder / "shape.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        nothing = ", ".join(f"null::{kind} as {quote_identifier(name)}" for name, kind in columns)
        lake.query(f"copy (select {nothing} limit 0) to {quote_literal(str(path))} (format parquet)")
    return str(path)
