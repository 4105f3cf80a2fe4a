"""The main job: every pending file of a stream into every model of it, exactly once."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lakeward.attempt import Attempt, FeedReport, Tools
from lakeward.errors import LakeError, LakewardError, WriterConflict
from lakeward.generations import Outdated, leave, outdated
from lakeward.intake import get_files_after_cursor
from lakeward.meta import set_up
from lakeward.reading import feedable, read

if TYPE_CHECKING:
    from lakeward.history import Bounds
    from lakeward.manifest import Model
    from lakeward.reading import Job, Reading
    from lakeward.stores import LandedFile
    from lakeward.streams import Stream

_ATTEMPTS = 10  # of a feed that keeps losing to another writer


@dataclass(frozen=True)
class Found:
    """What is pending for a stream, by one reading of the ledger (without fences) and one listing.

    error: what could not be listed; the rest may be loaded all the same. outdated: what may leave the models.
    """

    reading: Reading
    files: list[LandedFile]
    error: str | None
    outdated: list[Outdated]


def pending(jobs: Sequence[Job], tools: Tools, *, bounds: Bounds | None = None) -> dict[str, Found]:
    """What a feed of each stream would load now, oldest first. Sets up the ledger, loads nothing."""
    wanted = feedable(jobs)
    set_up(tools.lake, [name for _, names in wanted for name in names])
    readings = read(
        tools.lake, wanted, tools.settings, datetime.now(UTC),
        fences=False, bounds=bounds, history=tools.history,
    )  # fmt: skip
    found = {}
    for stream, _ in jobs:
        files, error = get_files_after_cursor(readings[stream.id], tools.landing, stream)
        names = [state.model for state in readings[stream.id].models]
        gone = outdated(stream, names, tools.lake, tools.landing)
        found[stream.id] = Found(readings[stream.id], files, str(error) if error else None, gone)
    return found


def settled(stream: Stream, found: Found, tools: Tools) -> None:
    """Record that all is well, where the ledger does not know: an error that is over, a full listing.

    Only once everything the listing found is loaded: until then nothing may lean on it.
    """
    for state in found.reading.models:
        if state.totals.error is not None:
            tools.ledger.recover(stream, state.model)
    if found.reading.full_listing_due or (found.files and found.reading.since is None):
        tools.ledger.record_listing(stream)


def is_due(stream: Stream, found: Found) -> bool:
    """Is there anything to feed, or to take out?"""
    return bool(found.outdated) or _has_work(stream, found.reading, found.files)


def _has_work(stream: Stream, reading: Reading, files: Sequence[LandedFile]) -> bool:
    """For dbt, that is. A stream whose fields are known also wants its empty table."""
    wants_table = stream.columns is not None and any(model.is_new_build for model in reading.models)
    return bool(files) or wants_table


def feed(
    stream: Stream,
    models: Sequence[Model],
    tools: Tools,
    found: Found | None = None,
    *,
    beside: bool = False,
) -> FeedReport:
    """Load what is pending, batch by batch, oldest partition first.

    models: all of the stream's. found: what `pending` answered for the stream just now, if it was asked.
    beside: the models are a refresh's tables beside the stream's own. Then everything that landed is looked
    at, and what is loaded says nothing of the stream's own models.
    After `tools.turn` seconds no batch is begun; what is left stays pending.

    Each batch of each model commits its rows and its ledger events in one snapshot, or neither. Another
    writer's commit makes this one read the ledger again and start over. Never raises for what one
    model or file did wrong: that stands in the report, and the rest is loaded.
    Raises LandingError or LakeError when the store or the catalog is away.
    """
    report = FeedReport(stream.id)
    started = datetime.now(UTC)
    try:
        known = _load(stream, models, tools, found, report, beside=beside)
    except LakewardError as error:
        with suppress(LakeError):  # the catalog may be what is away
            for model in models:
                tools.ledger.fail(stream, model.name, str(error))
        raise
    unreached = "; ".join(f"{path}: {why}" for path, why in report.unreachable.items())
    for name, before in known.items():
        text = report.errors.get(name, unreached)
        if text and text != before:  # said once, however often it is tried
            tools.ledger.fail(stream, name, text)
    report.seconds = (datetime.now(UTC) - started).total_seconds()
    return report


def _load(
    stream: Stream,
    models: Sequence[Model],
    tools: Tools,
    found: Found | None,
    report: FeedReport,
    *,
    beside: bool,
) -> dict[str, str | None]:
    """Attempt after attempt; returns the errors that the ledger already knows, by model."""
    fit = {model.name: model for model in models if model.unfit is None}
    report.errors |= {model.name: str(model.unfit) for model in models if model.unfit is not None}
    job, until = (stream, [*fit.values()]), time.monotonic() + tools.turn
    for number in range(_ATTEMPTS):
        found = found or pending([job], tools, bounds={stream.id: None} if beside else None)[stream.id]
        reading = _fenced(job, tools, found)
        if reading.refreshed_by is not None and not beside:
            report.refreshed_by = reading.refreshed_by
            return {}
        try:
            if [state.is_new_build for state in reading.models] != [
                state.is_new_build for state in found.reading.models
            ]:
                raise WriterConflict("a table came or went between two looks")
            files = reading.pending(found.files)
            if _has_work(stream, reading, files):
                with tools.transform() as transform:
                    tag = stream.tag if len(fit) == len(models) and not beside else None
                    Attempt(stream, fit, reading, tools, transform, report, tag=tag).load(files, until)
            break
        except WriterConflict as conflict:
            report.conflicts += 1
            lost, found = conflict.message, None
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**number)))  # noqa: S311 - so that two do not meet again
    if found is None:
        report.errors |= dict.fromkeys(fit, f"gave up after {_ATTEMPTS} attempts: {lost}")
    elif found.error is not None:
        report.errors[stream.id] = found.error
    elif not report.failed and not report.left and not beside:
        for gone in outdated(stream, [*fit], tools.lake, tools.landing):
            with suppress(WriterConflict):  # the next feed does it
                report.replaced[gone.model] = leave(stream, gone, tools.lake, tools.landing)
        settled(stream, found, tools)
    return {state.model: state.totals.error for state in reading.models}


def _fenced(job: Job, tools: Tools, found: Found) -> Reading:
    """Ledger and fences in one reading: what another writer commits after it moves a fence."""
    stream, _ = job
    wanted, bounds = feedable([job]), {stream.id: found.reading.since}
    return read(tools.lake, wanted, tools.settings, datetime.now(UTC), fences=True, bounds=bounds)[stream.id]
