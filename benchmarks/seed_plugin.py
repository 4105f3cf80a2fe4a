"""Connects the seed's dbt to the lake: a dbt-duckdb plugin that does what the file BENCH_ATTACH says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.plugins import BasePlugin  # noqa: TID253 - only dbt imports this file

if TYPE_CHECKING:
    import duckdb
    from dbt.adapters.duckdb.credentials import DuckDBCredentials


class Plugin(BasePlugin):
    def update_connection_config(self, creds: DuckDBCredentials, config: dict[str, Any]) -> None:
        config.update(_attach()["config"])

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        for statement in _attach()["statements"]:
            conn.execute(statement)


def _attach() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(os.environ["BENCH_ATTACH"]).read_text())
    return found
