"""The command line: `lakeward --help`. Turns words into use cases and their outcome into exit codes.

0 done; 1 something failed (said on stderr); 2 the user must edit a file or a flag.
What only some commands need they import themselves, so that `status` starts with no more than it uses.
"""

from __future__ import annotations

import importlib.metadata
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from lakeward import console
from lakeward.attaching import attach_statements
from lakeward.cli_airbyte import Json, airbyte
from lakeward.errors import ConfigError, LakewardError, NothingSelected
from lakeward.lake import open_lake
from lakeward.landing import open_landing
from lakeward.ledger import FILE_COLUMNS, Ledger
from lakeward.meta import is_set_up, set_up
from lakeward.project import Project, open_project, open_tools
from lakeward.settings import find_project, load_settings
from lakeward.status import status as read_status
from lakeward.streams import Stream, find_stream

if TYPE_CHECKING:
    from lakeward.attempt import Tools
    from lakeward.rounds import Rest, Round

app = typer.Typer(
    name="lakeward",
    help="Feeds landed Parquet into DuckLake, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
quarantine = typer.Typer(help="Files that could not be loaded.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")
app.add_typer(airbyte, name="airbyte")

StreamArgument = Annotated[str, typer.Argument(metavar="SOURCE/STREAM", help="As in shopify/orders.")]
StreamsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="SOURCE/STREAM", help="Default: every stream.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Keep going until interrupted.")]


def main() -> None:
    """Entry point. The one place that turns errors into a message and an exit code."""
    # systemd and containers stop with SIGTERM: leave as on Ctrl-C, so that the catalog server stops too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # how DuckDB passes Ctrl-C on
            raise
        sys.exit(130)
    except LakewardError as error:
        console.err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        console.out.print(_own_version())
        raise typer.Exit


def _own_version() -> str:
    return importlib.metadata.version("lakeward")


@app.command()
def check(json: Json = False) -> None:
    """Check stream files, models and macros; needs no server and no data."""
    from lakeward.check import check as check_files

    project_dir = find_project(Path.cwd())
    project, parse_error = None, None
    try:
        with console.parsing():
            project = open_project(Path.cwd())
        parse_error = project.parse_error
    except LakewardError as error:
        parse_error = str(error)
    found = check_files(project_dir, project.manifest if project else None, parse_error)
    if json:
        console.print_json({"findings": [asdict(finding) for finding in found]})
    for finding in found if not json else []:
        for line in console.finding_lines(finding):
            console.out.print(escape(line), soft_wrap=True)
    errors = [finding for finding in found if finding.level == "error"]
    if not json:
        streams = len(project.streams) if project else 0
        console.out.print(
            f"{streams} streams checked: {len(errors)} errors, {len(found) - len(errors)} warnings"
        )
    if errors:
        raise typer.Exit(2)


@app.command()
def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also every file the catalog names, and every landed file.")
    ] = False,
    json: Json = False,
) -> None:
    """Look at what the lake stands on: settings, catalog, landing zone, data, clocks. Changes nothing."""
    from lakeward.doctor import doctor as look
    from lakeward.manifest import Manifest

    project_dir, project = find_project(Path.cwd()), None
    with suppress(LakewardError):  # which it will tell itself
        project = open_project(Path.cwd(), parse=False)
    streams, manifest = (project.streams, project.manifest) if project else ([], Manifest(()))
    problems, is_fresh = (project.problems, project.is_fresh) if project else ([], False)
    found = []
    for finding in look(project_dir, streams, manifest, problems=problems, is_fresh=is_fresh, deep=deep):
        found.append(finding)
        for line in console.checkup_lines(finding) if not json else []:
            console.out.print(line, soft_wrap=True)
    if json:
        console.print_json({"findings": [asdict(finding) for finding in found]})
    if any(finding.state == "failed" for finding in found):
        raise typer.Exit(1)


@app.command()
def sync(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE[/STREAM]", help="Default: every source.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Read from the start, as the next generation of each stream.")
    ] = False,
    json: Json = False,
) -> None:
    """Read sources with their Airbyte connectors, on this machine, and land what is new."""
    from lakeward.rounds import sync as sync_sources
    from lakeward.sync import choose

    project = open_project(Path.cwd(), parse=False)
    chosen = choose(project.settings.project_dir, project.streams, project.broken_files, sources)
    with open_tools(project.settings, console.say) as tools:
        outcome = sync_sources(chosen, tools, refresh=refresh)
    outcome.show(json=json)
    if not outcome.good:
        raise typer.Exit(1)


