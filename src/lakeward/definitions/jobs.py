"""What a person starts from the UI, and what runs at night; each is a command of the CLI too."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
from pydantic import Field

from lakeward.console import progress_line, report_lines
from lakeward.maintenance import maintain
from lakeward.meta import set_up
from lakeward.project import Project, open_tools
from lakeward.refresh import refresh
from lakeward.replay import replay
from lakeward.streams import Stream, find_stream
from lakeward.workers import feed_all


def jobs(project: Project) -> list[dg.JobDefinition]:
    """`rebuild` and `replay` ask for a stream in a form; `nightly` reconciles and maintains."""
    if not project.streams:
        return []
    known = f"One of {', '.join(stream.id for stream in project.streams)}."

    def find(name: str) -> Stream:
        return find_stream(project.settings.project_dir, project.streams, name)

    class Rebuild(dg.Config):
        stream: str = Field(description=f"Whose models are built anew from everything that landed. {known}")

    class Replay(dg.Config):
        stream: str = Field(description=f"Whose files are loaded once more. {known}")
        since: str = Field(description="The first day to load again, as in 2026-10-01 (UTC).")

    @dg.op(name="refresh", pool="refresh")
    def refresh_stream(context: dg.OpExecutionContext, config: Rebuild) -> None:
        stream = find(config.stream)
        with open_tools(project.settings, lambda done: context.log.info(progress_line(done))) as tools:
            results = refresh(stream, project.manifest.of_stream(stream.tag), tools)
        errors = [f"{result.model}: not rebuilt: {result.error}" for result in results if result.error]
        if errors:
            raise dg.Failure("\n".join(errors), allow_retries=False)

    @dg.op(name="make_pending_again")
    def make_pending_again(context: dg.OpExecutionContext, config: Replay) -> None:
        stream = find(config.stream)
        with open_tools(project.settings, lambda _: None) as tools:
            set_up(tools.lake, [])
            count = replay(
                stream, project.manifest.of_stream(stream.tag), date.fromisoformat(config.since), tools.ledger
            )
        context.log.info(f"{count} files pending again: the landing sensor starts their feed")

    @dg.op(name="reconcile")
    def reconcile(context: dg.OpExecutionContext) -> None:
        with open_tools(project.settings, lambda done: context.log.info(progress_line(done))) as tools:
            reports = list(feed_all(project.manifest.jobs(project.streams), tools, reconcile=True))
            context.log.info(f"{len(maintain(project.manifest, tools.lake))} orphaned files deleted")
        lines = [line for report in reports for line in report_lines(report)]
        if any(report.failed for report in reports):
            raise dg.Failure("\n".join(lines), allow_retries=False)

    example: dict[str, object] = {"stream": project.streams[0].id}
    since = (datetime.now(UTC).date() - timedelta(days=7)).isoformat()

    @dg.job(
        name="rebuild",
        description="Build a stream's models anew: lakeward refresh.",
        config={"ops": {"refresh": {"config": example}}},
    )
    def rebuild_job() -> None:
        refresh_stream()

    @dg.job(
        name="replay",
        description="Load a stream's files from a day on once more: lakeward replay.",
        config={"ops": {"make_pending_again": {"config": example | {"since": since}}}},
    )
    def replay_job() -> None:
        make_pending_again()

    @dg.job(name="nightly", description="List everything that landed, feed what is late; lakeward maintain.")
    def nightly_job() -> None:
        reconcile()

    return [rebuild_job, replay_job, nightly_job]
