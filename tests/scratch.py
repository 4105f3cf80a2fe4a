"""A lake of the real engine in a folder of its own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
from obstore.store import AzureStore, S3Store

from lakeward.attempt import FeedReport, Progress
from lakeward.lake import open_lake
from lakeward.project import Project, open_project, open_tools
from lakeward.workers import feed_all
from tests.launcher import Launcher

REPOSITORY = Path(__file__).parent.parent
SETTING = ("LAKEWARD_", "AWS_", "AZURE_", "DBT_")  # how variables begin that set something of a lake

MODEL = """
{{ config(
    tags=['processed', 'SOURCE__STREAM'],
    materialized='incremental',
    unique_key='item_id',
    incremental_strategy='delete+insert'
) }}

select
    filename as _source_file,
    id as item_id,
    attributes::JSON->>'$.word' as word,
    cast(attributes::JSON->>'$.amount' as double) as amount,
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc) = 1
"""

# Without a key a file loaded twice shows as doubled rows.
APPEND = MODEL.replace("    unique_key='item_id',\n", "").replace("delete+insert", "append")
APPEND = APPEND[: APPEND.index("qualify")]


@dataclass
class ScratchLake:
    """A lake in a temporary folder; `land` writes what Airbyte would, everything else is the real thing.

    store: a bucket that is the landing zone instead of the folder, and holds what the folder holds whenever
    lakeward is asked for anything.
    """

    root: Path
    store: S3Store | AzureStore | None = None
    _pushed: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def project_dir(self) -> Path:
        return self.root / "orchestration"

    @property
    def landing(self) -> Path:
        return self.root / ".lake" / "landing"

    def write(self, path: str, text: str) -> Path:
        target = self.project_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def add_stream(self, stream: str, *, config: dict[str, Any] | None = None, model: str = MODEL) -> None:
        """A stream file and its model, by the conventions."""
        source, name = stream.split("/")
        self.write(f"dag/streams/{stream}.json", json.dumps(config or {}))
        sql = model.replace("SOURCE", source).replace("STREAM", name)
        self.write(f"dag/processed/{source}/int_{source}__{name}.sql", sql)

    def land(
        self, stream: str, day: int, name: str, ids: range, *, word: str = "a", at: str | None = None
    ) -> Path:
        """One landed file: a row per id, extracted at `at` (default: noon of its partition)."""
        extracted = at or f"2026-11-{day:02} 12:00:00+00"
        return self.land_sql(
            stream,
            day,
            name,
            f"""select 'r' || i as _airbyte_raw_id, timestamptz '{extracted}' as _airbyte_extracted_at,
                1::bigint as _airbyte_generation_id, i::bigint as id,
                {{'word': '{word}', 'amount': i * 1.5}} as attributes
            from range({ids.start}, {ids.stop}) as t(i)""",
        )

    def land_sql(self, stream: str, day: int, name: str, select: str) -> Path:
        folder = self.landing / "raw" / stream / f"year=2026/month=11/day={day:02}"
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.partial"
        with duckdb.connect() as con:
            con.execute(f"copy ({select}) to '{partial}' (format parquet)")
        return partial.rename(folder / name)

    def push(self) -> None:
        """Make the bucket what the folder is. Nothing to do where the folder is the landing zone."""
        if self.store is None:
            return
        there = {}
        for path in self.landing.rglob("*"):
            if path.is_file():
                there[str(path.relative_to(self.landing))] = (path.stat().st_size, path.stat().st_mtime_ns)
        for name in self._pushed.keys() - there.keys():
            self.store.delete(name)
        for name, seen in there.items():
            if self._pushed.get(name) != seen:
                self.store.put(name, self.landing / name)
        self._pushed = there

    def project(self) -> Project:
        self.push()
        return open_project(self.root)

    def feed(self, *streams: str) -> dict[str, FeedReport]:
        """In this process, with one worker; the CLI's way is `cli`."""
        project = self.project()
        said: list[Progress] = []
        with open_tools(project.settings, said.append) as tools:
            chosen = [stream for stream in project.streams if not streams or stream.id in streams]
            return {report.stream: report for report in feed_all(project.manifest.jobs(chosen), tools)}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with open_lake(self.project().settings, read_only=True) as lake:
            assert lake is not None
            return lake.query(sql)

    def tables(self) -> list[str]:
        """Of `lakehouse.main`."""
        rows = self.query(
            "select table_name from duckdb_tables() where database_name = 'lakehouse' "
            "and schema_name = 'main' order by all"
        )
        return [name for (name,) in rows]

    def table(self, model: str) -> list[tuple[Any, ...]]:
        """Rows as (item_id, word), in key order."""
        return self.query(f"select item_id, word from main.{model} order by all")

    def events(self, event: str = "applied") -> list[str]:
        """File names of the ledger's events, in the order they were written."""
        rows = self.query(f"select path from meta.feeder_log where event = '{event}' order by rowid")
        return [path.rsplit("/", 1)[-1] for (path,) in rows]

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.push()
        return run_program("lakeward", *arguments, cwd=self.root, check=check)

    def dbt(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.push()
        return run_program("dbt", *arguments, cwd=self.project_dir, check=check)


def clean_environment() -> dict[str, str]:
    """This process's, without what would set a lake's settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith(SETTING)}


def copy_checkout(target: Path) -> None:
    """The working tree's tracked and new files."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)


@cache
def launcher() -> Launcher:
    made = Launcher()
    atexit.register(made.close)
    return made


def run_program(
    program: str, *arguments: str, cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """A program of this environment, as a user would start it; shows what it said when it fails."""
    done = launcher().start(program, *arguments, cwd=cwd).wait()
    if check and done.returncode:
        raise AssertionError(
            f"{program} {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def remove_catalog(root: Path) -> None:
    """As root on a closed path the embedded catalog lies outside the temporary folder, behind a link."""
    link = root / ".lake" / "catalog"
    if link.is_symlink():
        shutil.rmtree(link.resolve().parent)


def scratch_lake(root: Path) -> ScratchLake:
    """An empty lake with the repository's own project files and macros."""
    shipped = REPOSITORY / "orchestration"
    project = root / "orchestration"
    (project / "dag" / "streams").mkdir(parents=True)
    (root / ".lake" / "landing").mkdir(parents=True)
    for name in ("dbt_project.yml", "profiles.yml", "lakeward.toml", "definitions.py"):
        shutil.copy(shipped / name, project / name)
    shutil.copytree(shipped / "macros", project / "macros")
    return ScratchLake(root)