@app.command()
def feed(
    streams: StreamsArgument = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="List everything that landed, not only the newest days.")
    ] = False,
    watch: Watch = False,
    json: Json = False,
) -> None:
    """Load every pending file into its stream's models."""
    from lakeward import rounds

    def once(project: Project, tools: Tools, rest: Rest) -> rounds.Outcome:
        return rounds.feed(_chosen(project, streams), project, tools, rest, reconcile=reconcile)

    _go(once, watch=watch, json=json)


@app.command()
def build(json: Json = False) -> None:
    """Build the enriched models whose upstreams changed since they were built."""
    from lakeward import rounds

    _go(rounds.build, watch=False, json=json)


@app.command()
def run(watch: Watch = False, json: Json = False) -> None:
    """Sync every source, feed every stream, build what changed; watching feeds and builds only."""
    from lakeward import rounds

    _go(rounds.feed_and_build if watch else rounds.sync_feed_and_build, watch=watch, json=json)


@app.command()
def status(json: Json = False) -> None:
    """Show pending files, lag and quarantine per stream; exit 1 when a stream is red."""
    project = open_project(Path.cwd(), parse=False)
    with open_lake(project.settings, read_only=True) as lake:
        landing = open_landing(project.settings)
        found = read_status(
            project.streams,
            project.manifest,
            project.settings,
            landing,
            lake,
            problems=project.problems,
            is_fresh=project.is_fresh,
        )
    if json:
        console.print_json(found.as_json())
    else:
        console.show(console.status_table(found))
        for note in console.status_notes(found):
            console.out.print(escape(note), soft_wrap=True)
        if found.lake_version is not None:
            console.out.print(f"[dim]lake version {found.lake_version}, lakeward {_own_version()}[/]")
        if not found.is_fresh and project.parse_error is None:
            console.out.print("dag/ is newer than its manifest: the next feed parses it (or run dbt parse)")
    if found.is_red:
        raise typer.Exit(1)


@app.command()
def files(stream: StreamArgument, json: Json = False) -> None:
    """List a stream's landed files and what became of each."""
    project = open_project(Path.cwd(), parse=False)
    (chosen,) = _chosen(project, [stream])
    landed = sorted(open_landing(project.settings).list(chosen), key=lambda file: file.path)
    with open_lake(project.settings, read_only=True) as lake:
        rows = Ledger(lake).files(chosen) if lake is not None and is_set_up(lake) else []
    known = {(row["path"], row["etag"]) for row in rows}
    rows += [
        dict.fromkeys(FILE_COLUMNS)
        | {"path": file.path, "etag": file.etag, "status": "pending", "size": file.size}
        for file in landed
        if (file.path, file.etag) not in known
    ]
    _show_records(sorted(rows, key=lambda row: str(row["path"])), json=json)


@quarantine.command("list")
def quarantine_list(stream: StreamsArgument = None, json: Json = False) -> None:
    """List quarantined files and why."""
    project = open_project(Path.cwd(), parse=False)
    with open_lake(project.settings, read_only=True) as lake:
        known = lake is not None and is_set_up(lake)
        rows = [
            row
            for chosen in _chosen(project, stream)
            if lake is not None and known
            for row in Ledger(lake).files(chosen)
            if row["status"] == "quarantined"
        ]
    _show_records(rows, json=json)


@quarantine.command("retry")
def quarantine_retry(
    stream: StreamArgument,
    paths: Annotated[list[str] | None, typer.Argument(help="Default: all of the stream.")] = None,
) -> None:
    """Make quarantined files pending again; the next feed tries them."""
    with _ledger_of(stream) as (_, chosen, ledger):
        released = ledger.release(chosen, paths)
    missing = [path for path in paths or [] if path not in released]
    if missing or not released:
        what = ", ".join(missing) or f"{stream} has no quarantined file"
        raise ConfigError(f"nothing to retry: {what}", hint=f"lakeward quarantine list {stream}")
    for path in released:
        console.out.print(escape(f"{path}: pending again"), soft_wrap=True)


@app.command()
def refresh(stream: StreamArgument, json: Json = False) -> None:
    """Rebuild a stream's models from everything landed and not quarantined."""
    from lakeward.refresh import refresh as refresh_models

    with console.parsing():
        project = open_project(Path.cwd())
    (chosen,) = _chosen(project, [stream])
    models = project.manifest.of_stream(chosen.tag)
    if not models:
        raise NothingSelected(f"{stream} has no model", hint="lakeward check")
    with (
        open_tools(project.settings, console.say) as tools,
        console.err.status(f"rebuilding {', '.join(model.name for model in models)}"),
    ):
        results = refresh_models(chosen, models, tools)
    if json:
        console.print_json({"models": [asdict(result) for result in results]})
    for result in results if not json else []:
        done = f"rebuilt from {result.files:,} files, {result.rows:,} rows"
        told = f"not rebuilt: {result.error}" if result.error else done
        console.out.print(escape(f"{result.model}: {told}"), soft_wrap=True)
    if any(result.error for result in results):
        raise typer.Exit(1)


