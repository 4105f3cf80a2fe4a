"""The lake that is put under fire: one stream, a model with a key, one without, and a mart on top.

A world has a place of its own, which each schedule finds as it was before: folders are copied back with
their times, the catalog is copied from a template.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from lakeward.manifest import manifest_path
from tests.chaos import oracle
from tests.chaos.oracle import Row, Version
from tests.scratch import APPEND, ScratchLake, clean_environment, launcher, scratch_lake
from tests.servers import PostgresServer, S3Server

STREAM = "shop/items"
KEYED, LOG, MART = "int_shop__items", "int_shop__items_log", "fct_words"
_MART = f"""
{{{{ config(tags=['enriched'], materialized='table') }}}}
select word, count(*) as rows from {{{{ ref('{KEYED}') }}}} group by word
"""
_DATABASE = "chaos"
_BATCH_BYTES = 4_000  # two or three of the files below


@dataclass(frozen=True)
class Scenario:
    """start: the kept state it begins with. change: what happens then. command: is killed, and run again.

    rebuilds: the tables end with what lies there now, not with all that ever lay there.
    """

    command: tuple[str, ...]
    start: str
    change: Callable[[World], None]
    rebuilds: bool = False
    marts: bool = True


@dataclass
class World:
    """A scratch lake, and what the oracle must know of it."""

    root: Path
    postgres: PostgresServer | None  # None: the embedded one
    s3: S3Server | None = None  # None: folders
    versions: list[Version] = field(default_factory=list)
    _kept: dict[str, tuple[list[Version], dict[str, bytes]]] = field(default_factory=dict)

    @property
    def lake(self) -> ScratchLake:
        return ScratchLake(self.root / "lake")

    @property
    def environment(self) -> dict[str, str]:
        """Of the programs that run here."""
        kept = clean_environment()
        kept["LAKEWARD_WORKERS"] = "1"
        if self.postgres is not None:
            kept["LAKEWARD_CATALOG_URL"] = self.postgres.url(_DATABASE)
        if self.s3 is not None:
            urls = {f"LAKEWARD_{name.upper()}_URL": f"{self._bucket}/{name}" for name in ("landing", "data")}
            kept |= self.s3.environment | urls
        return kept

    @property
    def _bucket(self) -> str:
        return f"s3://{S3Server.BUCKET}"

    @property
    def targets(self) -> list[str]:
        """What a kill may hit."""
        if self.postgres is None:
            return ["catalog", "both"]
        return ["process"] if self.s3 is None else ["process", "postgres", "store"]

    @property
    def victims(self) -> dict[str, Any]:
        """What the tracer must know to hit it."""
        own = (self.lake.root / ".lake" / "catalog").resolve()
        found: dict[str, Any] = {"catalog": str(self.postgres.data if self.postgres else own)}
        return found if self.s3 is None else found | {"store": self.s3.pid}

    def mend(self, target: str) -> None:
        """Start what was killed, if nobody else does."""
        if target == "postgres" and self.postgres is not None:
            self.postgres.start_after_kill()
        if target == "store" and self.s3 is not None:
            self.s3.start_after_kill()

    def found(self) -> None:
        """An empty lake with the flow's files, kept as `empty`; and, some days fed, as `fed`."""
        (self.root / "lake").mkdir(parents=True)
        lake = scratch_lake(self.root / "lake")
        lake.add_stream(STREAM, config={"batch_max_bytes": _BATCH_BYTES})
        log = APPEND.replace("SOURCE__STREAM", "shop__items")
        lake.write(f"dag/processed/shop/{LOG}.sql", log)
        lake.write(f"dag/enriched/{MART}.sql", _MART)
        if self.postgres is not None:
            self.postgres.create_database(_DATABASE)
        self.run("dbt", "parse")
        self.keep("empty")
        _first_days(self)
        self.run("lakeward", "run")
        self.keep("fed")

    def land(
        self,
        day: int,
        name: str,
        keys: Sequence[int | None],
        *,
        word: str,
        at: datetime | None = None,
        padded: bool = True,
    ) -> Path:
        """A file as Airbyte writes it, known to the oracle as what lies there from now on.

        at: when its rows were extracted; noon of the day unless said. padded: month=09, not month=9.
        """
        path = self._path(day, name, padded=padded)
        path.parent.mkdir(parents=True, exist_ok=True)
        moment = at or oracle.moment(day)
        rows = tuple(Row(key, word, moment, self._url(path), day) for key in keys)
        partial = Path(f"{path}.partial")
        write_landed(rows, partial)
        partial.rename(path)
        self._remember(path, rows)
        return path

    def land_garbage(self, day: int, name: str) -> None:
        path = self._path(day, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PAR1 and then nothing of the kind")
        self._remember(path, None)

    def remove(self, day: int, name: str) -> None:
        path = self._path(day, name)
        path.unlink()
        if self.s3 is not None:
            self.s3.store("landing").delete(self._relative(path))

    def _path(self, day: int, name: str, *, padded: bool = True) -> Path:
        month = "09" if padded else "9"
        folder = f"raw/{STREAM}/year=2026/month={month}/day={day:02}"
        return self.lake.landing / folder / name

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.lake.landing))

    def _url(self, path: Path) -> str:
        return str(path) if self.s3 is None else f"{self._bucket}/landing/{self._relative(path)}"

    def _remember(self, path: Path, rows: tuple[Row, ...] | None) -> None:
        if self.s3 is not None:
            self.s3.store("landing").put(self._relative(path), path)
        self.versions.append(Version(self._relative(path), self._etag(path), rows))

    def _etag(self, path: Path) -> str:
        """As the documentation has it: in a folder its size and when it changed, in S3 what S3 says."""
        if self.s3 is not None:
            return hashlib.md5(path.read_bytes()).hexdigest()
        stat = path.stat()
        return f"{stat.st_size:x}-{stat.st_mtime_ns:x}"

    def data(self) -> set[str]:
        """The data files there are, whoever knows them."""
        if self.s3 is not None:
            return _keys(self.s3, "data")
        return {str(path) for path in (self.lake.root / ".lake" / "data").rglob("*.parquet")}

    def present(self) -> list[Version]:
        """The versions that lie there now."""
        return [version for version in self.versions if self._lies_there(version)]

    def _lies_there(self, version: Version) -> bool:
        path = self.lake.landing / version.path
        return path.exists() and self._etag(path) == version.etag

    def run(
        self,
        *arguments: str,
        cwd: Path | None = None,
        trace: Path | None = None,
        strike: dict[str, Any] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A program of ours; traced, and struck down, if wanted."""
        program, *rest = arguments
        default = self.lake.project_dir if program == "dbt" else self.lake.root
        traced: dict[str, Any] = {}
        if trace is not None:
            traced = {
                "before": "tests.chaos.tracer:install",
                "options": {"trace": str(trace), "strike": strike},
            }
        return launcher().start(program, *rest, cwd=cwd or default, env=self.environment, **traced).wait(180)

    def keep(self, name: str) -> None:
        """Remember folders and catalog as they are now."""
        subprocess.run(["cp", "-a", str(self.root / "lake"), str(self.root / name)], check=True)
        if self.postgres is not None:
            self.postgres.copy_database(_DATABASE, f"{_DATABASE} {name}")
        kept = {} if self.s3 is None else {key: _data(self.s3, key) for key in self.data()}
        self._kept[name] = list(self.versions), kept

    def bring_back(self, name: str) -> None:
        shutil.rmtree(self.root / "lake")
        subprocess.run(["cp", "-a", str(self.root / name), str(self.root / "lake")], check=True)
        manifest_path(self.lake.project_dir).touch()  # younger than the copies of what it was made from
        if self.postgres is not None:
            self.postgres.drop_database(_DATABASE)
            self.postgres.copy_database(f"{_DATABASE} {name}", _DATABASE)
        versions, data = self._kept[name]
        self.versions = list(versions)
        if self.s3 is not None:
            self._bring_back_objects(self.s3, data)

    def _bring_back_objects(self, s3: S3Server, data: Mapping[str, bytes]) -> None:
        """Landed files as in the folder, which has copies. Data files never change."""
        landing, files = s3.store("landing"), [p for p in self.lake.landing.rglob("*") if p.is_file()]
        for key in _keys(s3, "landing"):
            landing.delete(key)
        for path in files:
            landing.put(self._relative(path), path)
        there = self.data()
        for key in there - data.keys():
            s3.store("data").delete(key)
        for key in data.keys() - there:
            s3.store("data").put(key, data[key])

    def look(self, *models: str) -> dict[str, list[dict[str, Any]]]:
        """Everything that the oracle is to compare, in one process (look.py)."""
        done = self.run("python", str(Path(__file__).with_name("look.py")), *models)
        if done.returncode:
            raise AssertionError(done.stderr)
        seen: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
        return seen


def _keys(s3: S3Server, prefix: str) -> set[str]:
    return {str(meta["path"]) for page in s3.store(prefix).list() for meta in page}


def _data(s3: S3Server, key: str) -> bytes:
    return bytes(s3.store("data").get(key).bytes())


def tracing(trace: Path, strike: dict[str, Any] | None) -> dict[str, Any]:
    """What the launcher's `start` is told so that the program is traced (tracer.py)."""
    return {"before": "tests.chaos.tracer:install", "options": {"trace": str(trace), "strike": strike}}


def write_landed(rows: Sequence[Row], path: Path) -> None:
    """As Airbyte would write them."""
    with duckdb.connect() as con:
        con.execute("create table landed (id bigint, word varchar, moment timestamptz)")
        if rows:
            con.executemany("insert into landed values (?, ?, ?)", [row[:3] for row in rows])
        con.execute(
            "copy (select 'r' as _airbyte_raw_id, moment as _airbyte_extracted_at, 1::bigint as "
            "_airbyte_generation_id, id, {'word': word, 'amount': 1.5} as attributes from landed) "
            f"to '{path}' (format parquet)"
        )


def as_rows(table: Sequence[dict[str, Any]]) -> list[Row]:
    """Of a model's table."""
    return [
        Row(
            row["item_id"], row["word"],
            datetime.fromisoformat(row["_airbyte_extracted_at"]).astimezone(UTC),
            row["_source_file"], int(row["day"]),
        )
        for row in table
    ]  # fmt: skip


def _first_days(world: World) -> None:
    for day in range(1, 4):
        world.land(day, "0.parquet", [*range(day * 10, day * 10 + 12), None], word=f"first {day}")


def _more(world: World) -> None:
    """Newer rows, a late file with older ones, a file rewritten, one gone."""
    world.land(4, "0.parquet", range(25, 40), word="new")
    world.land(4, "0.parquet-1", range(38, 45), word="newer", at=oracle.moment(4, 1))
    world.land(1, "late.parquet", [*range(5, 15), 33], word="late", at=oracle.moment(1, 30))
    world.land(2, "0.parquet", range(20, 28), word="rewritten", at=oracle.moment(2, 59))
    world.remove(1, "0.parquet")


def _more_and_garbage(world: World) -> None:
    _more(world)
    world.land_garbage(4, "garbage.parquet")


def _dropped(world: World) -> None:
    """A table dropped by hand: the next feed begins a new build."""
    done = world.run("python", str(Path(__file__).with_name("drop_table.py")), KEYED)
    assert done.returncode == 0, done.stderr


SCENARIOS = {
    "first run": Scenario(("lakeward", "run"), "empty", _first_days, rebuilds=True),
    "run": Scenario(("lakeward", "run"), "fed", _more_and_garbage),
    "change of build": Scenario(("lakeward", "run"), "fed", _dropped),
    "refresh": Scenario(("lakeward", "refresh", STREAM), "fed", _more, rebuilds=True, marts=False),
    "dbt run": Scenario(("dbt", "run"), "fed", _more_and_garbage),
    "dbt full refresh": Scenario(
        ("dbt", "run", "--full-refresh", "-s", KEYED, LOG),
        "fed",
        _more_and_garbage,
        rebuilds=True,
        marts=False,
    ),
}
