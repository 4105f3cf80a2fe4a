"""Rounds of work: feed, build, both; once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from lakeward import console
from lakeward.build import build as build_marts
from lakeward.build import plan_build
from lakeward.errors import ConfigError, LakewardError
from lakeward.manifest import is_fresh
from lakeward.meta import set_up
from lakeward.project import Project, open_project, open_tools, open_transform
from lakeward.workers import feed_all

if TYPE_CHECKING:
    from lakeward.feed import Tools
    from lakeward.streams import Stream

_WATCH_SECONDS = 5
_REST_SECONDS, _REST_SECONDS_AT_MOST = 10.0, 600.0


@dataclass(frozen=True)
class Outcome:
    """good: nothing failed. idle: there was nothing to do. lines, record: for people, for scripts."""

    good: bool
    idle: bool
    lines: list[str]
    record: dict[str, Any]


class Rest:
    """Who failed waits before being tried again: 10 seconds, twice as long each time, at most ten minutes.

    Everybody else goes on meanwhile. Only watching has a second time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, tuple[float, float]] = {}  # when, and after how long a rest

    def is_over(self, name: str) -> bool:
        return name not in self._until or self._clock() >= self._until[name][0]

    def note(self, name: str, *, failed: bool) -> None:
        if failed:
            _, last = self._until.get(name, (0.0, _REST_SECONDS / 2))
            rest = min(last * 2, _REST_SECONDS_AT_MOST)
            self._until[name] = (self._clock() + rest, rest)
        else:
            self._until.pop(name, None)


Round = Callable[[Project, "Tools", Rest], Outcome]


def repeat(once: Round, *, watch: bool, json: bool) -> bool:
    """Run once, or every few seconds; watching holds the lake (and its catalog server) open.

    A project whose files change is read again, and nothing rests any longer; one that stops parsing goes on
    with its last good manifest.
    """
    while True:
        rest = Rest()
        with console.parsing():
            project = open_project(Path.cwd())
        for problem in project.problems:
            console.err.print(escape(problem), soft_wrap=True)
        with open_tools(project.settings, console.say) as tools:
            outcome = _guarded(once, project, tools, rest, watch=watch)
            _show(outcome, json=json)
            while watch:
                time.sleep(_WATCH_SECONDS)
                if not is_fresh(project.settings.project_dir):
                    break
                again = _guarded(once, project, tools, rest, watch=watch)
                if not again.idle:
                    _show(again, json=json)
        if not watch:
            return outcome.good and not project.problems


def feed(streams: Sequence[Stream], project: Project, tools: Tools, rest: Rest) -> Outcome:
    """Feed the streams; what each found out is said on stderr as it finishes."""
    jobs = [(stream, project.manifest.of_stream(stream.tag)) for stream in streams if rest.is_over(stream.id)]
    reports = []
    with console.err.status("feeding"):
        for report in feed_all(jobs, tools):
            reports.append(report)
            rest.note(report.stream, failed=bool(report.errors))
            for line in console.report_lines(report):
                console.err.print(escape(line), soft_wrap=True)
    idle = not any(report.batches or report.errors or report.quarantined for report in reports)
    files, rows = sum(report.files for report in reports), sum(report.rows for report in reports)
    said = f"nothing pending in {_count(len(reports), 'stream')}"
    return Outcome(
        good=not any(report.errors for report in reports),
        idle=idle,
        lines=[said if idle else f"fed {_count(files, 'file')}, {_count(rows, 'row')}"],
        record={"streams": [asdict(report) for report in reports]},
    )


def build(project: Project, tools: Tools, rest: Rest) -> Outcome:
    """Build the enriched models that are due."""
    set_up(tools.lake, [])
    marts = plan_build(project.manifest, tools.lake)
    due = [mart for mart in marts if mart.is_due and rest.is_over(mart.name)]
    errors: dict[str, str] = {}
    if due:
        names = ", ".join(mart.name for mart in due)
        with console.err.status(f"building {names}"), open_transform(project.settings) as transform:
            errors = build_marts(due, transform, tools.ledger)
    for mart in due:
        rest.note(mart.name, failed=mart.name in errors)
    for model, error in errors.items():
        console.err.print(escape(f"{model}: {error}"), soft_wrap=True)
    built = [mart for mart in due if mart.name not in errors]
    lines = [f"built {mart.name} ({mart.reason})" for mart in built]
    lines += [
        f"{mart.name} waits for {', '.join(mart.waits_for)}, never fed" for mart in marts if mart.waits_for
    ]
    if not due:
        lines.append(f"nothing to build: {_count(len(marts), 'enriched model')} up to date or waiting")
    records = [
        {
            "name": mart.name,
            "built": mart in built,
            "reason": mart.reason,
            "waits_for": list(mart.waits_for),
            "error": errors.get(mart.name),
        }
        for mart in marts
    ]
    return Outcome(good=not errors, idle=not due, lines=lines, record={"marts": records})


def feed_and_build(project: Project, tools: Tools, rest: Rest) -> Outcome:
    """`lakeward run`: every stream, then the marts that what arrived has made stale."""
    if not project.streams:
        raise ConfigError("the lake has no streams", hint="add dag/streams/{source}/{stream}.json with {}")
    fed = feed(project.streams, project, tools, rest)
    built = build(project, tools, rest)
    return Outcome(
        good=fed.good and built.good,
        idle=fed.idle and built.idle,
        lines=fed.lines + built.lines,
        record=fed.record | built.record,
    )


def _guarded(once: Round, project: Project, tools: Tools, rest: Rest, *, watch: bool) -> Outcome:
    """Watching outlives a store or catalog that is away for a while; everything else ends it."""
    try:
        return once(project, tools, rest)
    except LakewardError as error:
        if not watch or not error.transient:
            raise
        console.err.print(escape(f"{error}; trying again"), soft_wrap=True)
        return Outcome(good=False, idle=True, lines=[], record={"error": str(error)})


def _show(outcome: Outcome, *, json: bool) -> None:
    if json:
        console.print_json(outcome.record)
    else:
        for line in outcome.lines:
            console.out.print(escape(line), soft_wrap=True)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
