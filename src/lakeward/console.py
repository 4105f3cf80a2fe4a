"""What a person sees: tables and lines. No decision is made here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lakeward.manifest import is_fresh
from lakeward.settings import find_project

if TYPE_CHECKING:
    from lakeward.airbyte.plan import Plan
    from lakeward.attempt import FeedReport, Progress
    from lakeward.check import Finding
    from lakeward.doctor import Checkup
    from lakeward.status import Status
    from lakeward.sync import SyncReport

# What steers a terminal, as a sign for it: names of files and words of connectors come from outside.
_SIGNS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_SIGNS |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}  # JSON lets these stand as they are


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        plain = (one.translate(_SIGNS) if isinstance(one, str) else one for one in objects)
        super().print(*plain, **options)


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    print(text.translate(_ESCAPES))  # noqa: T201 - not wrapped, not coloured


def as_json(value: object) -> str:
    """For a file that people read and commit."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=2) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Numbers to the right, everything else to the left; nothing becomes an ellipsis in a pipe."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    rows = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float | Decimal) for row in rows)
        made.add_column(_cell(column), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def show(made: Table) -> None:
    """Print whole lines even where the terminal (or a pipe, which has none) is narrower."""
    Console(highlight=False, width=10_000).print(made)


def status_table(status: Status) -> Table:
    rows = [
        (
            stream.stream,
            stream.pending_files,
            size(stream.pending_bytes),
            stream.oldest_pending,
            stream.last_batch,
            f"{stream.rows:,}" if stream.rows is not None else None,
            duration(stream.lag_seconds),
            stream.quarantined,
            stream.last_full_listing,
            "red" if stream.is_red else "ok",
        )
        for stream in status.streams
    ]
    columns = ("stream", "pending", "bytes", "oldest", "last batch", "rows", "lag", "quarantined")
    return table((*columns, "last full listing", "state"), rows)


def status_notes(status: Status) -> list[str]:
    """What is wrong or waiting, a line each, with the remedy."""
    notes = list(status.problems)
    for stream in status.streams:
        if stream.error:
            notes.append(f"{stream.stream}: {stream.error}")
        if stream.refreshed_by:
            notes.append(f"{stream.stream}: being refreshed by {stream.refreshed_by}")
        if stream.is_late:
            notes.append(
                f"{stream.stream}: newest record is {duration(stream.lag_seconds) or 'absent'}, "
                f"target_lag is {duration(stream.target_lag_seconds)}"
            )
        if stream.last_sync is not None and stream.last_sync.problem is not None:
            notes.append(f"{stream.stream}: {stream.last_sync.problem}")
        if stream.nulled:
            notes.append(
                f"{stream.stream}: {stream.nulled:,} values did not fit their type and are null in what was "
                "loaded (_airbyte_meta.changes)"
            )
        if stream.quarantined:
            notes.append(
                f"{stream.stream}: {stream.quarantined} quarantined; lakeward quarantine list {stream.stream}"
            )
        notes += stream.drift
    for mart in status.marts:
        if mart.error:
            notes.append(f"{mart.name}: its last build failed: {mart.error}")
        elif mart.waits_for:
            notes.append(f"{mart.name}: waits for {', '.join(mart.waits_for)}, never fed")
        elif mart.is_due:
            notes.append(f"{mart.name}: to be built ({mart.reason}); lakeward build")
    return notes


def progress_line(progress: Progress) -> str:
    speed = progress.bytes / progress.seconds if progress.seconds else 0
    return (
        f"{progress.stream}  batch {progress.batch} of {progress.batches}  {progress.files:,} files  "
        f"{progress.rows:,} rows  {size(progress.bytes)}  {progress.seconds:.1f} s  {size(speed)}/s"
    )


def report_lines(report: FeedReport) -> list[str]:
    """What a feed found out beside the numbers."""
    lines = [f"{report.stream}: quarantined {path}: {why}" for path, why in report.quarantined.items()]
    lines += [f"{report.stream}: {path} vanished after it was listed" for path in report.vanished]
    lines += [f"{report.stream}: new column {name} {kind}" for name, kind in report.new_columns.items()]
    lines += [
        f"{report.stream}: the files' own column {name} cannot be read: the folder's {name.lower()}= takes "
        "its place; rename it at the source"
        for name in report.hidden_columns
    ]
    lines += [
        f"{report.stream}: {count:,} rows of older generations left {model}"
        for model, count in report.replaced.items()
    ]
    lines += [f"{report.stream}: {path} cannot be reached: {why}" for path, why in report.unreachable.items()]
    if report.refreshed_by is not None:
        lines.append(f"{report.stream}: left alone, being refreshed by {report.refreshed_by}")
    if report.left:
        lines.append(f"{report.stream}: {report.left:,} files wait for its next turn")
    if report.conflicts:
        lines.append(f"{report.stream}: another writer was faster; started over {report.conflicts} time(s)")
    lines += [f"{report.stream}: {model}: {error}" for model, error in report.errors.items()]
    return lines


def sync_lines(report: SyncReport) -> list[str]:
    """What went wrong in a sync, or should be known, a line each."""
    lines = []
    for stream in report.streams:
        if stream.error:
            lines.append(f"{stream.stream}: {stream.error}")
        if stream.note:
            lines.append(f"{stream.stream}: {stream.note}")
        if stream.nulled:
            lines.append(
                f"{stream.stream}: {stream.nulled:,} values did not fit their type and are null "
                "(_airbyte_meta.changes names them)"
            )
    if report.error:
        lines.append(f"{report.source}: {report.error}")
    return lines


def plan_lines(plan: Plan) -> list[str]:
    """As Terraform's users read one: a line per thing, what changes in it below, and a count."""
    colours = {"+": "green", "~": "yellow", "-": "red"}
    lines = []
    for change in plan.changes:
        colour = colours[change.sign]
        lines.append(f"[{colour}]{change.sign}[/] {change.kind} [bold]{escape(change.name)}[/]")
        lines += [f"    {escape(line)}" for line in change.lines]
    lines += [f"note: {escape(note)}" for note in plan.notes]
    count = {sign: sum(change.sign == sign for change in plan.changes) for sign in colours}
    told = f"plan: {count['+']} to create, {count['~']} to change, {count['-']} to delete"
    return [*lines, told if plan.changes else "nothing to change: Airbyte matches the repository"]


def job_line(source: str, job: dict[str, Any]) -> str:
    rows, sent = job.get("rowsSynced"), job.get("bytesSynced")
    told = f"{source}  job {job['jobId']}  {job['status']}"
    return told + (f"  {rows:,} records  {size(sent)}" if rows is not None else "")


def checkup_lines(finding: Checkup) -> list[str]:
    colour = {"ok": "green", "warning": "yellow", "failed": "bold red"}.get(finding.state, "dim")
    lines = [f"[{colour}]{finding.state:<8}[/]{finding.check:<20}{escape(finding.told)}"]
    return lines + ([f"{'':28}{escape(finding.remedy)}"] if finding.remedy else [])


def finding_lines(finding: Finding) -> list[str]:
    return [
        f"{finding.where}: {finding.what}  [{finding.rule}, {finding.level}]",
        f"  why: {finding.why}",
        f"  remedy: {finding.remedy}",
    ]


def say(progress: Progress) -> None:
    err.print(progress_line(progress), soft_wrap=True)


@contextmanager
def parsing() -> Iterator[None]:
    """A stale manifest costs some seconds of dbt: say so."""
    if is_fresh(find_project(Path.cwd())):
        yield
    else:
        with err.status("dbt parse"):
            yield


def size(count: float | None) -> str:
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(int(seconds), 86_400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest % 60}s"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return escape(str(value).translate(_SIGNS))


def _plain(value: Any) -> Any:
    """As JSON has it: decimals are numbers, intervals seconds, bytes hexadecimal, what is no number null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple() | set():
            return [_plain(inner) for inner in value]
    return str(value)
