"""When: the sensor that looks at the landing zone, and the condition that builds marts."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from lakeward.console import size
from lakeward.definitions.feeders import LAST_BATCH
from lakeward.definitions.specs import feeder_key, model_key
from lakeward.errors import LandingError
from lakeward.feed import Found, is_due, pending, settled
from lakeward.manifest import Model
from lakeward.project import Project, open_tools
from lakeward.streams import Stream

_STREAM, _PENDING = "lakeward/stream", "lakeward/pending"
_REST_SECONDS, _REST_SECONDS_AT_MOST = 10, 600

_HANDLED = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()


def when_upstreams_are_fed() -> dg.AutomationCondition[Any]:
    """Once per round of feeds, after the last; at once when new; and every five minutes after a failure.

    Dagster's eager() without its reset at the first evaluation, which keeps it from ever building a new
    mart over models that were fed before it.
    """
    condition = dg.AutomationCondition
    updated = (condition.newly_missing() | condition.any_deps_updated()).with_label(
        "new, or an upstream was fed"
    )
    again = condition.execution_failed() & condition.cron_tick_passed("*/5 * * * *")
    return (
        (updated.with_label("new, or an upstream was fed") | again.with_label("its last build failed")).since(
            _HANDLED
        )
        & (~condition.any_deps_missing()).with_label("every upstream was fed")
        & (~condition.any_deps_in_progress()).with_label("no upstream is being fed")
        & ~condition.in_progress()
    )


def hourly_after_a_feed() -> dg.AutomationCondition[Any]:
    """Of checks that read a whole table: after an update, once an hour at most."""
    condition = dg.AutomationCondition
    hour = condition.missing() | condition.cron_tick_passed("0 * * * *").since(_HANDLED)
    return (
        condition.any_deps_updated().since(_HANDLED)
        & hour.with_label("an hour has begun since")
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    )


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

    A tick costs one reading of the ledger (four queries), one listing per stream (only of its newest days
    once it is large), one query for the unfinished runs, and one for each stream that has files pending.
    """
    jobs = [(stream, project.manifest.of_stream(stream.tag)) for stream in project.streams]

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
        with open_tools(project.settings, lambda _: None) as tools:
            found = pending([job for job in jobs if job[1]], tools)
            unfinished = context.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
            busy = {key for run in unfinished for key in run.asset_selection or ()}
            idle = [job for job in jobs if job[0].id in found and feeder_key(job[0]) not in busy]
            due = []
            for stream, models in idle:
                known = found[stream.id]
                if is_due(stream, known.reading, known.files):
                    due.append((stream, models, known))
                elif known.error is None:
                    settled(stream, known, tools)
        requests = [_request(*job) for job in due if _has_rested(*job, context.instance)]
        errors = [known.error for known in found.values() if known.error is not None]
        for error in errors:
            context.log.error(error)
        if errors and not requests:
            raise LandingError("; ".join(dict.fromkeys(errors)))
        said = _said(due, len(requests), len(jobs))
        context.log.info(said)
        told: dict[str, str] = json.loads(context.cursor or "{}")
        events = [event for job in idle for event in _fed_elsewhere(*job, found[job[0].id], told, context)]
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(said),
            asset_events=events,
            cursor=json.dumps(told),
        )

    return landing


def _keys(stream: Stream, models: Sequence[Model]) -> list[dg.AssetKey]:
    return [feeder_key(stream), *map(model_key, models)]


def _request(stream: Stream, models: Sequence[Model], known: Found) -> dg.RunRequest:
    """No run key: Dagster would never start a second run of the same one, also when the first has failed."""
    return dg.RunRequest(
        asset_selection=_keys(stream, models),
        asset_check_keys=[dg.AssetCheckKey(feeder_key(stream), "quarantine")],
        tags={
            _STREAM: stream.id,
            _PENDING: _task(known),
            "lakeward/files": str(len(known.files)),
            "lakeward/bytes": size(sum(file.size for file in known.files)),
        },
    )


def _has_rested(stream: Stream, _: Sequence[Model], known: Found, instance: dg.DagsterInstance) -> bool:
    """Who failed waits 10 seconds, twice as long each time, at most ten minutes, or until a file comes."""
    failures, last = 0, 0.0
    for record in instance.get_run_records(dg.RunsFilter(tags={_STREAM: stream.id}), limit=8):
        is_same = record.dagster_run.tags.get(_PENDING) == _task(known)
        if record.dagster_run.status == dg.DagsterRunStatus.SUCCESS or not is_same:
            break
        failures, last = failures + 1, max(last, record.end_time or 0.0)
    rest = min(_REST_SECONDS * 2 ** (failures - 1), _REST_SECONDS_AT_MOST) if failures else 0
    return time.time() >= last + rest


def _task(known: Found) -> str:
    """Equal as long as the same files are pending."""
    names = sorted(f"{file.path} {file.etag}" for file in known.files)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _said(due: Sequence[tuple[Stream, Sequence[Model], Found]], started: int, streams: int) -> str:
    files = [file for _, _, known in due for file in known.files]
    if not due:
        return f"nothing pending in {streams} streams"
    said = f"{len(files)} files, {size(sum(file.size for file in files))} pending in {len(due)} streams"
    resting = len(due) - started
    return f"{said}; {started} feeds started" + (f", {resting} rest after a failure" if resting else "")


def _fed_elsewhere(
    stream: Stream,
    models: Sequence[Model],
    known: Found,
    told: dict[str, str],
    context: dg.SensorEvaluationContext,
) -> Iterator[dg.AssetMaterialization]:
    """What the command line has loaded beside Dagster, so that the marts on it are built here as well.

    told: by model, the batch that Dagster knows of; brought up to date.
    """
    batches = {state.model: state.totals.last_batch for state in known.reading.models}
    news = {name: at.isoformat() for name, at in batches.items() if at and told.get(name) != at.isoformat()}
    keys = {name: dg.AssetKey(name) for name in news}
    known_of = {
        record.asset_entry.asset_key: record.asset_entry.last_materialization_record
        for record in context.instance.get_asset_records([*keys.values()])
    }
    for name, at in news.items():
        last = known_of.get(keys[name])
        event = last.asset_materialization if last is not None else None
        if event is None or event.metadata.get(LAST_BATCH) != dg.TextMetadataValue(at):
            yield dg.AssetMaterialization(
                keys[name], description="fed beside Dagster", metadata={LAST_BATCH: at}
            )
        told[name] = at
