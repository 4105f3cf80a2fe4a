"""The lake as Dagster definitions. Dagster decides when, the engine what: see docs/running-dagster.md.

Only this package imports Dagster; it is loaded once by the code server and again by every run, so it
imports neither dbt nor anything a run may not need.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from lakeward.definitions.automation import AUTOMATION, NIGHTLY, landing_sensor
from lakeward.definitions.checks import dbt_tests
from lakeward.definitions.enriched import enriched_marts
from lakeward.definitions.feeders import broken_files, feeder
from lakeward.definitions.jobs import jobs
from lakeward.definitions.specs import landed_spec, without_clashes
from lakeward.definitions.syncs import syncs
from lakeward.errors import ConfigError
from lakeward.project import Project, open_project


def build_definitions(folder: str | Path) -> dg.Definitions:
    """All of a lake: feeders, processed and enriched models, their checks, the sensors, jobs and schedules.

    folder: the dbt project (`orchestration/`) or the lake's root. Runs `dbt parse` when the manifest is
    stale, about 4 s; costs a few hundredths otherwise. A stream file or a model that cannot be read takes
    no other down: it becomes an asset that says what is wrong with it.
    """
    project = without_clashes(_open(Path(folder).resolve()))
    feeders = [feeder(stream, project) for stream in project.streams]
    broken = broken_files(project)
    marts, tests = enriched_marts(project), dbt_tests(project)
    sync_jobs, sync_schedules = syncs(project)
    return dg.Definitions(
        assets=[*map(landed_spec, project.streams), *feeders, *broken, *marts],
        asset_checks=tests,
        jobs=[*jobs(project), *sync_jobs],
        schedules=[*([NIGHTLY] if project.streams else []), *sync_schedules],
        sensors=[landing_sensor(project), AUTOMATION],
        executor=dg.in_process_executor,
    )


def _open(folder: Path) -> Project:
    """Also of a project that dbt has never been able to parse: without models, and with its problem."""
    try:
        return open_project(folder)
    except ConfigError:
        return open_project(folder, parse=False)
