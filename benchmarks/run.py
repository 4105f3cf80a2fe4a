"""lakeward against one raw DuckDB statement and against the seed's way: `python benchmarks/run.py --help`.

Prints a table and writes benchmarks/results/{size}.json. benchmarks/README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a file, not as a module

from benchmarks.lakes import BIN, TABLE, Lake, fresh_lake, lakeward_project, model_as_sql, seed_project
from benchmarks.measure import Usage, measure
from benchmarks.runs import dagster_on, next_run
from benchmarks.seed import BATCH
from benchmarks.syncs import alone, faker_lake, faker_project, landed
from benchmarks.table import Round, bar, bar_in_seconds, lines, summarise
from benchmarks.ticks import STREAMS, wide_project
from samples.shop import land, land_orders_bulk
from tests.servers import S3Server, free_port

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
_LIMIT, _SEED, _LAKEWARD = "LIMIT", "SEED", "lakeward"
_PARTS = ["S", "M", "commands", "demo", "ticks", "runs", "sync"]
_DEMO, _AGAIN = "make demo", "make demo, again"
_BARE, _STATUS, _NO_OP = "bare attach", "status", "feed, nothing to do"
_CHECK = f"""
select count(*), sum(order_id), sum(gross_sales), bit_xor(hash(order_id, order_date, gross_sales, discounts))
from {TABLE}"""
# Runs a command as its console script does, then fails if dbt was imported on the way.
_WITHOUT_DBT = """
import sys
from lakeward.cli import main
try:
    main()
except SystemExit:
    pass
found = sorted(name for name in sys.modules if name.partition(".")[0] in ("dbt", "dagster"))
sys.exit(f"imported {found[:3]}" if found else 0)
"""


@dataclass(frozen=True)
class Size:
    name: str
    files: int
    rows: int
    rounds: int
    seed_rounds: int
    bars: tuple[tuple[str, float], ...] = ()  # of lakeward's ratios to LIMIT


_SIZES = {
    "quick": Size("quick", 20, 2_000, 2, 1),
    "S": Size("S", 100, 10_000, 5, 5, (("wall", 3.0),)),
    "M": Size("M", 400, 25_000, 3, 1, (("cpu", 1.6),)),
}


def main() -> None:
    options = _options()
    if options.table:
        for path in sorted(_RESULTS.glob("*.json")):
            _show(json.loads(path.read_text()))
        return
    with ExitStack() as stack:
        scratch = options.dir
        if scratch is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lakeward-bench-")))
            scratch.chmod(0o755)  # the embedded catalog of a root user runs as `nobody`
        projects = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        projects.chmod(0o755)
        ours, seeds = lakeward_project(projects), seed_project(projects)
        for name in options.parts:
            if name.endswith("commands"):
                _save(name, commands(ours, scratch, rounds=3 if options.quick else 7))
            elif name == "demo":
                _save(name, demo(projects, rounds=3))
            elif name == "runs":
                _save(name, runs(ours, scratch, rounds=5))
            elif name == "sync":
                _save(name, syncs(projects, scratch, rounds=3))
            elif name.endswith("ticks"):
                _save(name, ticks(projects, 10_000 if options.quick else 1_000_000, rounds=5))
            else:
                _save(name, feeds(_SIZES[name], ours, seeds, scratch, options))


def feeds(size: Size, ours: Path, seeds: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Load the whole backlog, each time a new process on a fresh lake whose catalog server already runs."""
    landing = scratch / f"landing-{size.name}"
    landing.mkdir(exist_ok=True)
    _say(f"{size.name}: landing {size.files} files of {size.rows:,} orders")
    land_orders_bulk(landing, files=size.files, rows_per_file=size.rows)
    found = sorted(landing.glob("raw/**/*.parquet"))
    files = [str(path) for path in found]
    listing = scratch / f"files-{size.name}.json"
    listing.write_text(json.dumps(files))
    contenders: dict[str, tuple[Path, Callable[[Lake], Usage]]] = {
        _LIMIT: (seeds, lambda lake: _limit(lake, files)),
        _LAKEWARD: (ours, _feed),
        _SEED: (seeds, lambda lake: _seed(lake, listing)),
    }
    seed_rounds = 0 if options.skip_seed_at_m and size.name == "M" else size.seed_rounds
    before, batches, checks = os.getloadavg()[0], [], set()
    rounds: list[Round] = []
    for number in range(options.rounds or size.rounds):
        one: dict[str, Usage] = {}
        for name in _rotated([name for name in contenders if name != _SEED or number < seed_rounds], number):
            project, run = contenders[name]
            with fresh_lake(project, landing, scratch) as lake:
                one[name] = run(lake)
                checks.add(lake.con.execute(_CHECK).fetchall()[0])
                if name == _LAKEWARD:
                    batches = lake.con.execute(
                        "select count(*), sum(rows)::bigint from lakehouse.meta.feeder_files "
                        "where status = 'applied' group by batch_id order by min(logged_at)"
                    ).fetchall()
            _say(f"{size.name} round {number + 1}: {name} {one[name].wall:.2f} s")
            if len(checks) > 1:
                sys.exit(f"{name} loaded something else: {checks}")
        rounds.append({name: one[name] for name in contenders if name in one})
    (count, *_), rows = next(iter(checks)), size.files * size.rows
    bytes_ = sum(path.stat().st_size for path in found)
    contents = "count, sums and hashes of all runs agree"
    notes = [
        f"{rows:,} rows in {size.files} files, {bytes_ / 1e6:,.0f} MB, become {count:,} orders; {contents}",
        f"files per batch: {_LAKEWARD} {', '.join(str(files) for files, _ in batches)}; {_SEED} {BATCH}",
    ]
    if seed_rounds < len(rounds):
        notes.append(f"{_SEED} is slow: run {seed_rounds} of {len(rounds)} times")
    saved = summarise(rounds, _LIMIT)
    return _result(f"feed {size.name}", _LIMIT, rounds, saved, before, notes) | {
        "bars": [bar(saved, _LAKEWARD, what, limit, _LIMIT) for what, limit in size.bars],
        "batches": [{"files": files, "rows": rows} for files, rows in batches],
        "check": [str(value) for value in next(iter(checks))],
    }


