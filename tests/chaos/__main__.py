"""`python -m tests.chaos --seed 1 --n 60`: N seeded schedules of kills, each held against the oracle.

Prints a line per schedule and a summary; writes it as JSON with --out. Exits 1 when a schedule fails, when a
phase was never hit, or when the kills around a commit did not see both outcomes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.schedule import Outcome, Range, Schedule
from tests.chaos.world import SCENARIOS, World
from tests.scratch import remove_catalog
from tests.servers import PostgresServer, S3Server

# Of five schedules three kill the process, one the embedded Postgres, alone or with the process, and one the
# process, the S3 server or the network Postgres of a lake that has no folder of its own.
TURNS = ("network", "network", "team", "network", "embedded")
TEAM = ("run", "refresh", "first run", "dbt run")


@dataclass(frozen=True)
class Ranges:
    """network: on a network Postgres. embedded: with one of its own. team: on a network Postgres and S3."""

    network: Range
    embedded: Range
    team: Range


@contextmanager
def shooting_ranges() -> Iterator[Ranges]:
    # Not a folder that only its owner may enter: as root, Postgres runs as nobody.
    root = Path(tempfile.mkdtemp(prefix="lakeward-chaos-"))
    root.chmod(0o755)
    (root / "s3").mkdir()
    with ExitStack() as running:
        running.callback(shutil.rmtree, root, ignore_errors=True)
        servers = [PostgresServer(root / name) for name in ("postgres", "team-postgres")]
        for server in servers:
            running.callback(server.stop)
        s3 = running.enter_context(closing(S3Server(root / "s3")))
        worlds = [
            World(root / "network", servers[0]),
            World(root / "embedded", None),
            World(root / "team", servers[1], s3),
        ]
        try:
            for world in worlds:
                world.found()
            yield Ranges(*map(Range, worlds))
        finally:
            for lake in (root / "embedded").glob("*/.lake"):
                remove_catalog(lake.parent)


def schedules(ranges: Ranges, first: int, count: int) -> Iterator[tuple[Range, Schedule]]:
    """Phase after phase, each time in another scenario that has it, so that few schedules meet all phases."""
    network, having = ranges.network, dict[str, list[str]]()
    for name in SCENARIOS:
        for phase in network.phases(name):
            having.setdefault(phase, []).append(name)
    phases = sorted(having)
    for seed in range(first, first + count):
        fives, rest = divmod(seed, len(TURNS))
        number = fives * TURNS.count(TURNS[rest]) + TURNS[:rest].count(TURNS[rest])  # of its kind
        if TURNS[rest] == "embedded":
            yield ranges.embedded, ranges.embedded.schedule(seed, "run")
        elif TURNS[rest] == "team":
            yield ranges.team, ranges.team.schedule(seed, TEAM[number % len(TEAM)])
        else:
            turn, place = divmod(number, len(phases))
            names = having[phases[place]]
            yield network, network.schedule(seed, names[turn % len(names)], phases[place])


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the kills met: by phase where the process died, and what became of the commits."""
    places = Counter(outcome.died_in for outcome in outcomes)
    commits = Counter(outcome.committed for outcome in outcomes if outcome.committed is not None)
    return {
        "schedules": len(outcomes),
        "failed": [outcome.schedule.seed for outcome in outcomes if outcome.differences],
        "killed": dict(sorted(Counter(outcome.schedule.target for outcome in outcomes).items())),
        "died in": dict(sorted(places.items())),
        "around the commit": {"committed": commits[True], "not committed": commits[False]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule")
    parser.add_argument("--n", type=int, default=60, help="how many schedules")
    parser.add_argument("--out", type=Path, help="write the summary as JSON")
    options = parser.parse_args()
    outcomes = []
    with shooting_ranges() as ranges:
        for place, schedule in schedules(ranges, options.seed, options.n):
            outcome = place.run(schedule)
            outcomes.append(outcome)
            what = (
                f"seed {schedule.seed:<4} {schedule.scenario:<17} {schedule.target:<8} {outcome.died_in:<24}"
            )
            print(what, "FAILED" if outcome.differences else "ok", flush=True)
            if outcome.differences:
                print(*(f"    {text}" for text in outcome.differences[:10]), sep="\n")
                print(f"    simplest that fails: {place.shrink(schedule)}")
        found = summary(outcomes)
        if options.n >= 60:
            met = {place.partition(",")[0] for place in found["died in"]}
            found["never hit"] = sorted(
                {phase for name in SCENARIOS for phase in ranges.network.phases(name)} - met
            )
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")
    one_sided = options.n >= 60 and not all(found["around the commit"].values())
    sys.exit(1 if found["failed"] or found.get("never hit") or one_sided else 0)


if __name__ == "__main__":
    main()
