"""`python -m tests.soak --minutes 10`: a team's lake under load, and what it cost each.

S3 and a network Postgres; two machines that feed with two workers each; 20 streams in which files land all
the time, late ones among them; refreshes, maintenance and readers beside them. Then every table is held
against the oracle, row for row. Ends by itself; prints a summary, writes it as JSON with --out, exits 1 when
something is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lakeward.lake import open_lake
from lakeward.settings import Settings, load_settings
from tests.chaos import oracle
from tests.chaos.oracle import Row, Version
from tests.chaos.world import as_rows, write_landed
from tests.launcher import Running
from tests.scratch import APPEND, ScratchLake, clean_environment, launcher, scratch_lake
from tests.servers import PostgresServer, S3Server

STREAMS = [f"shop/s{number:02}" for number in range(20)]
MACHINES, WORKERS = 2, 2
_KEYS, _ROWS = 400, 40
_LAND_SECONDS, _READ_SECONDS, _REFRESH_SECONDS, _MAINTAIN_SECONDS = 0.25, 0.5, 45.0, 30.0
_WAITED_AT_MOST = 2  # rounds of one machine from landing to the ledger: more, and a stream starves
_DATABASE = "soak"


def models(stream: str) -> tuple[str, str]:
    """With a key, and without."""
    name = f"int_{stream.replace('/', '__')}"
    return name, f"{name}_log"


@dataclass
class Soak:
    root: Path
    store: S3Server
    postgres: PostgresServer
    draw: random.Random
    landed: dict[str, list[Version]] = field(default_factory=lambda: {stream: [] for stream in STREAMS})
    at: dict[str, float] = field(default_factory=dict)  # when a file landed, by its path
    ends: list[list[float]] = field(default_factory=lambda: [[] for _ in range(MACHINES)])  # of rounds
    wrong: list[str] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment() | self.store.environment | {
            "LAKEWARD_LANDING_URL": f"s3://{S3Server.BUCKET}/landing",
            "LAKEWARD_DATA_URL": f"s3://{S3Server.BUCKET}/data",
            "LAKEWARD_CATALOG_URL": self.postgres.url(_DATABASE),
            "LAKEWARD_WORKERS": str(WORKERS),
            "LAKEWARD_THREADS": "1",
        }  # fmt: skip

    def machine(self, number: int) -> ScratchLake:
        return ScratchLake(self.root / f"machine{number}")

    @property
    def settings(self) -> Settings:
        return load_settings(self.machine(0).project_dir, self.environment)

    def found(self) -> None:
        self.postgres.create_database(_DATABASE)
        for number in range(MACHINES):
            (self.root / f"machine{number}").mkdir()
            lake = scratch_lake(self.root / f"machine{number}")
            for stream in STREAMS:
                lake.add_stream(stream, config={"batch_max_bytes": 20_000})
                log = APPEND.replace("SOURCE__STREAM", stream.replace("/", "__"))
                lake.write(f"dag/processed/shop/{models(stream)[1]}.sql", log)

    def start(self, machine: int, *arguments: str) -> Running:
        return launcher().start("lakeward", *arguments, cwd=self.machine(machine).root, env=self.environment)

    def land(self) -> None:
        """One file in some stream: mostly today's, sometimes late."""
        stream, number = self.draw.choice(STREAMS), len(self.at)
        day = 28 if self.draw.random() < 0.7 else self.draw.randint(1, 27)
        moment = datetime(2026, 9, day, 12, tzinfo=UTC) + timedelta(milliseconds=number)
        path = f"raw/{stream}/year=2026/month=09/day={day:02}/{number}.parquet"
        url = f"s3://{S3Server.BUCKET}/landing/{path}"
        keys = self.draw.sample(range(_KEYS), _ROWS)
        rows = tuple(Row(key, f"w{number}", moment, url, day) for key in keys)
        local = self.root / "landing.parquet"
        write_landed(rows, local)
        self.store.store("landing").put(path, local)
        self.at[path] = time.time()
        self.landed[stream].append(Version(path, "", rows))

    def count(self, what: str) -> None:
        self.counted[what] = self.counted.get(what, 0) + 1

    @contextmanager
    def every(self, seconds: float, action: Callable[[], None], name: str) -> Iterator[None]:
        """Again and again while the block runs; what it raises is wrong, and told."""

        def go() -> None:
            while not self.over.wait(seconds):
                try:
                    action()
                    self.count(name)
                except Exception as error:
                    self.wrong.append(f"{name}: {type(error).__name__}: {error}"[:500])

        thread = threading.Thread(target=go, name=name)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def look(self) -> None:
        """As somebody who asks: in one snapshot, a table without a key has the rows that its ledger says."""
        stream = random.choice(STREAMS)
        with open_lake(self.settings, read_only=True) as lake:
            if lake is None:
                return
            with lake.transaction():
                try:
                    ((held, told),) = lake.query(
                        f"""select (select count(*) from main.{models(stream)[1]}), (
                            select coalesce(sum(rows), 0) from meta.feeder_files
                            where model = '{models(stream)[1]}' and status = 'applied')"""
                    )
                except Exception as error:
                    if "does not exist" in str(error):  # nothing of the stream was fed yet
                        return
                    raise
        if held != told:
            self.wrong.append(f"{stream}: a reader saw {held} rows, and a ledger of {told}")

    def run(self, machine: int, *arguments: str) -> None:
        done = self.start(machine, *arguments).wait(240)
        said = done.stdout + done.stderr
        if done.returncode and "another writer was faster" not in said:
            raise RuntimeError(f"lakeward {' '.join(arguments)}: exit {done.returncode}: {said[-400:]}")
        if done.returncode:
            self.count(f"{arguments[0]} gave way")

    def connections(self) -> None:
        found = self.postgres.run(
            "postgres", f"select count(*) from pg_stat_activity where datname = '{_DATABASE}'"
        )
        self.counted["connections at most"] = max(self.counted.get("connections at most", 0), int(found[0]))

    def load(self, seconds: float) -> list[dict[str, Any]]:
        """Everything at once, for so long; what the feeds told, round by round."""
        feeding = [self.start(number, "feed", "--watch", "--json") for number in range(MACHINES)]
        turns = iter(self.draw.sample(STREAMS, len(STREAMS)) * 100)
        with ExitStack() as all_of_it:
            for pause, action, name in (
                (_LAND_SECONDS, self.land, "files landed"),
                (_READ_SECONDS, self.look, "looks"),
                (_REFRESH_SECONDS, lambda: self.run(0, "refresh", next(turns)), "refreshes"),
                (_MAINTAIN_SECONDS, lambda: self.run(1, "maintain"), "maintenance runs"),
                (0.2, self.connections, "samples of connections"),
            ):
                all_of_it.enter_context(self.every(pause, action, name))
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(1)
                for number, running in enumerate(feeding):
                    rounds = running.said("out").count("\n")
                    self.ends[number] += [time.time()] * (rounds - len(self.ends[number]))
                    if "Traceback" in running.said("err"):
                        self.wrong.append(f"machine {number}: {running.said('err')[-800:]}")
                        deadline = 0
        told = []
        for running in feeding:
            running.kill(signal.SIGINT)
        for running in feeding:
            done = running.wait(120)
            told += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return told

    def held_against_the_oracle(self) -> None:
        with open_lake(self.settings, read_only=True) as lake:
            assert lake is not None
            for stream, versions in self.landed.items():
                if not versions:  # nor has it a table
                    continue
                for model, differences in zip(
                    models(stream), (oracle.differences_keyed, oracle.differences_append), strict=True
                ):
                    columns, rows = lake.records(f"from main.{model}")
                    table = [dict(zip(columns, row, strict=True)) for row in rows]
                    for row in table:
                        row["_airbyte_extracted_at"] = row["_airbyte_extracted_at"].isoformat()
                    self.wrong += [f"{model}: {text}" for text in differences(as_rows(table), versions)]

    def waits(self) -> list[tuple[float, int]]:
        """From landing to the first model's ledger, of the files that landed under load, the longest last.

        In seconds, which tell of the machine; and in rounds of one machine that ended meanwhile, which tell
        of what was fed before it. The round that was under way has not seen the file, the next one has.
        """
        with open_lake(self.settings, read_only=True) as lake:
            assert lake is not None
            rows = lake.query(
                "select path, epoch(min(logged_at)) from meta.feeder_log where event = 'applied' group by all"
            )
        applied: dict[str, float] = dict(rows)
        return sorted(
            (
                applied[path] - at,
                max(sum(at < end < applied[path] for end in ends) for ends in self.ends),
            )
            for path, at in self.at.items()
            if path in applied
        )