def commands(ours: Path, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """The two commands a person or a timer repeats, on the fed sample shop, its catalog server running."""
    landing = scratch / "landing-demo"
    _say("commands: landing and feeding the sample shop")
    landed = land(landing, days=21)
    with fresh_lake(ours, landing, scratch) as lake:
        _lakeward(lake, "run")
        for words in (["status"], ["feed"]):
            command = [sys.executable, "-c", _WITHOUT_DBT, *words]
            measure(command, cwd=lake.root, env=lake.env)
        contenders: dict[str, Callable[[], Usage]] = {
            _BARE: lambda: _raw(lake, "select 1"),
            _STATUS: lambda: _lakeward(lake, "status", may_exit=(0, 1)),  # 1: a stream is late
            _NO_OP: lambda: _lakeward(lake, "feed"),
        }
        before, measured = os.getloadavg()[0], []
        for number in range(rounds):
            one = {name: contenders[name]() for name in _rotated(list(contenders), number)}
            measured.append({name: one[name] for name in contenders})
    notes = [
        f"{len(landed)} streams fed, {sum(stream.files + stream.skipped for stream in landed)} landed files; "
        "neither command imports dbt"
    ]
    saved = summarise(measured, _BARE)
    return _result("small commands", _BARE, measured, saved, before, notes) | {
        "bars": [bar(saved, _STATUS, "wall", 2.0, _BARE), bar(saved, _NO_OP, "wall", 3.0, _BARE)]
    }


def demo(scratch: Path, *, rounds: int) -> dict[str, Any]:
    """`make demo` in a clone of HEAD that is installed already: on no lake at all, and once more."""
    clone = scratch / "clone"
    subprocess.run(["git", "clone", "--quiet", str(_HERE.parent), str(clone)], check=True)
    command, env = ["make", "demo"], dict(os.environ)
    _say("demo: installing")
    measure(["make", "install"], cwd=clone, env=env)
    before, measured = os.getloadavg()[0], []
    for number in range(rounds):
        for left in (clone / ".lake", clone / "orchestration" / "target"):
            shutil.rmtree(left, ignore_errors=True)
        measured.append({name: measure(command, cwd=clone, env=env) for name in (_DEMO, _AGAIN)})
        _say(f"demo round {number + 1}: {measured[-1][_DEMO].wall:.1f} s")
    saved = summarise(measured, _DEMO)
    notes = ["after `make install`: what is left of its install part takes about a second"]
    return _result("make demo", _DEMO, measured, saved, before, notes) | {
        "bars": [bar_in_seconds(saved, _DEMO, 40)]
    }


def ticks(scratch: Path, most: int, *, rounds: int) -> dict[str, Any]:
    """Ticks of the sensor in which nothing is new, by files in history, on a folder and on SeaweedFS."""
    server_dir = scratch / "seaweedfs"
    server_dir.mkdir()
    project, before = wide_project(scratch), os.getloadavg()[0]
    with closing(S3Server(server_dir)) as server:
        measured: dict[str, list[Usage]] = {}
        for files in (STREAMS, most):
            for kind, landing, env in (
                ("folder", str(scratch / f"landing-{files}"), {}),
                ("S3", f"s3://{S3Server.BUCKET}/{files}", server.environment),
            ):
                name = f"{kind}, {files:,} files"
                _say(f"ticks: {name}")
                if kind == "folder":
                    Path(landing).mkdir()
                with fresh_lake(project, landing, scratch, env) as lake:
                    measured[name] = _ticks(lake, files, rounds)
    base, *_ = measured
    quiet = [{name: found[number] for name, found in measured.items()} for number in range(1, rounds + 1)]
    saved = summarise(quiet, base)
    firsts = ", ".join(f"{name} {found[0].wall:.1f} s" for name, found in measured.items())
    notes = [
        f"{STREAMS:,} streams, nothing pending in any; one process a lake, as a code server",
        f"the first tick of a process reads the whole ledger and is not counted: {firsts}",
    ]
    return _result("quiet ticks", base, quiet, saved, before, notes) | {
        "bars": [bar_in_seconds(saved, name, 10) for name in measured]
    }


def runs(ours: Path, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """One landed file: a run under `lakeward up`, from its making to its end, against `lakeward feed`."""
    landing = scratch / "landing-runs"
    land(landing, days=7)
    with fresh_lake(ours, landing, scratch) as lake:
        _lakeward(lake, "run")
        before, measured, made = os.getloadavg()[0], [], []
        for number in range(rounds):
            land(landing, days=8 + 2 * number, streams=["shopify/orders"])
            fed = _feed(lake)
            with dagster_on(lake, free_port()) as instance:
                known = {record.dagster_run.run_id for record in instance.get_run_records()}
                land(landing, days=9 + 2 * number, streams=["shopify/orders"])
                run = next_run(instance, known)
            ((loaded,),) = lake.con.execute(
                "select epoch(max(logged_at)) from lakehouse.meta.feeder_log where event = 'applied'"
            ).fetchall()
            measured.append({"lakeward feed": fed, "run": run.usage})
            made.append((run.started, run.step, loaded - run.made, run.usage.wall))
    marks = [f"{median(run[at] for run in made):.1f} s" for at in range(4)]
    saved = summarise(measured, "lakeward feed")
    notes = [
        "after a run was made, medians: its process has begun at {}, its step at {}, the file is loaded at "
        "{}, all is over at {}".format(*marks)
    ]
    return _result("one file", "lakeward feed", measured, saved, before, notes) | {"bars": []}


def syncs(projects: Path, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """source-faker, 40,000 and 400,000 records: `lakeward sync` against the connector alone."""
    project, before = faker_project(projects), os.getloadavg()[0]
    measured: dict[int, list[Round]] = {20_000: [], 200_000: []}
    memory: dict[int, list[float]] = {count: [] for count in measured}
    for number in range(rounds):
        for count, found in measured.items():
            name = f"{2 * count // 1000}k"
            with faker_lake(project, count, scratch) as (lake, program, config):
                unheard = alone(program, config, lake)
                usage, own = landed(lake)
            found.append({f"connector, {name}": unheard, f"sync, {name}": usage})
            memory[count].append(own)
            _say(f"sync round {number + 1}, {name}: {usage.wall:.1f} s beside {unheard.wall:.1f} s")
    few, many = (summarise(found, next(iter(found[0]))) for found in measured.values())
    taken = [f"{median(found):.0f} MB" for found in memory.values()]
    notes = [
        "the connector alone: discover, then read, unheard; ratios are to that of the same size",
        "RSS is the largest single process; lakeward's own was {} and {}".format(*taken),
    ]
    both = [one | other for one, other in zip(*measured.values(), strict=True)]
    return _result("sync", "connector, 40k", both, few | many, before, notes) | {
        "bars": [
            bar(saved, f"sync, {name}", "cpu", 1.25, f"connector, {name}")
            for saved, name in ((few, "40k"), (many, "400k"))
        ]
    }


def _ticks(lake: Lake, files: int, rounds: int) -> list[Usage]:
    home, result = lake.root / "dagster", lake.root / "ticks.json"
    home.mkdir()
    program, env = [sys.executable, str(_HERE / "ticks.py")], lake.env | {"DAGSTER_HOME": str(home)}
    measure([*program, "prepare", str(lake.project), str(files)], cwd=lake.root, env=env)
    measure([*program, "tick", str(result), str(lake.project), str(rounds)], cwd=lake.root, env=env)
    return [Usage(**tick) for tick in json.loads(result.read_text())]


def _limit(lake: Lake, files: list[str]) -> Usage:
    return _raw(lake, f"create table {TABLE} as {model_as_sql(files)}")


def _raw(lake: Lake, statement: str) -> Usage:
    command = [sys.executable, str(_HERE / "raw.py"), str(lake.attach), statement]
    return measure(command, cwd=lake.root, env=lake.env)


def _seed(lake: Lake, listing: Path) -> Usage:
    command = [sys.executable, str(_HERE / "seed.py"), str(lake.attach), str(lake.project), str(listing)]
    env = lake.env | {"BENCH_ATTACH": str(lake.attach), "PYTHONPATH": str(_HERE)}
    return measure(command, cwd=lake.root, env=env)


def _feed(lake: Lake) -> Usage:
    return _lakeward(lake, "feed", "shopify/orders")


def _lakeward(lake: Lake, *words: str, may_exit: tuple[int, ...] = (0,)) -> Usage:
    return measure([str(BIN / "lakeward"), *words], cwd=lake.root, env=lake.env, may_exit=may_exit)


def _rotated(names: list[str], by: int) -> list[str]:
    """Nobody is always first, and nobody always runs behind the same neighbour's leftovers."""
    return names[by % len(names) :] + names[: by % len(names)]


def _result(
    title: str, base: str, rounds: Sequence[Round], saved: Mapping[str, Any], before: float, notes: list[str]
) -> dict[str, Any]:
    packages = "duckdb", "dbt-core", "dbt-duckdb", "lakeward"
    return {
        "title": title,
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": {
            "cores": os.cpu_count(),
            "load": [round(before, 2), round(os.getloadavg()[0], 2)],
            "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
            "commit": _commit(),
        },
        "notes": notes,
        "base": base,
        "contenders": saved,
        "rounds": [{name: asdict(usage) for name, usage in one.items()} for one in rounds],
    }


def _commit() -> str | None:
    git = shutil.which("git")
    command = [git or "git", "-C", str(_HERE), "describe", "--always", "--dirty"]
    return None if git is None else subprocess.run(
        command, capture_output=True, text=True, check=False
    ).stdout.strip()  # fmt: skip


def _save(name: str, result: dict[str, Any]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    _show(result)


def _show(result: Mapping[str, Any]) -> None:
    print("\n".join(lines(result)), end="\n\n", flush=True)


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a minute: is the harness sound? Not for quoting"
    )
    parser.add_argument("--only", nargs="+", choices=_PARTS, help="parts to run; default: all")
    parser.add_argument("--rounds", type=int, help="of the feeds; default: 5 at S, 3 at M")
    parser.add_argument("--skip-seed-at-m", action="store_true", help="it takes minutes and runs only once")
    parser.add_argument("--dir", type=Path, help="scratch folder; landed files in it are kept and used again")
    parser.add_argument("--table", action="store_true", help="print the saved results again")
    options = parser.parse_args()
    parts = options.only or _PARTS
    options.parts = ["quick", "quick-commands", "quick-ticks"] if options.quick else parts
    return options


if __name__ == "__main__":
    main()
