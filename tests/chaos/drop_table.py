"""Drops a table of the lake in the working directory, as somebody might at a DuckDB prompt."""

import sys
from pathlib import Path

from lakeward.lake import open_lake
from lakeward.settings import find_project, load_settings

with open_lake(load_settings(find_project(Path.cwd()))) as lake:
    assert lake is not None
    lake.query(f"drop table {sys.argv[1]}")
