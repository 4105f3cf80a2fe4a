"""Rounds of work: feed, build, both; once or again and again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.markup import escape

from lakeward import console
from lakeward.build import build as build_marts
from lakeward.build import plan_build, sweep
from lakeward.errors import ConfigError, LakewardError
from lakeward.manifest import last_change
from lakeward.meta import set_up
from lakeward.project import Project, open_project, open_tools, open_transform
from lakeward.settings import find_project
from lakeward.workers import feed_all

if TYPE_CHECKING:
    from rich.status import Status as RichStatus

    from lakeward.attempt import Tools
    from lakeward.feed import Found
    from lakeward.streams import Stream
    from lakeward.sync import Chosen

_TURN_SECONDS = 120.0  # of a stream, watching: others want theirs too
_WATCH_SECONDS = 5
_REST_SECONDS, _REST_SECONDS_AT_MOST = 10.0, 600.0


@dataclass(frozen=True)
class Outcome:
    """good: nothing failed. idle: there was nothing to do. lines, record: for people, for scripts."""

    good: bool
    idle: bool
    lines: list[str]
    record: dict[str, Any]

    def then(self, other: Outcome) -> Outcome:
        """Both as one."""
        return Outcome(
            good=self.good and other.good,
            idle=self.idle and other.idle,
            lines=self.lines + other.lines,
            record=self.record | other.record,
        )

    def show(self, *, json: bool) -> None:
        if json:
            console.print_json(self.record)
        else:
            for line in self.lines:
                console.out.print(escape(line), soft_wrap=True)


def rest_after(failures: int) -> float:
    """Seconds: 10, twice as long each time, at most ten minutes; none where nothing failed."""
    return min(_REST_SECONDS * 2 ** min(failures - 1, 10), _REST_SECONDS_AT_MOST) if failures else 0.0


class Rest:
    """Who failed waits before being tried again.

    Everybody else goes on meanwhile, and so does who has something else to do than what failed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, tuple[float, int, object]] = {}  # when, after how many failures, of what

    def is_over(self, name: str, task: object = None) -> bool:
        """task: whatever compares equal as long as there is nothing new to do."""
        until, _, failed = self._until.get(name, (0.0, 0, task))
        return self._clock() >= until or failed != task

    def note(self, name: str, task: object = None, *, failed: bool) -> None:
        if failed:
            _, before, _ = self._until.get(name, (0.0, 0, None))
            self._until[name] = (self._clock() + rest_after(before + 1), before + 1, task)
        else:
            self._until.pop(name, None)


Round = Callable[[Project, "Tools", Rest], Outcome]


def repeat(once: Round, *, watch: bool, json: bool) -> bool:
    """Run once, or every few seconds; watching holds the lake (and its catalog server) open.

    A project whose files change is read again, and nothing rests any longer; one that stops parsing goes on
    with its last good manifest.
    """
    has_begun, turn = False, _TURN_SECONDS if watch else math.inf
    while True:
        rest = Rest()  # a new one for a project that has changed
        project_dir = find_project(Path.cwd())
        read_at = last_change(project_dir)
        with console.parsing():
            project = open_project(project_dir)
        for problem in project.problems:
            console.err.print(escape(problem), soft_wrap=True)
        try:
            with open_tools(project.settings, console.say, turn=turn) as tools:
                outcome = once(project, tools, rest)
                has_begun = True
                outcome.show(json=json)
                if not watch:
                    return outcome.good and not project.problems
                time.sleep(_WATCH_SECONDS)
                while last_change(project_dir) == read_at:
                    outcome = once(project, tools, rest)
                    if not outcome.idle:
                        outcome.show(json=json)
                    time.sleep(_WATCH_SECONDS)
        except LakewardError as error:
            # Watching outlives a catalog that is away for a while, and a file that is being written.
            if not watch or not (error.transient or has_begun):
                raise
            console.err.print(escape(f"{error}; trying again"), soft_wrap=True)
            time.sleep(_WATCH_SECONDS)


