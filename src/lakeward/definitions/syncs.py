"""Sources that no Airbyte server reads: a job each, and its schedule."""

import dagster as dg

from lakeward.console import sync_lines
from lakeward.definitions.specs import landed_key
from lakeward.project import Project, open_tools
from lakeward.sources import Source, load_sources, selected
from lakeward.sync import Job, sync


def syncs(project: Project) -> tuple[list[dg.JobDefinition], list[dg.ScheduleDefinition]]:
    """None where an Airbyte server is set. A source that cannot be read is told by `lakeward sync`."""
    if project.settings.airbyte_url is not None:
        return [], []
    sources, _ = load_sources(project.settings.project_dir)
    jobs = {source.name: _job(source, project) for source in sources if selected(project.streams, source)}
    schedules = [
        dg.ScheduleDefinition(
            name=f"sync_{source.name}",
            job=jobs[source.name],
            cron_schedule=source.config.schedule,
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
        for source in sources
        if source.name in jobs and source.config.schedule is not None
    ]
    return list(jobs.values()), schedules


def _job(source: Source, project: Project) -> dg.JobDefinition:
    streams = selected(project.streams, source)

    @dg.op(name=f"read_{source.name}", pool=f"sync_{source.name}")
    def read(context: dg.OpExecutionContext) -> None:
        with open_tools(project.settings, lambda _: None) as tools:
            report = sync(
                Job(source, streams, is_whole=True),
                settings=project.settings, lake=tools.lake, landing=tools.landing,
                note=context.log.debug, say=context.log.info, progress=context.log.debug,
            )  # fmt: skip
        landed_keys = {stream.id: landed_key(stream) for stream in streams}
        for told in report.streams:
            if told.files:
                numbers = {"records": told.records, "files": told.files, "bytes": told.bytes}
                context.log_event(dg.AssetMaterialization(landed_keys[told.stream], metadata=numbers))
        lines = sync_lines(report)
        if report.failed:
            raise dg.Failure("\n".join(lines), allow_retries=False)

    @dg.job(name=f"sync_{source.name}", description=f"Read {source.name}: lakeward sync {source.name}.")
    def job() -> None:
        read()

    return job
