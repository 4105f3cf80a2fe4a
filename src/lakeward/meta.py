"""What lakeward keeps in the lake itself: the tables and views of `lakehouse.meta`, and the fences.

A fence is a one-row table per model in `lakehouse.fences`. The views `feeder_files` and
`feeder_cursors` are a public contract (docs/how-delivery-works.md).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakeward.errors import LakeError, LakewardError
from lakeward.settings import LAKE
from lakeward.sql import quote_identifier

if TYPE_CHECKING:
    from lakeward.lake import Lake

META = f"{LAKE}.meta"
FENCES = f"{LAKE}.fences"

_TABLES = {
    # event: built (a model's new life began) | applied | quarantined | released | failed | recovered |
    #        replayed (applied, and to be applied again); of a stream, with no model: listed (all that had
    #        landed was found, and loaded) | announced (a refresh)
    "feeder_log": """
        source varchar, stream varchar, model varchar, build bigint, event varchar,
        path varchar, etag varchar, size bigint, partition_date date, generation bigint,
        rows bigint, extracted_at timestamptz, batch_id varchar, code varchar, error varchar,
        logged_at timestamptz, until timestamptz, nulled bigint""",
    "feeder_columns": """
        source varchar, stream varchar, name varchar, type varchar, path varchar, logged_at timestamptz""",
    # event: built | failed; read_snapshot: the snapshot the mart was computed from
    "build_log": """
        model varchar, event varchar, read_snapshot bigint, code varchar, error varchar,
        logged_at timestamptz""",
    # event: checkpoint (a stream's files and the state that speaks of their records; with no stream, the
    #        state of all) | published (all files up to a checkpoint have landed) | done | failed
    "sync_log": """
        source varchar, stream varchar, sync_id bigint, checkpoint bigint, event varchar,
        state varchar, covers varchar, files varchar, records bigint, sent bigint, nulled bigint,
        generation bigint, error varchar, logged_at timestamptz""",
    # what was made or changed in an Airbyte server; fingerprint: of a configuration with its secrets
    "airbyte_log": """
        kind varchar, name varchar, id varchar, event varchar, fingerprint varchar, logged_at timestamptz""",
}

# rowid follows commit order, clocks of several machines do not.
_VIEWS = {
    "feeder_files": f"""
        select source, stream, model, build, path, etag, size, partition_date, generation,
               case event when 'replayed' then 'released' else event end as status,
               rows, extracted_at, batch_id, code, error, logged_at, nulled
        from (
            select *, rowid as position,
                   max(build) over (partition by source, stream, model) as current_build,
                   max(rowid) filter (event = 'applied')
                       over (partition by source, stream, model, path) as last_applied,
                   max(rowid) filter (event = 'replayed')
                       over (partition by source, stream, model, path, etag) as last_replayed
            from {META}.feeder_log
        )
        where (event = 'applied' and build = current_build and position > coalesce(last_replayed, -1))
           or (event in ('quarantined', 'released', 'replayed') and position > coalesce(last_applied, -1))
        qualify row_number() over (
            partition by source, stream, model, path, etag order by event = 'applied' desc, position desc
        ) = 1""",
    "feeder_cursors": f"""
        select source, stream, max_by(path, (partition_date, path)) as cursor_path,
               max(logged_at) as updated_at
        from {META}.feeder_files
        where status = 'applied'
        group by source, stream""",
}


_OLDEST = ("meta", "feeder_log")  # it was there in every version, and says which one it is

# What brings a lake to a version from the one before, beyond new tables and views; forward only.
_MIGRATIONS: dict[int, tuple[str, ...]] = {
    2: (f"alter table {META}.feeder_log add column if not exists nulled bigint",),
}
LAKE_VERSION = max(_MIGRATIONS)
_VERSION = re.compile(r"lakeward lake, version (\d+)")


@dataclass(frozen=True)
class Relation:
    """A table or view. `rows` is exact for tables of `lakehouse.main`, and means nothing for others."""

    id: int
    rows: int
    comment: str | None


Relations = dict[tuple[str, str], Relation]  # by (schema, name)


def set_up(lake: Lake, models: Sequence[str]) -> None:
    """Create what is missing, one process at a time; a lake of an older version is brought to ours.

    Raises LakeError for one of a version to come. Costs one catalog query when nothing is to be done.
    """
    if _missing(lake, models):
        with lake.setup():
            retry(lambda: _create(lake, _missing(lake, models)))


def is_set_up(lake: Lake) -> bool:
    """Read-only: has any feed ever set up this lake's ledger?"""
    return knows_ledger(relations(lake))


def knows_ledger(have: Relations) -> bool:
    """Raises LakeError for the ledger of another version."""
    version = _version(have)
    if version is not None and version < LAKE_VERSION:
        raise LakeError(
            f"this lake is of version {version}, and this lakeward reads {LAKE_VERSION}",
            hint="lakeward feed brings it up to date; lakewards before refuse it from then on",
        )
    return version is not None


