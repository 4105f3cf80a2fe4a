"""DuckDB, the attached lake and nothing else: `raw.py ATTACH STATEMENT...`. No lakeward code runs here.

ATTACH says how lakeward itself connects (lakes.py records it). This is LIMIT when the statement is one
CTAS, the bare command when it is `select 1`, and the seed's cursor between two batches.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb

if __name__ == "__main__":
    attach = json.loads(Path(sys.argv[1]).read_text())
    con = duckdb.connect(config=attach["config"])
    for statement in (*attach["statements"], *sys.argv[2:]):
        con.execute(statement).fetchall()
