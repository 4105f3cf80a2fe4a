"""What DuckDB, DuckLake and Postgres say, as errors of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from lakeward.errors import CatalogUnavailable, LakeError, LakewardError, LandingError, WriterConflict

_KIND = re.compile(r"((?:[A-Za-z]+ )*Error|\w+Exception): ")
# What DuckDB's Parquet reader says of a broken file without a kind before it.
_BROKEN = re.compile(
    r"don't know what type|invalid TType|Out of buffer|Failed to decompress|Input is invalid/unsupported GZIP"
    r"|Payload value bigger than allowed|Decode bit width too large|Varint-decoding"
)
_AWAY = re.compile(r"[Cc]onnect|server closed|terminating|starting up|shutting down|recovery mode")
_UNHEARD = re.compile(
    r"Could not (connect to server|establish connection) error for HTTP|Fail to get a new connection for: "
)
# A commit that the catalog does not live to see fails without a word of why.
_GONE = re.compile(r'server closed the connection|terminating connection|Failed to execute query "\w+": *$')
_SHUT_OUT = re.compile(
    r"no password supplied|certificate verify failed"
    r"|FATAL:  (password authentication failed|no pg_hba\.conf entry|permission denied for database"
    r'|(database|role) ".*" (does not exist|is not permitted))'
)
_REFUSED = re.compile(r"ERROR:  (cannot execute \w+ in a read-only transaction|permission denied for)")
_QUOTED = re.compile(r'Failed to execute query ".*": (?=ERROR)', re.DOTALL)


@contextmanager
def translated() -> Iterator[None]:
    """DuckDB's errors as ours: a lost race is a WriterConflict, everything else a LakeError."""
    try:
        yield
    except duckdb.Error as error:
        raise as_lakeward_error(str(error)) from error


def as_lakeward_error(message: str) -> LakewardError:
    line = first_line(message)
    shut_out = next((said for said in message.splitlines() if _SHUT_OUT.search(said)), None)
    if is_conflict(message):
        return WriterConflict(line)
    if _UNHEARD.search(line):
        return LandingError(line, hint="does the object store answer? nothing was marked as done")
    if shut_out is not None:  # by one of its addresses or hosts; others may not answer at all
        return LakeError(
            shut_out.strip(), hint="mend LAKEWARD_CATALOG_URL, or what the server lets in (pg_hba.conf)"
        )
    if error_kind(message) in ("IO Error", "TransactionContext Error") and _AWAY.search(line):
        return CatalogUnavailable(line, hint="is its Postgres up? nothing was marked as done")
    if _REFUSED.search(line):
        return LakeError(line, hint="the role in catalog_url may only read: see deploy/roles.sql")
    return LakeError(line)


def error_kind(message: str) -> str:
    """`Conversion Error`: how DuckDB begins a message; never words of the data.

    `Parquet Error`, which is our word: of a broken file, where DuckDB has none. Else empty.
    """
    found = _KIND.match(message.lstrip())
    if found is None:
        return "Parquet Error" if _BROKEN.match(message.lstrip()) else ""
    return found[1]


def is_conflict(message: str) -> bool:
    """Did another writer commit first? DuckLake's wording, or our fence's (macros/lakeward.sql)."""
    kind = error_kind(message)
    lost = kind == "TransactionContext Error" and "Transaction conflict" in message
    return lost or (kind in ("Invalid Input Error", "") and "lakeward: fence moved" in message)


def went_away(message: str) -> bool:
    """Was the catalog's Postgres lost on the way?"""
    return error_kind(message) in ("", "TransactionContext Error") and bool(_GONE.search(message))


def first_line(message: str) -> str:
    """DuckDB's words, without the statements it quotes; of a commit or a request also why it failed."""
    lines = [line for line in without_statements(message).splitlines() if line.strip()] or [message]
    goes_on = lines[0].endswith("DuckLake transaction.") or error_kind(message) == "HTTP Error"
    return " ".join(lines[:2]) if goes_on else lines[0]


def without_statements(message: str) -> str:
    """DuckLake quotes all that it was about to tell Postgres, which may be pages."""
    return _QUOTED.sub("", message)
