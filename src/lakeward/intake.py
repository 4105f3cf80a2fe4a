"""Which files one model run reads, and what must be known about them first.

A plan is made once per run, from one listing: the model's SQL renders it, the pre-hook compares its
fence, the post-hook records exactly it. The feeder and plain dbt (through the plugin) plan here.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.complaints import error_kind
from lakeward.errors import LakeError, LandingError
from lakeward.schemas import Columns, KnownColumns
from lakeward.sql import escape_glob, quote_identifier, quote_list, quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.ledger import Ledger
    from lakeward.reading import Reading
    from lakeward.stores import LandedFile
    from lakeward.streams import Stream

CONTROL = "lakeward: a control run, undone"
MISFIT = "does not fit the table's"  # in what the macros say of a value that would not survive its conversion

# How DuckDB begins its errors when it could not get at the file, and when reading any file would fail.
_UNREACHABLE = ("IO Error", "HTTP Error", "Connection Error", "Permission Error")
_NOBODYS = ("Out of Memory Error", "INTERNAL Error", "FATAL Error", "Binder Error", "Catalog Error")


@dataclass(frozen=True)
class Inspected:
    """A landed file and what its Parquet footer says; no data page was read."""

    file: LandedFile
    rows: int
    columns: Columns
    extracted_at: datetime | None
    generation: int | None
    nulled: int | None  # values that whoever wrote the file had to null: _airbyte_meta.changes


@dataclass(frozen=True)
class Inspection:
    """Each file of a listing is one of these; the reasons are DuckDB's words."""

    readable: tuple[Inspected, ...] = ()
    unreadable: tuple[tuple[LandedFile, str], ...] = ()  # no sound Parquet: to be quarantined
    unreachable: tuple[tuple[LandedFile, str], ...] = ()  # the store would not give it: stays pending
    vanished: tuple[LandedFile, ...] = ()  # listed, then gone

    def __add__(self, other: Inspection) -> Inspection:
        return Inspection(
            self.readable + other.readable,
            self.unreadable + other.unreadable,
            self.unreachable + other.unreachable,
            self.vanished + other.vanished,
        )


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
    is_control: bool = False  # is to fail at its end with CONTROL: shows that the model can load the files


def get_files_after_cursor(
    reading: Reading, landing: Landing, stream: Stream
) -> tuple[list[LandedFile], LandingError | None]:
    """Pending files, oldest partition first; and what kept the listing from being whole.

    Partition-aware: lists from the reading's lower bound, then takes away what the ledger holds.
    """
    troubles: list[LandingError] = []

    def listed() -> Iterator[LandedFile]:
        try:
            yield from landing.list(stream, reading.since)
        except LandingError as error:
            troubles.append(error)

    return reading.pending(listed()), troubles[0] if troubles else None


def inspect(lake: Lake, landing: Landing, files: Sequence[LandedFile]) -> Inspection:
    """Read the footers of `files`. One pass when all are sound; a broken one is found by halving.

    Raises LakeError for what is no file's fault, as too little memory.
    """
    refused = {file: reason for file in files if (reason := _refusal(file, landing)) is not None}
    rest = [file for file in files if file not in refused]
    return Inspection(unreadable=tuple(refused.items())) + _inspect(lake, landing, rest)


def _refusal(file: LandedFile, landing: Landing) -> str | None:
    if file.partition is None:
        return "lies in no year=/month=/day= folder"
    url = landing.url(file.path)
    if "\\" in url and escape_glob(url) != url:
        return "its name has a backslash and one of * ? [ as well, which DuckDB cannot open: rename it"
    if "?" in file.path and "://" in url:
        return "its name has a ?, and DuckDB takes what follows it for settings of the store: rename it"
    return None


