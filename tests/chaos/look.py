"""Prints as JSON what the oracle wants to see of the lake in the working directory. Takes model names.

It opens the lake as lakeward does, and asks nothing of lakeward but that.
"""

import json
import sys
from pathlib import Path

from lakeward.lake import open_lake
from lakeward.settings import LAKE, find_project, load_settings

_FILES = ("ducklake_data_file", "ducklake_delete_file", "ducklake_files_scheduled_for_deletion")
_QUERIES = {
    "files": "select model, path, etag, status from meta.feeder_files",
    "events": "select distinct model, path, etag, event, batch_id from meta.feeder_log",
    "snapshots": "select commit_extra_info::JSON->>'$.batch_id' as batch_id, "
    "commit_extra_info::JSON->>'$.model' as model from lakehouse.snapshots()",
    "relations": "select table_name as name from information_schema.tables "
    f"where table_catalog = '{LAKE}' and table_schema = 'main'",
    "orphaned": "select path from ducklake_delete_orphaned_files"
    f"('{LAKE}', dry_run => true, cleanup_all => true) as t(path)",
    "referenced": f"from postgres_query('__ducklake_metadata_{LAKE}', '"
    + " union all ".join(f"select path from {table}" for table in _FILES)
    + "')",
}

with open_lake(load_settings(find_project(Path.cwd()))) as lake:
    assert lake is not None
    queries = _QUERIES | {model: f"from {model}" for model in sys.argv[1:]}
    seen = {}
    for name, sql in queries.items():
        columns, rows = lake.records(sql)
        seen[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    print(json.dumps(seen, default=str))
