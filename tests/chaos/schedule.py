"""One schedule: a scenario, a step of it, a kill there, one more run; then the lake against the oracle.

A schedule is made from its seed and the trace of the undisturbed run, so the same code makes the same one.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.chaos import oracle
from tests.chaos.oracle import Identity
from tests.chaos.world import KEYED, LOG, MART, SCENARIOS, Scenario, World, as_rows

WHERE = ("before", "inside", "after")
_MODELS = (KEYED, LOG)
Ledger = set[tuple[str | None, str | None, str | None, str]]  # model, path, etag, event


@dataclass(frozen=True)
class Schedule:
    seed: int
    scenario: str
    number: int  # of the step
    phase: str  # that it belongs to
    where: str
    delay: float  # seconds from the step's beginning, for `inside`
    target: str = "process"  # or one of its world's others


@dataclass(frozen=True)
class Outcome:
    """differences: empty when all is as it should be. died_in: phase and place, as the process left it."""

    schedule: Schedule
    died_in: str
    committed: bool | None  # for a kill around a commit: had it happened?
    differences: list[str]


@dataclass
class Range:
    """A world to shoot at. Not for use by two at once."""

    world: World
    _traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _ledgers: dict[str, Ledger] = field(default_factory=dict)

    def schedule(self, seed: int, scenario: str | None = None, phase: str | None = None) -> Schedule:
        """Scenario, phase, step, place: each drawn from what there is; phases alike, however many steps."""
        draw = random.Random(seed)
        chosen = scenario or draw.choice([*SCENARIOS])
        steps = [line for line in self._trace(chosen) if line["at"] == "after"]
        phases = sorted({line["phase"] for line in steps})
        wanted = phase or draw.choice(phases)
        step = draw.choice([line for line in steps if line["phase"] == wanted])
        where = draw.choices(WHERE, (1, 2, 1))[0]
        target = draw.choice(self.world.targets)
        return Schedule(seed, chosen, step["number"], wanted, where, draw.random() * step["seconds"], target)

    def phases(self, scenario: str) -> set[str]:
        return {line["phase"] for line in self._trace(scenario)}

    def run(self, schedule: Schedule) -> Outcome:
        world, scenario = self.world, SCENARIOS[schedule.scenario]
        world.bring_back(schedule.scenario)
        trace = world.root / "killed.jsonl"
        trace.unlink(missing_ok=True)
        strike = {
            "number": schedule.number, "where": schedule.where, "delay": schedule.delay,
            "target": schedule.target, **world.victims,
        }  # fmt: skip
        killed = world.run(*scenario.command, trace=trace, strike=strike)
        world.mend(schedule.target)
        lines = [json.loads(line) for line in trace.read_text().splitlines()]
        struck = [line for line in lines if "struck" in line]
        until = lines.index(struck[0]) if struck else len(lines)
        last = next(line for line in reversed(lines[:until]) if "phase" in line)
        told = [] if struck else [f"step {schedule.number} was never reached"]
        if struck and schedule.target in ("process", "both") and killed.returncode != -9:
            told.append(f"the process was to be killed, and ended with {killed.returncode}: {killed.stderr}")
        if "Traceback" in killed.stderr:
            told.append(f"a traceback: {killed.stderr[-500:]}")
        committed = _is_committed(world, lines) if last["phase"] == "commit" else None
        again = world.run(*scenario.command)
        if again.returncode:
            told.append(f"the next run failed: exit {again.returncode}: {again.stdout}{again.stderr}")
        wrong, ledger = compare(world, loaded_by(world, scenario), marts=scenario.marts)
        told += wrong
        expected = self._ledgers[schedule.scenario]
        if schedule.target != "process":  # what was away was also said
            ledger = {event for event in ledger if event[3] not in ("failed", "recovered")}
        told += [
            f"ledger: {event} is not in the undisturbed one" for event in sorted(ledger - expected, key=str)
        ]
        told += [f"ledger: {event} is missing" for event in sorted(expected - ledger, key=str)]
        return Outcome(schedule, f"{last['phase']}, {last['at']}", committed, told)

    def shrink(self, schedule: Schedule) -> Schedule:
        """The simplest schedule like it that still fails: at a step's beginning, at an earlier step."""
        found = schedule
        for simpler in self._simpler(schedule):
            if self.run(simpler).differences:
                found = simpler
                break
        return found

    def _simpler(self, schedule: Schedule) -> Iterator[Schedule]:
        steps = [line for line in self._trace(schedule.scenario) if line["at"] == "after"]
        same = [line["number"] for line in steps if line["phase"] == schedule.phase]
        for number in [number for number in same if number <= schedule.number][:3]:
            for where in ("before", "after"):
                yield replace(schedule, number=number, where=where, delay=0.0)

    def _trace(self, name: str) -> list[dict[str, Any]]:
        """Of the undisturbed run, which is itself held against the oracle."""
        if name not in self._traces:
            world, scenario = self.world, SCENARIOS[name]
            world.bring_back(scenario.start)
            scenario.change(world)
            world.keep(name)
            world.bring_back(name)
            trace = world.root / f"{name}.jsonl"
            done = world.run(*scenario.command, trace=trace)
            assert done.returncode == 0, done.stdout + done.stderr
            wanted = loaded_by(world, scenario)
            wrong, self._ledgers[name] = compare(world, wanted, marts=scenario.marts)
            assert not wrong, wrong[:5]
            self._traces[name] = [json.loads(line) for line in trace.read_text().splitlines()]
        return self._traces[name]


