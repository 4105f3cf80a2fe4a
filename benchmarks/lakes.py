"""Fresh lakes to measure in: a project, an embedded catalog that is already running, and how to attach it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import duckdb

from lakeward.lake import open_lake
from lakeward.manifest import manifest_path
from lakeward.settings import Settings, load_settings
from lakeward.sql import escape_glob, quote_list

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
MODEL = "dag/processed/shopify/int_shopify__orders.sql"
TABLE = "lakehouse.main.int_shopify__orders"

_PROJECT = """\
name: seed
version: "1.0.0"
profile: seed
model-paths: ["dag"]
flags: {send_anonymous_usage_stats: false}
"""
_PROFILE = """\
seed:
  target: lake
  outputs:
    lake:
      type: duckdb
      database: lakehouse
      plugins: [{module: seed_plugin, alias: attach}]
      attach: [{path: "ducklake:lakeward", alias: lakehouse}]
      threads: 1
"""


@dataclass(frozen=True)
class Lake:
    """A lake of its own; `attach` is the file that says how to connect to it, `con` a connection to it."""

    root: Path
    attach: Path
    env: dict[str, str]
    con: duckdb.DuckDBPyConnection

    @property
    def project(self) -> Path:
        return self.root / "orchestration"


@contextmanager
def fresh_lake(
    project: Path, landing: Path | str, scratch: Path, credentials: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Lake]:
    """A copy of `project` over `landing`, empty, its catalog server running. At the end all is gone."""
    root = Path(tempfile.mkdtemp(prefix="lake-", dir=scratch))
    root.chmod(0o755)  # or the catalog of a root user would move to /var/lib
    shutil.copytree(project, root / "orchestration")
    manifest_path(root / "orchestration").touch()  # copied before the files that it was made from
    ours = {"LAKEWARD_LANDING_URL": str(landing), **credentials}
    settings = load_settings(root / "orchestration", ours)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LAKEWARD_", "DBT_"))}
    env |= ours
    try:
        with open_lake(settings) as opened:  # holds the server until everything below is done
            assert opened is not None
            attach = root / "attach.json"
            attach.write_text(json.dumps(_recorded(settings)))
            yield Lake(root, attach, env, opened.con)
    finally:
        moved = (settings.state_dir / "catalog").resolve()
        if not moved.is_relative_to(root):
            shutil.rmtree(moved.parent)
        shutil.rmtree(root)


def _recorded(settings: Settings) -> dict[str, Any]:
    """How lakeward connects to a lake that exists: what it gives `duckdb.connect`, then its statements."""
    connect, found = duckdb.connect, _Recorder()

    def recording(database: str = ":memory:", *, config: dict[str, Any] | None = None) -> Any:
        found.config, found.con = config or {}, connect(database, config=config or {})
        return found

    with patch.object(duckdb, "connect", recording), open_lake(settings):
        return {"config": found.config, "statements": found.statements}


class _Recorder:
    """A connection that remembers which statements succeeded."""

    def __init__(self) -> None:
        self.con: duckdb.DuckDBPyConnection | None = None
        self.config: dict[str, Any] = {}
        self.statements: list[str] = []

    def execute(self, statement: str, *rest: Any) -> Any:
        assert self.con is not None
        result = self.con.execute(statement, *rest)
        self.statements.append(statement)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.con, name)


def lakeward_project(scratch: Path) -> Path:
    """This repository's nine streams, parsed."""
    project = scratch / "lakeward-project"
    shutil.copytree(
        ROOT / "orchestration", project, ignore=shutil.ignore_patterns("sources", "target", "logs")
    )
    return parsed(project)


def seed_project(scratch: Path) -> Path:
    """A plain dbt project with the one model: dbt-duckdb's own delete+insert, its own `var`, no hooks."""
    project = scratch / "seed-project"
    (project / MODEL).parent.mkdir(parents=True)
    shutil.copy(ROOT / "orchestration" / MODEL, project / MODEL)
    (project / "dbt_project.yml").write_text(_PROJECT)
    (project / "profiles.yml").write_text(_PROFILE)
    return parsed(project)


def model_as_sql(files: list[str]) -> str:
    """What dbt compiles the model to when it is given `files`."""
    sql = (ROOT / "orchestration" / MODEL).read_text()
    sql = re.sub(r"\{\{\s*config\(.*?\)\s*\}\}", "", sql, flags=re.DOTALL)
    sql = sql.replace('{{ var("files") }}', quote_list(escape_glob(file) for file in files))
    assert "{{" not in sql, "the model has grown: mend model_as_sql"
    return sql


def parsed(project: Path) -> Path:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    place = ["--project-dir", str(project), "--profiles-dir", str(project)]
    variables = ["--vars", '{"files": []}']
    done = subprocess.run(
        [str(BIN / "dbt"), "parse", *place, *(variables if "seed" in project.name else [])],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"dbt parse: {done.stdout[-3000:]}")
    return project
