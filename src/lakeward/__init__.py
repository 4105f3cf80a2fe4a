"""lakeward: landed Parquet flows, exactly once, into DuckLake.

`lakeward.connect()` is the whole Python interface for people who query, `lakeward.LakeComponent` (and
`lakeward.definitions.build_definitions`) for people who run Dagster; the command line does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakeward.attaching import Connection
    from lakeward.definitions.component import LakeComponent

__all__ = ["LakeComponent", "connect"]


def __getattr__(name: str) -> object:
    """`lakeward.LakeComponent`, as a defs.yaml names it: Dagster costs seconds, and may be absent."""
    if name != "LakeComponent":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lakeward.definitions.component import LakeComponent

    return LakeComponent


def connect(folder: str | Path = ".") -> Connection:
    """A DuckDB connection with the lake of `folder` attached read-only as `lakehouse`, and in use.

    The embedded catalog runs until this process ends. Raises ConfigError when there is no lake, or
    nothing was ever fed.
    """
    from lakeward.project import connect_read_only  # querying people pay for DuckDB, importing ones not

    return connect_read_only(Path(folder).resolve())
