from __future__ import annotations

import pickle
from pathlib import Path

import duckdb
import pytest

from lakeward.attaching import extension_path
from lakeward.complaints import as_lakeward_error, error_kind, is_conflict
from lakeward.errors import LakewardError, LandingError, WriterConflict
from lakeward.sql import escape_glob, quote_identifier, quote_literal


@pytest.mark.parametrize("name", ["ducklake", "postgres_scanner", "httpfs", "azure"])
def test_extensions_load_from_their_wheels_with_duckdbs_signature_checked(name: str, tmp_path: Path) -> None:
    connect = duckdb.connect.__wrapped__  # type: ignore[attr-defined]  # the tests' own check nothing
    with connect() as con:
        assert con.execute("select current_setting('allow_unsigned_extensions')").fetchall() == [(False,)]
        con.execute(f"load '{extension_path(name)}'")
        forged = tmp_path / f"{name}.duckdb_extension"
        sound = bytearray(Path(extension_path(name)).read_bytes())
        sound[1000] ^= 1
        forged.write_bytes(sound)
    with connect() as con, pytest.raises(duckdb.IOException, match="signature"):
        con.execute(f"load '{forged}'")


def test_duckdb_reads_escaped_names_as_themselves(tmp_path: Path) -> None:
    with duckdb.connect() as con:
        for name in ("a*b.parquet", "a[1].parquet", "what?.parquet", "it's.parquet", "sp ace.parquet"):
            path = f"{tmp_path}/{name}"
            con.execute(f"copy (select 1 as a) to {quote_literal(path)} (format parquet)")
            read = f"select filename from read_parquet([{quote_literal(escape_glob(path))}], filename=true)"
            assert con.execute(read).fetchall() == [(path,)]


@pytest.mark.parametrize("said", ["don't know what type: \x0e", "Out of buffer", "invalid TType"])
def test_a_broken_file_is_told_by_words_without_a_kind(said: str) -> None:
    assert error_kind(said) == "Parquet Error"
    assert error_kind(f"a value: {said}") == ""


def test_who_shuts_us_out_is_told_whoever_else_does_not_answer() -> None:
    """localhost is two addresses, and a catalog may have several hosts."""
    head = 'IO Error: Unable to connect to Postgres at "": '
    away = f'{head}connection to server at "localhost" (::1), port 5432 failed: Connection refused'
    shut = 'connection to server at "localhost" (127.0.0.1), port 5432 failed: FATAL:  '
    error = as_lakeward_error(
        f'{away}\n\tIs the server running?\n{shut}password authentication failed for user "x"'
    )
    assert not error.transient
    assert "password authentication failed" in error.message
    assert as_lakeward_error(away).transient
    lacking = as_lakeward_error("Invalid Input Error: ERROR:  permission denied for database lake")
    assert "deploy/roles.sql" in str(lacking)


def test_identifiers_are_quoted() -> None:
    assert quote_identifier('we"ird') == '"we""ird"'


def test_errors_keep_their_hint_between_processes() -> None:
    error = pickle.loads(pickle.dumps(WriterConflict("lost", hint="again")))
    assert isinstance(error, WriterConflict)
    assert (error.message, error.hint) == ("lost", "again")
    assert error.transient
    assert isinstance(error, LakewardError)


def test_both_ways_of_losing_a_race_are_recognised() -> None:
    assert is_conflict(
        "TransactionContext Error: Failed to commit: Failed to commit DuckLake transaction. "
        'Transaction conflict - attempting to insert into table with index "13"'
    )
    assert is_conflict("Invalid Input Error: lakeward: fence moved: another writer was faster")
    assert not is_conflict("Conversion Error: Could not convert string 'Transaction conflict' to INT32")


def test_a_store_that_does_not_answer_duckdb_is_not_the_lakes_fault() -> None:
    for said in (
        "IO Error: Could not establish connection error for HTTP GET to 'http://127.0.0.1:9/lake/a.parquet'",
        "Fail to get a new connection for: https://acme.blob.core.windows.net. Could not resolve hostname",
    ):
        assert isinstance(as_lakeward_error(said), LandingError)