def sync(chosen: Chosen, tools: Tools, *, refresh: bool = False) -> Outcome:
    """Read the sources, one after the other; what each landed is said on stderr as it lands.

    What a connector says goes to a log file of its source.
    """
    from lakeward.sync import sync as sync_source  # a feed does without

    reports, errors = [], dict(chosen.errors)
    for name, told in errors.items():
        console.err.print(escape(f"{name}: {told}"), soft_wrap=True)
    for job in chosen.jobs:
        name = job.source.name
        log = tools.settings.state_dir / "logs" / f"sync-{name}.log"
        try:
            with ExitStack() as opened, console.err.status(f"syncing {name}") as status:
                note = _into(log, opened)

                def progress(told: str, status: RichStatus = status) -> None:
                    status.update(escape(f"syncing {told}"))

                report = sync_source(
                    job, settings=tools.settings, lake=tools.lake, landing=tools.landing, note=note,
                    say=lambda line: console.err.print(escape(line), soft_wrap=True), progress=progress,
                    refresh=refresh,
                )  # fmt: skip
        except LakewardError as error:
            if len(chosen.jobs) == 1 and not chosen.errors:
                raise
            errors[name] = str(error)
            console.err.print(escape(f"{name}: {error}"), soft_wrap=True)
            continue
        reports.append(report)
        where = [f"{name}: what the connector said is in {log}"] if report.failed else []
        for line in console.sync_lines(report) + where:
            console.err.print(escape(line), soft_wrap=True)
    streams_read = [stream for report in reports for stream in report.streams]
    files, records = sum(each.files for each in streams_read), sum(each.records for each in streams_read)
    said = f"landed {_count(files, 'file')}, {_count(records, 'record')}"
    return Outcome(
        good=not errors and not any(report.failed for report in reports),
        idle=not files,
        lines=[said if files else f"nothing new in {_count(len(streams_read), 'stream')}"],
        record={"sources": [asdict(report) for report in reports], "errors": errors},
    )


def _into(log: Path, opened: ExitStack) -> Callable[[str], None]:
    """Lines into a file that begins anew with the first: by then the sync is the only one of its source."""
    file: list[TextIO] = []

    def note(line: str) -> None:
        if not file:
            log.parent.mkdir(parents=True, exist_ok=True)
            file.append(opened.enter_context(log.open("w")))
        print(line, file=file[0], flush=True)

    return note


def feed(
    streams: Sequence[Stream], project: Project, tools: Tools, rest: Rest, *, reconcile: bool = False
) -> Outcome:
    """Feed the streams; what each found out is said on stderr as it finishes."""
    jobs = project.manifest.jobs(streams)
    tasks: dict[str, object] = {}
    reports = []

    def is_awake(stream: Stream, found: Found) -> bool:
        tasks[stream.id] = {(file.path, file.etag) for file in found.files}
        return rest.is_over(stream.id, tasks[stream.id])

    with console.err.status("feeding"):
        for report in feed_all(jobs, tools, is_awake, reconcile=reconcile):
            reports.append(report)
            rest.note(report.stream, tasks.get(report.stream), failed=report.failed)
            for line in console.report_lines(report):
                console.err.print(escape(line), soft_wrap=True)
    idle = not any(report.batches or report.failed or report.quarantined for report in reports)
    files, rows = sum(report.files for report in reports), sum(report.rows for report in reports)
    said = f"nothing pending in {_count(len(reports), 'stream')}"
    return Outcome(
        good=not any(report.failed for report in reports),
        idle=idle,
        lines=[said if idle else f"fed {_count(files, 'file')}, {_count(rows, 'row')}"],
        record={"streams": [asdict(report) for report in reports]},
    )


def build(project: Project, tools: Tools, rest: Rest) -> Outcome:
    """Build the enriched models that are due."""
    set_up(tools.lake, [])
    sweep(tools.lake, project.manifest.models)
    marts = plan_build(project.manifest, tools.lake)
    due = [mart for mart in marts if mart.is_due and rest.is_over(mart.name)]
    errors: dict[str, str] = {}
    if due:
        names = ", ".join(mart.name for mart in due)
        with console.err.status(f"building {names}"), open_transform(project.settings) as transform:
            errors = build_marts(due, project.manifest, transform, tools.ledger)
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


def sync_feed_and_build(project: Project, tools: Tools, rest: Rest) -> Outcome:
    """`lakeward run`: what the sources have, unless an Airbyte server brings it; then feed and build."""
    settings = project.settings
    if settings.airbyte_url is not None or not (settings.project_dir / "sources").is_dir():
        return feed_and_build(project, tools, rest)
    from lakeward.sync import choose

    try:
        synced = sync(choose(settings.project_dir, project.streams, project.broken_files), tools)
    except LakewardError as error:  # what has landed already is fed all the same
        console.err.print(escape(str(error)), soft_wrap=True)
        synced = Outcome(good=False, idle=True, lines=[], record={"sources": [], "errors": [str(error)]})
    return synced.then(feed_and_build(project, tools, rest))


def feed_and_build(project: Project, tools: Tools, rest: Rest) -> Outcome:
    """Every stream, then the marts that what arrived has made stale."""
    if not project.streams:
        raise ConfigError("the lake has no streams", hint="add dag/streams/{source}/{stream}.json with {}")
    return feed(project.streams, project, tools, rest).then(build(project, tools, rest))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
