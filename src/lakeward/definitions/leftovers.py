"""What a Dagster that has ended has left in its records."""

from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES


def fail_leftovers(home: Path) -> None:
    """Mark the runs as failed whose processes ended with Dagster: while they count as running nobody feeds.

    Call it where nothing of that Dagster can be left. It cannot tell by itself: the server that it would
    ask is gone.
    """
    statuses = [status for status in NOT_FINISHED_STATUSES if status != dg.DagsterRunStatus.QUEUED]
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
            instance.report_run_failed(
                run, "Dagster was stopped before this run ended. Nothing is half done."
            )