def _is_committed(world: World, lines: Sequence[Mapping[str, Any]]) -> bool:
    """Is there a snapshot of the last batch that the process signed?"""
    signed = [line["detail"] for line in lines if line.get("detail")]
    return bool(signed) and signed[-1] in {row["batch_id"] for row in world.look()["snapshots"]}


def loaded_by(world: World, scenario: Scenario) -> set[Identity]:
    """What the models are to hold: all that lies there now, or all that ever did."""
    versions = world.present() if scenario.rebuilds else world.versions
    return {version.identity for version in versions if version.rows is not None}


def compare(world: World, wanted: set[Identity], *, marts: bool) -> tuple[list[str], Ledger]:
    """The lake against the oracle: tables, marts, ledger, snapshots, relations, files. And its events."""
    seen = world.look(*_MODELS, *((MART,) if marts else ()))
    known = {version.identity: version for version in world.versions}
    held: dict[str, set[Identity]] = {model: set() for model in _MODELS}
    broken: dict[str, set[Identity]] = {model: set() for model in _MODELS}
    for row in seen["files"]:
        if row["model"] in _MODELS:
            place = held if row["status"] == "applied" else broken
            place[row["model"]].add((row["path"], row["etag"]))
    garbage = {version.identity for version in world.present() if version.rows is None}
    told = oracle.differences_ledger(held, dict.fromkeys(_MODELS, wanted), "applied")
    told += oracle.differences_ledger(broken, dict.fromkeys(_MODELS, garbage), "quarantined")
    loaded = {model: [known[one] for one in held[model] if one in known] for model in _MODELS}
    keyed, log = as_rows(seen[KEYED]), as_rows(seen[LOG])
    told += [f"{KEYED}: {text}" for text in oracle.differences_keyed(keyed, loaded[KEYED])]
    told += [f"{LOG}: {text}" for text in oracle.differences_append(log, loaded[LOG])]
    if marts:
        mart = {row["word"]: row["rows"] for row in seen[MART]}
        told += [f"{MART}: {mart}, not {oracle.words(keyed)}"] if mart != oracle.words(keyed) else []
    told += _snapshots(seen) + _leftovers(world, seen)
    events = {
        (row["model"], row["path"], row["etag"], row["event"])
        for row in seen["events"]
        if row["event"] != "announced"
    }
    return told, events


def _snapshots(seen: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Every batch that the ledger knows has one snapshot, signed with it and its model."""
    stamps = Counter((row["batch_id"], row["model"]) for row in seen["snapshots"] if row["batch_id"])
    events = {(row["batch_id"], row["model"]) for row in seen["events"] if row["event"] == "applied"}
    # A refresh's swap hands the events of the table beside over to the model, with their batches.
    known = {(batch, model.removesuffix("__next")) for batch, model in stamps}
    told = [f"batch {batch}: {count} snapshots" for batch, count in stamps.items() if count > 1]
    lost = {(batch, model) for batch, model in events if (batch, model.removesuffix("__next")) not in known}
    return told + [f"batch {batch}: in the ledger, in no snapshot" for batch in lost]


def _leftovers(world: World, seen: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Relations nobody asked for; Parquet that neither the catalog nor its cleanup knows."""
    extra = {row["name"] for row in seen["relations"]} - {*_MODELS, MART}
    known = {Path(row["path"]).name for row in [*seen["referenced"], *seen["orphaned"]]}
    on_disk = {path.rpartition("/")[2] for path in world.data()}
    told = [f"left over: {name}" for name in sorted(extra)]
    return told + [f"{name}: no cleanup would find it" for name in sorted(on_disk - known)]
