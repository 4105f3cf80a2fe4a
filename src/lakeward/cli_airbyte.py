"""`lakeward airbyte …`: the command line's part that speaks to an Airbyte server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lakeward import console
from lakeward.lake import open_lake
from lakeward.landing import open_landing
from lakeward.project import Project, open_project
from lakeward.settings import find_project, inherited, load_settings

if TYPE_CHECKING:
    from lakeward.airbyte.client import Airbyte
    from lakeward.airbyte.plan import Found, Plan
    from lakeward.lake import Lake

airbyte = typer.Typer(help="An Airbyte server: make it match the repository.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="As in shopify.")]
Prune = Annotated[
    bool,
    typer.Option("--prune", help="Delete connections that lakeward made and no source file has any more."),
]


@airbyte.command("plan")
def airbyte_plan(
    prune: Prune = False,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 2 when there is something to change.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what must change in Airbyte to match the repository; changes nothing."""
    project = open_project(Path.cwd(), parse=False)
    with open_lake(project.settings, read_only=True) as lake, _airbyte(project, lake, prune) as (_, _, plan):
        _show(plan, json=json)
    if plan.problems:
        raise typer.Exit(1)
    if plan.changes and detailed_exitcode:
        raise typer.Exit(2)


@airbyte.command("apply")
def airbyte_apply(prune: Prune = False, json: Json = False) -> None:
    """Make Airbyte match the repository."""
    from lakeward.airbyte.apply import apply

    project = open_project(Path.cwd(), parse=False)
    with open_lake(project.settings) as lake, _airbyte(project, lake, prune) as (server, found, plan):
        assert lake is not None
        if not json:
            _show(plan, json=False)
        done: list[object] = []
        problems = apply(plan.changes, found, server, lake, done.append)
    if json:
        _show(plan, json=True)
    elif done:
        console.out.print(f"{len(done)} changes made")
    for problem in problems:
        console.err.print(escape(problem), soft_wrap=True)
    if plan.problems or problems:
        raise typer.Exit(1)


@airbyte.command("sync")
def airbyte_sync(source: SourceName, json: Json = False) -> None:
    """Have the server sync a source, follow it to its end, and compare what it sent with what has landed."""
    from lakeward.airbyte.apply import connection
    from lakeward.airbyte.client import open_airbyte
    from lakeward.airbyte.jobs import landed, sync

    project = open_project(Path.cwd(), parse=False)
    settings = project.settings
    with open_airbyte(settings) as server, console.err.status(f"syncing {source}") as status:
        with open_lake(settings, read_only=True) as lake:
            found = connection(source, server, lake)
        job = sync(found, server, lambda job: status.update(escape(console.job_line(source, job))))
    streams = [stream for stream in project.streams if stream.source == source]
    with open_lake(settings) as lake:
        assert lake is not None
        rows = landed(job, streams, open_landing(settings), lake)
    if json:
        console.print_json(job | {"rowsLanded": rows})
    else:
        console.out.print(escape(console.job_line(source, job)), soft_wrap=True)
    sent = job.get("rowsSynced")
    if rows is not None and sent is not None and rows != sent:
        console.err.print(f"{source}: the server says it sent {sent:,} records; {rows:,} landed")
        raise typer.Exit(1)


@airbyte.command("discover")
def airbyte_discover(source: SourceName, json: Json = False) -> None:
    """Write down what a source offers, as its connector tells on this machine, for check and to copy from."""
    from lakeward.discovery import discovered_file, offered
    from lakeward.sources import find_source
    from lakeward.sync import alone, open_connector

    settings = load_settings(find_project(Path.cwd()))
    chosen = find_source(settings.project_dir, source)
    with console.err.status(f"asking {source}"), alone(chosen, settings) as folder:
        found = offered(open_connector(chosen, settings, folder, lambda _: None))
    path = discovered_file(settings.project_dir, source)
    path.write_text(console.as_json(found))
    if json:
        console.print_json(found)
    else:
        columns = ("stream", "incremental", "cursor", "key", "fields")
        rows = [
            (
                name,
                "yes" if offer["incremental"] else "no",
                ".".join(offer["cursor_field"] or []),
                ", ".join(".".join(key) for key in offer["primary_key"] or []),
                len(offer["fields"]),
            )
            for name, offer in found.items()
        ]
        console.show(console.table(columns, rows))
        console.out.print(escape(f"written to {path}"), soft_wrap=True)


@contextmanager
def _airbyte(project: Project, lake: Lake | None, prune: bool) -> Iterator[tuple[Airbyte, Found, Plan]]:
    """The server, how it is, and what must change in it."""
    from lakeward.airbyte.apply import find
    from lakeward.airbyte.client import open_airbyte
    from lakeward.airbyte.plan import plan
    from lakeward.airbyte.wanted import wanted
    from lakeward.sources import load_sources, no_sources, selected

    sources, broken = load_sources(project.settings.project_dir)
    if not sources and not broken:
        raise no_sources(project.settings.project_dir)
    jobs = [(source, selected(project.streams, source)) for source in sources]
    with open_airbyte(project.settings) as server:
        with console.err.status("asking Airbyte"):
            aims = wanted(jobs, {**broken, **project.broken_files}, project.settings, inherited())
            server.mask.add(aims.secrets)
            found = find(server, aims, lake)
            made = plan(aims, found, server.workspace, prune=prune)
        yield server, found, made


def _show(plan: Plan, *, json: bool) -> None:
    if json:
        keys = ("sign", "kind", "name", "lines")
        changes = [{key: getattr(change, key) for key in keys} for change in plan.changes]
        console.print_json({"changes": changes, "notes": plan.notes, "problems": plan.problems})
    else:
        for line in console.plan_lines(plan):
            console.out.print(line, soft_wrap=True)
    for problem in plan.problems if not json else []:
        console.err.print(escape(problem), soft_wrap=True)