def _inspect(lake: Lake, landing: Landing, files: Sequence[LandedFile]) -> Inspection:
    if not files:
        return Inspection()
    try:
        return Inspection(readable=tuple(_footers(lake, landing, files)))
    except LakeError as error:
        if len(files) == 1:
            return _culprit(landing, files[0], error)
    middle = len(files) // 2
    return _inspect(lake, landing, files[:middle]) + _inspect(lake, landing, files[middle:])


def known_columns(ledger: Ledger, stream: Stream) -> KnownColumns:
    """What the stream's file declares, and every column that was ever seen in a landed one."""
    return KnownColumns([*(stream.columns or {}).items(), *ledger.columns(stream)])


def record_new_columns(
    ledger: Ledger, stream: Stream, known: KnownColumns, files: Iterable[Inspected]
) -> dict[str, str]:
    """Append columns (or types) first seen in `files` to the lake's memory; returns the new ones."""
    fresh: dict[str, str] = {}
    for item in files:
        new = known.learn(item.columns)
        if new:
            ledger.record_columns(stream, new, item.file.path)
            fresh |= new
    return fresh


def shape_for(lake: Lake, landing: Landing, known: KnownColumns, files: Sequence[Inspected]) -> str | None:
    """An empty file with the known columns that `files` lack; None when they lack none."""
    missing = known.missing_from([item.columns for item in files])
    return _shape(lake, missing, landing.url("")) if missing else None


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
        select file_name, num_rows, generation, nulled, coalesce(
            try_cast(extracted as timestamptz), make_timestamptz(try_cast(extracted as bigint) * 1000)
        )
        from parquet_file_metadata({urls})
        left join (
            select file_name,
                max(stats_max_value) filter (path_in_schema = '_airbyte_extracted_at') as extracted,
                max(try_cast(stats_max_value as bigint))
                    filter (path_in_schema = '_airbyte_generation_id') as generation,
                sum(num_values - stats_null_count)
                    filter (path_in_schema like '\\_airbyte\\_meta, changes, %, change' escape '\\')::bigint
                    as nulled
            from parquet_metadata({urls})
            where path_in_schema in ('_airbyte_extracted_at', '_airbyte_generation_id')
                or path_in_schema like '\\_airbyte\\_meta, changes, %, change' escape '\\'
            group by file_name
        ) using (file_name)"""
    )
    found = {name: rest for name, *rest in facts}
    for url, file in by_url.items():
        rows, generation, nulled, extracted = found[url]
        yield Inspected(file, rows, columns[url], extracted, generation, nulled)


def _describe(lake: Lake, url: str) -> Columns:
    path = quote_literal(escape_glob(url))
    rows = lake.query(f"describe select * from read_parquet({path}, hive_partitioning=false)")
    return tuple((name, kind) for name, kind, *_ in rows)


def _culprit(landing: Landing, file: LandedFile, error: LakeError) -> Inspection:
    if landing.head(file.path) is None:
        return Inspection(vanished=(file,))
    kind = error_kind(error.message)
    if not kind and landing.url("").startswith("az://"):  # Azure's client has words of its own
        kind = "Connection Error"
    if kind in _UNREACHABLE:
        return Inspection(unreachable=((file, error.message),))
    if kind in _NOBODYS:
        raise error
    return Inspection(unreadable=((file, error.message),))


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lakeward-shapes-")


def _shape(lake: Lake, columns: Columns, landing_url: str) -> str:
    """Hive keys in the landing root's own path are columns of every file: the shape must have them too."""
    keys = [part for part in landing_url.split("/") if "=" in part]
    name = f"{abs(hash((columns, landing_url))):x}"
    folder = Path(_scratch().name, name, *keys, "year=1970", "month=1", "day=1")
    path = folder / "shape.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        nothing = ", ".join(f"null::{kind} as {quote_identifier(name)}" for name, kind in columns)
        partial = folder / f"{threading.get_ident()}.partial"
        lake.query(f"copy (select {nothing} limit 0) to {quote_literal(str(partial))} (format parquet)")
        partial.rename(path)
    return str(path)
