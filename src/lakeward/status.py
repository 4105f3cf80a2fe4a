"""How the lake is doing, read from the ledger, one listing and the manifest; dbt is not imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from lakeward.build import plan_build
from lakeward.errors import LakewardError
from lakeward.ledger import Ledger, ModelState, Reading
from lakeward.meta import META, tables
from lakeward.settings import LAKE
from lakeward.sql import escape_glob, quote_identifier, quote_literal

if TYPE_CHECKING:
    from lakeward.build import Mart
    from lakeward.lake import Lake
    from lakeward.landing import LandedFile, Landing
    from lakeward.manifest import Manifest, Model
    from lakeward.settings import Settings
    from lakeward.streams import Stream


@dataclass(frozen=True)
class StreamStatus:
    """One stream. Times are UTC; `lag_seconds` is now minus the newest applied record."""

    stream: str
    pending_files: int
    pending_bytes: int
    oldest_pending: date | None
    last_batch: datetime | None
    rows: int | None
    lag_seconds: float | None
    target_lag_seconds: float | None
    quarantined: int
    last_full_listing: datetime | None
    error: str | None  # of the last feed, if that failed
    drift: tuple[str, ...]  # models whose SQL differs from what their table was built with

    @property
    def is_late(self) -> bool:
        if self.target_lag_seconds is None:
            return False
        return self.lag_seconds is None or self.lag_seconds > self.target_lag_seconds

    @property
    def is_red(self) -> bool:
        return self.is_late or bool(self.quarantined) or self.error is not None


@dataclass(frozen=True)
class Status:
    streams: tuple[StreamStatus, ...]
    marts: tuple[Mart, ...]
    problems: tuple[str, ...]  # with the project's files

    @property
    def is_red(self) -> bool:
        return (
            bool(self.problems)
            or any(stream.is_red for stream in self.streams)
            or any(mart.error is not None for mart in self.marts)
        )

    def as_json(self) -> dict[str, Any]:
        """The contract of `status --json`."""
        return {
            "streams": [asdict(stream) | {"red": stream.is_red} for stream in self.streams],
            "marts": [asdict(mart) | {"due": mart.is_due} for mart in self.marts],
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class _Facts:
    last_batch: datetime | None
    newest_record: datetime | None
    error: str | None


def status(
    streams: Sequence[Stream],
    manifest: Manifest,
    settings: Settings,
    landing: Landing,
    lake: Lake | None,
    *,
    problems: Sequence[str] = (),
) -> Status:
    """Read-only: creates nothing, also where there is no lake yet (then everything landed is pending)."""
    now = datetime.now(UTC)
    jobs = [(stream, manifest.of_stream(stream.tag)) for stream in streams]
    if lake is None or not Ledger(lake).exists():
        empty = Reading((ModelState("", -1, 0, True, frozenset(), frozenset(), None),), None, True, None, 0)
        rows = [_row(job[0], [], empty, list(landing.list(job[0])), None, {}, now) for job in jobs]
        return Status(tuple(rows), (), tuple(problems))
    readings = Ledger(lake).read(
        [(stream, [model.name for model in models]) for stream, models in jobs], settings, now, fences=False
    )
    facts = _facts(lake)
    counts = {name: table.rows for name, table in tables(lake).items()}
    found = []
    for stream, models in jobs:
        reading = readings[stream.id]
        files = reading.pending(landing.list(stream, reading.since)) if models else []
        drift = _drift(lake, landing, models, reading)
        found.append(_row(stream, drift, reading, files, facts.get(stream.id), counts, now))
    return Status(tuple(found), tuple(plan_build(manifest, lake)), tuple(problems))


def _row(
    stream: Stream,
    drift: Sequence[str],
    reading: Reading,
    files: Sequence[LandedFile],
    facts: _Facts | None,
    counts: dict[str, int],
    now: datetime,
) -> StreamStatus:
    newest = facts.newest_record if facts else None
    target = stream.config.target_lag
    tables = [counts[state.model] for state in reading.models if state.model in counts]
    return StreamStatus(
        stream=stream.id,
        pending_files=len(files),
        pending_bytes=sum(file.size for file in files),
        oldest_pending=min((file.partition for file in files if file.partition), default=None),
        last_batch=facts.last_batch if facts else None,
        rows=sum(tables) if tables else None,
        lag_seconds=(now - newest).total_seconds() if newest else None,
        target_lag_seconds=target.total_seconds() if target else None,
        quarantined=reading.quarantined,
        last_full_listing=reading.last_full_listing,
        error=(facts.error if facts else None)
        or (None if reading.models else f"no model carries the tag {stream.tag}"),
        drift=tuple(drift),
    )


def _facts(lake: Lake) -> dict[str, _Facts]:
    rows = lake.query(
        f"""
        select source || '/' || stream,
               max(logged_at) filter (event = 'applied'),
               max(extracted_at) filter (event = 'applied'),
               max_by(error, rowid) filter (event = 'failed'),
               coalesce(max(rowid) filter (event = 'failed'), -1)
                   > coalesce(max(rowid) filter (event in ('applied', 'built')), -1)
        from {META}.feeder_log group by all"""
    )
    return {
        stream: _Facts(_utc(last), _utc(newest), error if red else None)
        for stream, last, newest, error, red in rows
    }


def _drift(lake: Lake, landing: Landing, models: Sequence[Model], reading: Reading) -> list[str]:
    """Models whose SQL is not what their table was built with, with the columns that differ."""
    by_name = {state.model: state for state in reading.models}
    found = []
    for model in models:
        state = by_name[model.name]
        if state.is_new_build or state.code is None or state.code == model.code:
            continue
        columns = _column_difference(lake, landing, model, state)
        found.append(
            f"{model.name}: its SQL changed since its table was built"
            f"{' (' + columns + ')' if columns else ''}; dbt run --full-refresh -s {model.name}"
        )
    return found


def _column_difference(lake: Lake, landing: Landing, model: Model, state: ModelState) -> str:
    """`+ note, - amount`: what the SQL selects against what the table has; empty where it cannot be told."""
    if not state.applied:
        return ""
    path = escape_glob(landing.url(max(state.applied)[0]))
    sql = re.sub(r"\{\{\s*config\(.*?\)\s*\}\}", "", model.raw_code, flags=re.DOTALL)
    sql = re.sub(r"\{\{\s*var\(\s*['\"]files['\"]\s*\)\s*\}\}", lambda _: f"[{quote_literal(path)}]", sql)
    if "{{" in sql or "{%" in sql:
        return ""
    try:
        selected = [name for name, *_ in lake.query(f"describe {sql}")]
        has = [name for name, *_ in lake.query(f"describe {LAKE}.main.{quote_identifier(model.name)}")]
    except LakewardError:
        return ""
    added = [f"+ {name}" for name in selected if name not in has]
    return ", ".join(added + [f"- {name}" for name in has if name not in selected])


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment else None