@contextmanager
def soaking(seed: int) -> Iterator[Soak]:
    root = Path(tempfile.mkdtemp(prefix="lakeward-soak-"))
    root.chmod(0o755)  # as root, Postgres runs as nobody
    (root / "seaweedfs").mkdir()
    postgres = PostgresServer(root / "postgres")
    try:
        with closing(S3Server(root / "seaweedfs")) as store:
            soak = Soak(root, store, postgres, random.Random(seed))
            soak.found()
            yield soak
    finally:
        postgres.stop()
        shutil.rmtree(root, ignore_errors=True)


def summary(soak: Soak, rounds: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    waits = soak.waits()
    reports = [report for told in rounds for report in told.get("streams", [])]
    seconds_waited = [round(waited, 1) for waited, _ in waits]
    rounds_waited = max(count for _, count in waits)
    if len(waits) != len(soak.at):
        soak.wrong.append(f"{len(soak.at) - len(waits)} of {len(soak.at)} files are in no ledger")
    if rounds_waited > _WAITED_AT_MOST:
        soak.wrong.append(f"a file waited while one machine went through {rounds_waited} rounds")
    return {
        "minutes": round(seconds / 60, 1),
        "streams": len(STREAMS),
        "workers": MACHINES * WORKERS,
        **soak.counted,
        "batches": sum(report["batches"] for report in reports),
        "conflicts, started over": sum(report["conflicts"] for report in reports),
        "errors of feeds": sum(bool(report["errors"]) for report in reports),
        "rounds of each machine": [len(ends) for ends in soak.ends],
        "rounds from landing to ledger, most": rounds_waited,
        "seconds from landing to ledger, median": seconds_waited[len(waits) // 2],
        "seconds from landing to ledger, 95 %": seconds_waited[len(waits) * 95 // 100],
        "seconds from landing to ledger, most": seconds_waited[-1],
        "wrong": soak.wrong[:20],
    }


def soak_for(seconds: float, seed: int) -> dict[str, Any]:
    with soaking(seed) as soak:
        rounds = soak.load(seconds)
        soak.run(0, "feed")
        soak.held_against_the_oracle()
        return summary(soak, rounds, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the summary as JSON")
    options = parser.parse_args()
    found = soak_for(options.minutes * 60, options.seed)
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()