def lake_version(lake: Lake) -> int | None:
    """Which tables it has; None where there are none yet. Raises LakeError for a version to come."""
    return _version(relations(lake))


def fence_table(model: str) -> str:
    return f"{FENCES}.{quote_identifier(model)}"


def relations(lake: Lake) -> Relations:
    """Every table and view of the snapshot that the transaction at hand sees. Read-only.

    Two queries to the catalog, however many there are (`duckdb_tables()` makes two per table). DuckLake's
    specification documents its catalog's tables; nothing of ours is inlined in `main`, so data files and
    delete files say how many rows there are, and no Parquet is opened.
    """
    ((snapshot,),) = lake.query(f"select id from {LAKE}.current_snapshot()")
    seen = f"begin_snapshot <= {snapshot} and (end_snapshot is null or end_snapshot > {snapshot})"
    rows = lake.query(
        f"from postgres_query('__ducklake_metadata_{LAKE}', $sql)",
        {
            "sql": f"""
            with schemas as (select schema_id, schema_name from ducklake_schema where {seen}),
            inserted as (
                select table_id, sum(record_count)::bigint as rows
                from ducklake_data_file where {seen} group by table_id
            ),
            deleted as (
                select table_id, sum(delete_count)::bigint as rows
                from ducklake_delete_file where {seen} group by table_id
            )
            select schema_name, table_name, table_id,
                   coalesce(inserted.rows, 0) - coalesce(deleted.rows, 0) as rows,
                   (select value from ducklake_tag
                    where object_id = table_id and key = 'comment' and {seen}) as comment
            from (select * from ducklake_table where {seen}) as tables
            join schemas using (schema_id)
            left join inserted using (table_id)
            left join deleted using (table_id)
            union all
            select schema_name, view_name, view_id, 0, null
            from (select * from ducklake_view where {seen}) as views join schemas using (schema_id)"""
        },
    )
    return {(schema, name): Relation(*values) for schema, name, *values in rows}


def retry(action: Callable[[], object]) -> None:
    """A few times, for writes that are safe to repeat whole: a commit that failed wrote nothing."""
    for attempt in range(5):
        try:
            action()
            return
        except LakewardError as error:
            if not error.transient or attempt == 4:
                raise
            time.sleep(0.1 * 2**attempt)


def _version(have: Relations) -> int | None:
    log = have.get(_OLDEST)
    if log is None:
        return None
    found = _VERSION.match(log.comment or "lakeward lake, version 1")
    if found is None:
        raise LakeError(
            f"this lake's version cannot be told from {log.comment!r}",
            hint="the comment of meta.feeder_log says it: give it back its own",
        )
    version = int(found[1])
    if version > LAKE_VERSION:
        raise LakeError(
            f"this lake is of version {version}, and this lakeward knows those up to {LAKE_VERSION}",
            hint="install the lakeward that the others use; nothing was touched",
        )
    return version


def _missing(lake: Lake, models: Sequence[str]) -> tuple[int | None, list[str]] | None:
    """The lake's version and the fences that are not there; None when nothing is to be done."""
    have = relations(lake)
    fences = [model for model in models if ("fences", model) not in have]
    version = _version(have)
    return (version, fences) if version != LAKE_VERSION or fences else None


def _create(lake: Lake, missing: tuple[int | None, list[str]] | None) -> None:
    """All tables in one transaction: DuckLake reads the whole catalog once per snapshot that made a table."""
    if missing is None:  # another process was faster
        return
    version, fences = missing
    if version is None:
        lake.query(f"create schema if not exists {META}")
        lake.query(f"create schema if not exists {FENCES}")
        # Small inserts into these go to the catalog instead of a Parquet file each; data tables never do
        # (DuckLake's inlined deletes had lost rows: duckdb/ducklake#917, #1215).
        lake.query(f"call {LAKE}.set_option('data_inlining_row_limit', 0)")
        for schema in ("meta", "fences"):
            lake.query(f"call {LAKE}.set_option('data_inlining_row_limit', 10000, schema => '{schema}')")
    with lake.transaction():
        if version is not None and version < LAKE_VERSION:
            for number in range(version + 1, LAKE_VERSION + 1):
                for statement in _MIGRATIONS[number]:
                    lake.query(statement)
            # Whoever is at work meanwhile loses to this, starts over, and finds what version it is now.
            for model in (name for schema, name in relations(lake) if schema == "fences"):
                lake.query(f"update {fence_table(model)} set n = n + 1")
        if version != LAKE_VERSION:
            for name, columns in _TABLES.items():
                lake.query(f"create table if not exists {META}.{name} ({columns})")
            for name, select in _VIEWS.items():
                lake.query(f"create or replace view {META}.{name} as {select}")
            told = f"lakeward lake, version {LAKE_VERSION}"
            lake.query(f"comment on table {META}.feeder_log is '{told}'")
        for model in fences:
            lake.query(f"create table if not exists {fence_table(model)} as select 0::bigint as n")
