"""When: the sensor that looks at the landing zone, and the condition that builds marts."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from lakeward.console import size
from lakeward.definitions.feeders import LAST_BATCH
from lakeward.definitions.specs import feeder_key, model_key
from lakeward.errors import LandingError
from lakeward.feed import Found, is_due, pending, settled
from lakeward.history import History
from lakeward.manifest import Model
from lakeward.project import Project, open_tools
from lakeward.rounds import rest_after
from lakeward.streams import Stream

_STREAM, _PENDING = "lakeward/stream", "lakeward/pending"

_IS = dg.AutomationCondition
_HANDLED = _IS.newly_requested() | _IS.newly_updated()
_READY = (
    (~_IS.any_deps_missing()).with_label("every upstream was fed")
    & (~_IS.any_deps_in_progress()).with_label("no upstream is being fed")
    & ~_IS.in_progress()
)


def when_upstreams_are_fed() -> dg.AutomationCondition[Any]:
    """Once per round of feeds, after the last; at once when new or rewritten; every five minutes once failed.

    Dagster's eager() without its reset at the first evaluation, which keeps it from ever building a new
    mart over models that were fed before it.
    """
    written = (_IS.newly_missing() | _IS.code_version_changed()).with_label(
        "it is new, or its SQL has changed"
    )
    fed = _IS.any_deps_updated().with_label("an upstream was fed")
    again = (_IS.execution_failed() & _IS.cron_tick_passed("*/5 * * * *")).with_label("its last build failed")
    return (written | fed | again).since(_HANDLED) & _READY


def hourly_after_a_feed() -> dg.AutomationCondition[Any]:
    """Of checks that read a whole table: once when new; then after an update, once an hour at most.

    Not by missing(): to Dagster a check is missing after every update of its asset.
    """
    new = _IS.initial_evaluation().since(_HANDLED).with_label("it is new")
    hour = _IS.cron_tick_passed("0 * * * *").since(_HANDLED).with_label("an hour has begun since")
    return (new | (_IS.any_deps_updated().since(_HANDLED) & hour)) & _READY


AUTOMATION = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)


NIGHTLY = dg.ScheduleDefinition(
    name="nightly",
    job_name="nightly",
    cron_schedule="0 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


def landing_sensor(project: Project) -> dg.SensorDefinition:
    """One for all streams: a run for each that has something pending and is not being fed.

    A tick costs seven queries at most, for what has happened since the tick before; a listing per stream
    (only of its newest days once they are large); one query for the unfinished runs, and one for each stream
    that has files pending.
    """
    jobs, history = project.manifest.jobs(project.streams), History()

    @dg.sensor(
        name="landing",
        target=[key for job in jobs for key in _keys(*job)],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Lists the landing zone and starts a feed of every stream that has files pending.",
    )
    def landing(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        for problem in project.problems:
            context.log.error(problem)
        with open_tools(project.settings, lambda _: None, history) as tools:
            found = pending([job for job in jobs if job[1]], tools)
            unfinished = context.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
            busy = {key for run in unfinished for key in run.asset_selection or ()}
            idle = [job for job in jobs if job[0].id in found and feeder_key(job[0]) not in busy]
            due = []
            for stream, models in idle:
                known = found[stream.id]
                if is_due(stream, known):
                    due.append((stream, models, known))
                elif known.error is None:
                    settled(stream, known, tools)
        asked = [_request(*job) for job in due]
        requests = [request for request in asked if _has_rested(request, context.instance)]
        errors = [known.error for known in found.values() if known.error is not None]
        for error in errors:
            context.log.error(error)
        if errors and not requests:
            raise LandingError("; ".join(dict.fromkeys(errors)))
        said = _said(due, len(requests), len(jobs))
        if requests:
            context.log.info(said)
        batches = {
            model_key(state.model): state.totals.last_batch.isoformat()
            for stream, _ in idle
            for state in found[stream.id].reading.models
            if state.totals.last_batch is not None
        }
        digest = _digest(f"{key.to_user_string()} {at}" for key, at in batches.items())
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(said),
            asset_events=[] if digest == context.cursor else [*_fed_elsewhere(batches, context.instance)],
            cursor=digest,
        )

    return landing


def _keys(stream: Stream, models: Sequence[Model]) -> list[dg.AssetKey]:
    return [feeder_key(stream), *(model_key(model.name) for model in models)]


def _request(stream: Stream, models: Sequence[Model], known: Found) -> dg.RunRequest:
    """No run key: Dagster would never start a second run of the same one, also when the first has failed."""
    return dg.RunRequest(
        asset_selection=_keys(stream, models),
        asset_check_keys=[dg.AssetCheckKey(feeder_key(stream), "quarantine")],
        tags={
            _STREAM: stream.id,
            _PENDING: _digest(f"{file.path} {file.etag}" for file in known.files),
            "lakeward/files": str(len(known.files)),
            "lakeward/bytes": size(sum(file.size for file in known.files)),
        },
    )


def _has_rested(request: dg.RunRequest, instance: dg.DagsterInstance) -> bool:
    """A feed that failed rests as the command line's do, or until another file is pending."""
    failures, last = 0, 0.0
    of_stream = dg.RunsFilter(tags={_STREAM: request.tags[_STREAM]})
    for record in instance.get_run_records(of_stream, limit=8):
        run = record.dagster_run
        if run.status == dg.DagsterRunStatus.SUCCESS or run.tags.get(_PENDING) != request.tags[_PENDING]:
            break
        failures, last = failures + 1, max(last, record.end_time or 0.0)
    return time.time() >= last + rest_after(failures)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _said(due: Sequence[tuple[Stream, Sequence[Model], Found]], started: int, streams: int) -> str:
    files = [file for _, _, known in due for file in known.files]
    if not due:
        return f"nothing pending in {streams} streams"
    said = f"{len(files)} files, {size(sum(file.size for file in files))} pending in {len(due)} streams"
    resting = len(due) - started
    return f"{said}; {started} feeds started" + (f", {resting} rest after a failure" if resting else "")


def _fed_elsewhere(
    batches: dict[dg.AssetKey, str], instance: dg.DagsterInstance
) -> Iterator[dg.AssetMaterialization]:
    """What the command line has loaded beside Dagster, so that the marts on it are built here as well.

    Costs a query for all, and some milliseconds per model.
    """
    known_of = {
        record.asset_entry.asset_key: record.asset_entry.last_materialization_record
        for record in instance.get_asset_records([*batches])
    }
    for key, at in batches.items():
        last = known_of.get(key)
        event = last.asset_materialization if last is not None else None
        if event is None or event.metadata.get(LAST_BATCH) != dg.TextMetadataValue(at):
            yield dg.AssetMaterialization(key, description="fed beside Dagster", metadata={LAST_BATCH: at})
