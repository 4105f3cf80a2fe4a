"""How the lake is doing, read from the ledger, one listing and the manifest; dbt is not imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from lakeward.build import plan_build
from lakeward.errors import LakewardError
from lakeward.intake import get_files_after_cursor
from lakeward.meta import LAKE_VERSION
from lakeward.reading import UNREAD, ModelState, Reading, feedable, read
from lakeward.settings import LAKE
from lakeward.sql import escape_glob, quote_identifier, quote_literal
from lakeward.synclog import LastSync, last_syncs

if TYPE_CHECKING:
    from lakeward.build import Mart
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.manifest import Manifest, Model
    from lakeward.settings import Settings
    from lakeward.stores import LandedFile
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
    refreshed_by: str | None  # who is rebuilding it: feeders leave it alone meanwhile
    error: str | None  # of the last feed, if that failed
    nulled: int  # values that did not fit their type and are null in the files applied
    last_sync: LastSync | None  # without a server; None where there was none
    drift: tuple[str, ...]  # models whose SQL differs from what their table was built with

    @property
    def is_late(self) -> bool:
        if self.target_lag_seconds is None:
            return False
        return self.lag_seconds is None or self.lag_seconds > self.target_lag_seconds

    @property
    def is_red(self) -> bool:
        wrong_sync = self.last_sync is not None and self.last_sync.problem is not None
        return self.is_late or bool(self.quarantined) or self.error is not None or wrong_sync


@dataclass(frozen=True)
class Status:
    streams: tuple[StreamStatus, ...]
    marts: tuple[Mart, ...]
    problems: tuple[str, ...]  # with the project's files
    is_fresh: bool  # was the manifest made from the files as they are now?
    lake_version: int | None  # of its own tables; None where nothing was ever fed

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
            "lakeward": importlib.metadata.version("lakeward"),
            "lake_version": self.lake_version,
        }


def status(
    streams: Sequence[Stream],
    manifest: Manifest,
    settings: Settings,
    landing: Landing,
    lake: Lake | None,
    *,
    problems: Sequence[str],
    is_fresh: bool,
) -> Status:
    """Read-only: creates nothing, also where there is no lake yet (then everything landed is pending).

    problems, is_fresh: of the project, as it was opened.
    """
    now = datetime.now(UTC)
    jobs = manifest.jobs(streams)
    readings = read(lake, feedable(jobs), settings, now, fences=False) if lake is not None else {}
    marts = plan_build(manifest, lake) if lake is not None and readings else []
    syncs = last_syncs(lake) if lake is not None and readings else {}
    found = []
    for stream, models in jobs:
        reading = readings.get(stream.id) or UNREAD
        reading = reading if reading.models else UNREAD
        files, trouble = get_files_after_cursor(reading, landing, stream)
        drift = _drift(lake, landing, models, reading) if lake is not None and readings else []
        errors = [str(model.unfit) for model in models if model.unfit is not None]
        errors += [str(trouble)] if trouble is not None else []
        errors += [f"no model carries the tag {stream.tag}"] if is_fresh and not models else []
        found.append(_row(stream, drift, reading, files, errors, syncs.get(stream.id), now))
    version = LAKE_VERSION if readings else None  # of another one nothing is read
    return Status(tuple(found), tuple(marts), tuple(problems), is_fresh, version)


def _row(
    stream: Stream,
    drift: Sequence[str],
    reading: Reading,
    files: Sequence[LandedFile],
    errors: Sequence[str],
    sync: LastSync | None,
    now: datetime,
) -> StreamStatus:
    totals = [state.totals for state in reading.models]
    rows = [state.table.rows for state in reading.models if state.table is not None]
    newest = max((total.newest_record for total in totals if total.newest_record), default=None)
    errors = [*errors, *(total.error for total in totals if total.error is not None)]
    target = stream.config.target_lag
    return StreamStatus(
        stream=stream.id,
        pending_files=len(files),
        pending_bytes=sum(file.size for file in files),
        oldest_pending=min((file.partition for file in files if file.partition), default=None),
        last_batch=max((total.last_batch for total in totals if total.last_batch), default=None),
        rows=sum(rows) if rows else None,
        lag_seconds=max(0.0, (now - newest).total_seconds()) if newest else None,
        target_lag_seconds=target.total_seconds() if target else None,
        quarantined=max((total.quarantined for total in totals), default=0),
        last_full_listing=reading.last_full_listing,
        refreshed_by=reading.refreshed_by,
        error=errors[0] if errors else None,
        nulled=max((total.nulled for total in totals), default=0),
        last_sync=sync,
        drift=tuple(drift),
    )


def _drift(lake: Lake, landing: Landing, models: Sequence[Model], reading: Reading) -> list[str]:
    """Models whose SQL is not what their table was built with, with the columns that differ."""
    by_name = {model.name: model for model in models}
    found = []
    for state in reading.models:
        if state.is_new_build or state.totals.code in (None, by_name[state.model].code):
            continue
        model = by_name[state.model]
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
