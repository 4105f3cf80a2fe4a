"""lakeward: landed Parquet flows, exactly once, into DuckLake.

`lakeward.connect()` is the whole Python interface for people who query; the command line does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakeward.lake import Connection

__all__ = ["connect"]


def connect(folder: str | Path = ".") -> Connection:
    """A DuckDB connection with the lake of `folder` attached read-only as `lakehouse`, and in use.

    The embedded catalog runs until this process ends. Raises ConfigError when there is no lake, or
    nothing was ever fed.
    """
    from lakeward.project import connect_read_only  # querying people pay for DuckDB, importing ones not

    return connect_read_only(Path(folder).resolve())