@app.command()
def replay(
    stream: StreamArgument,
    since: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The first day (UTC) to load again.")],
) -> None:
    """Make a stream's applied files pending again from a day on; the next feed loads them."""
    from lakeward.replay import replay as replay_files

    with _ledger_of(stream) as (project, chosen, ledger):
        count = replay_files(chosen, project.manifest.of_stream(chosen.tag), since.date(), ledger)
    console.out.print(f"{count:,} files pending again; lakeward feed {stream} loads them", soft_wrap=True)


@app.command()
def maintain(json: Json = False) -> None:
    """Take away what killed processes left: old tables, and data files a day old that no snapshot knows."""
    from lakeward.maintenance import maintain as maintain_lake

    project = open_project(Path.cwd(), parse=False)
    with open_lake(project.settings, read_only=True) as lake:
        if lake is None or not is_set_up(lake):  # all that lies below data_url would be nobody's
            raise _empty()
    with open_lake(project.settings) as lake:
        assert lake is not None
        deleted = maintain_lake(project.manifest, lake)
    if json:
        console.print_json({"deleted": deleted})
    else:
        console.out.print(f"{len(deleted):,} files deleted", soft_wrap=True)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Of the web page, on 127.0.0.1.")] = 3000,
) -> None:
    """Run Dagster on the lake: feeds what lands, builds the marts, shows both on a web page."""
    from lakeward.up import up as serve

    def ready(url: str) -> None:
        console.out.print(f"ready: {url}  (Ctrl-C stops it)", soft_wrap=True)

    settings = load_settings(find_project(Path.cwd()))
    console.err.print("starting Dagster")
    try:
        raise typer.Exit(serve(settings, port, ready))
    except KeyboardInterrupt:
        console.err.print("stopped; what was loaded is recorded, the rest is pending")
        raise typer.Exit(130) from None


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help="Any read-only DuckDB SQL.")], json: Json = False
) -> None:
    """Query the lake."""
    project = open_project(Path.cwd(), parse=False)
    with open_lake(project.settings, read_only=True) as lake:
        if lake is None:
            raise _empty()
        is_set_up(lake)  # refuses one of another version
        columns, rows = lake.records(statement)
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if json and twice:
        raise ConfigError(f"two columns are called {twice[0]}", hint="name one of them: … as other")
    if json:
        console.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        console.show(console.table(columns, rows))


@app.command()
def attach() -> None:
    """Print the SQL that attaches the lake, read-only, in another DuckDB; it holds the secrets it needs."""
    settings = load_settings(find_project(Path.cwd()))
    with open_lake(settings, read_only=True) as lake:
        if lake is None:
            raise _empty()
        is_set_up(lake)  # refuses one of another version
        for statement in attach_statements(settings):
            console.out.print(f"{statement};", markup=False, soft_wrap=True)
    if settings.catalog_url is None:
        console.err.print("the embedded catalog answers while a lakeward process runs: lakeward feed --watch")


def _go(once: Round, *, watch: bool, json: bool) -> None:
    from lakeward.rounds import repeat

    try:
        good = repeat(once, watch=watch, json=json)
    except KeyboardInterrupt:
        console.err.print("interrupted; what was loaded is recorded, the rest is pending")
        raise typer.Exit(130) from None
    raise typer.Exit(0 if good else 1)


@contextmanager
def _ledger_of(stream: str) -> Iterator[tuple[Project, Stream, Ledger]]:
    """To write events of one stream without a feed."""
    project = open_project(Path.cwd(), parse=False)
    (chosen,) = _chosen(project, [stream])
    with open_lake(project.settings) as lake:
        assert lake is not None  # only a read-only lake can be absent
        set_up(lake, [])
        yield project, chosen, Ledger(lake)


def _chosen(project: Project, names: list[str] | None) -> list[Stream]:
    """The named streams, or all. Raises ConfigError when there is none: nothing selected is an error."""
    if not project.streams:
        raise ConfigError("the lake has no streams", hint="add dag/streams/{source}/{stream}.json with {}")
    return (
        [find_stream(project.settings.project_dir, project.streams, name) for name in names]
        if names
        else project.streams
    )


def _empty() -> ConfigError:
    return ConfigError("the lake is empty: nothing was ever fed", hint="lakeward feed")


def _show_records(rows: list[dict[str, object]], *, json: bool) -> None:
    if json:
        console.print_json(rows)
    elif rows:
        columns = list(rows[0])
        console.show(console.table(columns, [[row.get(column) for column in columns] for row in rows]))
    else:
        console.out.print("none")
