"""The lake, opened: a connection with it attached, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import duckdb

from lakeward.attaching import (
    Connection,
    StoreSecrets,
    catalog_secret,
    certainly_absent,
    extension_path,
    is_absent,
    prepare,
    running_catalog,
    setup_lock,
)
from lakeward.complaints import as_lakeward_error, translated
from lakeward.errors import ConfigError
from lakeward.settings import LAKE, Settings
from lakeward.sql import quote_literal

Row = tuple[Any, ...]


class Lake:
    """One connection to the lake. Use `open_lake`."""

    def __init__(self, con: Connection, secrets: StoreSecrets | None = None) -> None:
        self.con = con
        self._secrets = secrets

    def query(self, sql: str, parameters: Sequence[object] | dict[str, object] = ()) -> list[Row]:
        with translated():
            if self._secrets is not None:
                self._secrets.renew(self.con)
            return self.con.execute(sql, parameters).fetchall()

    def records(self, sql: str) -> tuple[list[str], list[Row]]:
        """Column names and rows of a statement a person typed.

        Raises ConfigError with DuckDB's words, or that the store or the catalog did not answer.
        """
        try:
            result = self.con.execute(sql)
            if self.con.description is None:
                raise ConfigError("no statement was given", hint='lakeward sql "select 1"')
            return [column[0] for column in result.description], result.fetchall()
        except duckdb.Error as error:
            known = as_lakeward_error(str(error))
            raise known if known.transient else ConfigError(str(error), hint="mend the statement") from error

    def files(self) -> dict[str, int]:
        """Every data and delete file of every snapshot there is, with its size in bytes.

        DuckLake's specification has the catalog's tables, and how a file's path is put together.
        """
        tables = " union all ".join(
            f"select table_id, path, path_is_relative, file_size_bytes from ducklake_{kind}_file"
            for kind in ("data", "delete")
        )
        rows = self.query(
            f"from postgres_query('__ducklake_metadata_{LAKE}', $sql)",
            {
                "sql": f"""
                select distinct case when not file.path_is_relative then '' else
                    case when not t.path_is_relative then '' else
                        case when not s.path_is_relative then '' else m.value end || s.path
                    end || t.path
                end || file.path, file_size_bytes
                from ({tables}) as file
                join ducklake_table as t using (table_id)
                join ducklake_schema as s using (schema_id)
                join ducklake_metadata as m on m.key = 'data_path' and m.scope is null"""
            },
        )
        return dict(rows)

    @contextmanager
    def setup(self) -> Iterator[None]:
        """Hold every other process back from setting up the same lake."""
        with translated(), setup_lock(self.con):
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside see one snapshot and commit together, or not at all."""
        with translated():
            self.con.execute("begin")
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # the catalog may be what went away
                self.con.execute("rollback")
            raise
        with translated():
            self.con.execute("commit")


@contextmanager
def open_lake(settings: Settings, *, read_only: bool = False) -> Iterator[Lake | None]:
    """The lake, attached as `lakehouse` and in use. Costs about 0.3 s.

    read_only: creates nothing; yields None when the lake does not exist yet.
    """
    if read_only and certainly_absent(settings):
        yield None
        return
    con = duckdb.connect()
    catalog = None
    try:
        with translated():
            try:
                catalog = prepare(con, settings, read_only=read_only)
            except duckdb.Error as error:
                if read_only and is_absent(error):
                    con.close()
                    yield None
                    return
                raise
            con.execute(f"use {LAKE}")
        yield Lake(con, StoreSecrets(settings))
    finally:
        con.close()
        if catalog is not None:
            catalog.close()


Query = Callable[[str], list[Row]]


@contextmanager
def open_catalog(settings: Settings) -> Iterator[Query | None]:
    """Read-only questions to the catalog's Postgres itself; None where the embedded one was never made."""
    if certainly_absent(settings):
        yield None
        return
    with running_catalog(settings) as catalog, duckdb.connect() as con, translated():
        con.execute(f"load {quote_literal(extension_path('postgres_scanner'))}")
        con.execute(catalog_secret(settings, catalog))
        con.execute("attach '' as server (type postgres, secret lakeward_catalog, read_only)")
        yield lambda sql: con.execute("from postgres_query('server', ?)", [sql]).fetchall()


@contextmanager
def open_writer(settings: Settings) -> Iterator[Lake]:
    """DuckDB without the lake, on one thread: what it writes row by row takes little memory that way."""
    with duckdb.connect() as con, translated():
        for setting in ("threads = 1", "timezone = 'UTC'", "enable_progress_bar = false"):
            con.execute(f"set {setting}")
        con.execute(f"set temp_directory = {quote_literal(str(settings.state_dir / 'spill'))}")
        yield Lake(con)
