"""What a lake stands on, looked at piece by piece: settings, versions, catalog, landing zone, data, clocks.

Changes nothing. To learn whether data may be written it writes one object under `data_url` and deletes it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lakeward.attaching import CATALOG_FORMAT, extensions
from lakeward.build import backup_name
from lakeward.errors import LakewardError
from lakeward.lake import open_catalog, open_lake
from lakeward.landing import list_data, open_landing, probe_data
from lakeward.meta import LAKE_VERSION, META, lake_version, relations
from lakeward.settings import load_settings
from lakeward.sql import escape_glob

if TYPE_CHECKING:
    from lakeward.lake import Lake, Query
    from lakeward.manifest import Manifest
    from lakeward.settings import Settings
    from lakeward.streams import Stream

_LIBRARIES = ("duckdb", "dbt-core", "dbt-duckdb", "dagster")
_CLOCK_SECONDS, _CLOCK_REFUSED = 5.0, 600.0  # S3 refuses a request signed a quarter of an hour off
CONNECTIONS = 4  # to Postgres, of one lakeward process at most (tests/functional/test_doctor.py)
_SHOWN = 5


@dataclass(frozen=True)
class Checkup:
    """state: `ok`; `warning`: all works; `failed`: something does not; `skipped`: not to be looked at yet."""

    check: str
    state: Literal["ok", "warning", "failed", "skipped"]
    told: str
    remedy: str | None = None


def doctor(
    project_dir: Path,
    streams: Sequence[Stream],
    manifest: Manifest,
    *,
    problems: Sequence[str],
    is_fresh: bool,
    deep: bool = False,
) -> Iterator[Checkup]:
    """One finding after the other, as each is made; one that fails keeps back only those that need it.

    problems: of the project's files. is_fresh: is the manifest made from them as they are?
    deep: also every file that the catalog names, and every landed file. Costs a listing of both places.
    """
    yield _versions()
    try:
        settings = load_settings(project_dir)
    except LakewardError as error:
        yield _failed("settings", error)
        return
    yield Checkup("settings", "ok", f"{project_dir / 'lakeward.toml'} and LAKEWARD_*")
    if problems:
        yield Checkup("project", "failed", "; ".join(problems), "lakeward check")
    elif not is_fresh:
        yield Checkup("project", "skipped", "dbt has not parsed its files as they are: lakeward check")
    else:
        yield Checkup("project", "ok", f"{len(streams)} streams, {len(manifest.models)} models")
    yield from _tried("extensions", lambda: _extensions(settings))
    yield from _tried("landing zone", lambda: _landing(settings, streams))
    yield from _tried("data", lambda: _data(settings))
    yield from _tried("catalog", lambda: _catalog(settings))
    yield from _tried("lake", lambda: _lake(settings, manifest, streams, deep=deep))


def _tried(check: str, look: Callable[[], Iterator[Checkup]]) -> Iterator[Checkup]:
    try:
        yield from look()
    except LakewardError as error:
        yield _failed(check, error)


def _failed(check: str, error: LakewardError) -> Checkup:
    return Checkup(check, "failed", error.message, error.hint or "mend what it says, and look again")


def _versions() -> Checkup:
    found = [f"lakeward {importlib.metadata.version('lakeward')}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Checkup("versions", "ok", ", ".join(found))


def _extensions(settings: Settings) -> Iterator[Checkup]:
    names = [Path(path).stem for path in extensions(settings)]
    yield Checkup("extensions", "ok", ", ".join(names))


def _landing(settings: Settings, streams: Sequence[Stream]) -> Iterator[Checkup]:
    landing = open_landing(settings)
    for _ in landing.list_partition("raw"):
        break
    empty = [stream.id for stream in streams if next(landing.list(stream), None) is None]
    told = f"{settings.landing_url} can be read; {len(streams) - len(empty)} of {len(streams)} streams landed"
    yield Checkup("landing zone", "ok", told)


def _data(settings: Settings) -> Iterator[Checkup]:
    began = time.time()
    probe = probe_data(settings)
    yield Checkup("data", "ok", f"{settings.data_url} can be written")
    if probe.is_conditional is False:
        yield Checkup(
            "conditional writes", "warning", "the store does not know If-None-Match, or does not heed it",
            "lakeward does without; nothing has to be done",
        )  # fmt: skip
    elif probe.is_conditional:
        yield Checkup("conditional writes", "ok", "the store honours If-None-Match")
    if probe.written_at is not None:
        # A store tells whole seconds.
        yield _clock("the object store's", probe.written_at.timestamp(), began - 1, time.time() + 1)


def _clock(whose: str, told: float, earliest: float, latest: float) -> Checkup:
    off = min(told - earliest, 0) or max(told - latest, 0)
    if abs(off) < _CLOCK_SECONDS:
        return Checkup("clock", "ok", f"agrees with {whose}")
    ahead = "behind" if off > 0 else "ahead of"
    return Checkup(
        "clock",
        "failed" if abs(off) > _CLOCK_REFUSED else "warning",
        f"this machine's is {abs(off):,.0f} s {ahead} {whose}",
        "let NTP set both",
    )


def _catalog(settings: Settings) -> Iterator[Checkup]:
    with open_catalog(settings) as query:
        if query is None:
            yield Checkup("catalog", "skipped", "no lake yet: the first feed makes its Postgres")
            return
        yield from _server(settings, query)


def _server(settings: Settings, query: Query) -> Iterator[Checkup]:
    began = time.time()
    ((version, moment, is_standby, is_reader, may_create, encrypted, most, used, has_catalog),) = query(
        """
        select current_setting('server_version') as version,
            extract(epoch from clock_timestamp())::double precision as moment,
            pg_is_in_recovery() as is_standby,
            current_setting('default_transaction_read_only')::boolean as is_reader,
            coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create,
            (select ssl from pg_stat_ssl where pid = pg_backend_pid()) as encrypted,
            current_setting('max_connections')::integer
                - current_setting('superuser_reserved_connections')::integer as most,
            (select sum(numbackends) from pg_stat_database)::integer as used,
            to_regclass('ducklake_metadata') is not null as has_catalog"""
    )
    told = f"PostgreSQL {version}" + (", with TLS" if encrypted else "")
    if is_standby:
        yield Checkup("catalog", "failed", f"{told}: a standby", "name the primary in catalog_url")
    elif is_reader or not may_create:
        yield Checkup(
            "catalog", "failed", f"{told}: its user may only read",
            "to look is all that it is good for; to feed takes the role lakeward_writer of deploy/roles.sql",
        )  # fmt: skip
    else:
        yield Checkup("catalog", "ok", told)
    yield _clock("the catalog's", moment, began, time.time())
    need = CONNECTIONS * (settings.workers + 1)
    free = f"{used} of {most} connections in use; {settings.workers} workers take {need} at most"
    if most - used < need:
        remedy = "raise max_connections, lower workers, or put a pooler in between"
        yield Checkup("connections", "warning", free, remedy)
    else:
        yield Checkup("connections", "ok", free)
    if has_catalog:
        ((format_,),) = query("select value from ducklake_metadata where key = 'version'")
        if format_ == CATALOG_FORMAT:
            yield Checkup("catalog format", "ok", f"DuckLake {format_}")
        else:
            yield Checkup(
                "catalog format", "failed", f"DuckLake {format_}; this lakeward knows {CATALOG_FORMAT}",
                "install the lakeward that made it, or one that knows both",
            )  # fmt: skip


def _lake(
    settings: Settings, manifest: Manifest, streams: Sequence[Stream], *, deep: bool
) -> Iterator[Checkup]:
    with open_lake(settings, read_only=True) as lake:
        version = lake_version(lake) if lake is not None else None
        if lake is None or version is None:
            yield Checkup("lake", "skipped", "nothing was ever fed")
            return
        if version < LAKE_VERSION:
            yield Checkup(
                "lake", "warning", f"version {version}; this lakeward writes {LAKE_VERSION}",
                "lakeward feed brings it up to date, and older lakewards refuse it from then on",
            )  # fmt: skip
            return
        yield Checkup("lake", "ok", f"version {version}")
        landing = open_landing(settings)
        applied = lake.query(f"select path, etag from {META}.feeder_files where status = 'applied' limit 20")
        landed = next(
            (path for path, etag in applied if (file := landing.head(path)) and file.etag == etag), None
        )
        if landed is not None:  # the listing was obstore's: the two may trust other certificates
            lake.query("from parquet_file_metadata(?)", [escape_glob(landing.url(landed))])
            yield Checkup("reading", "ok", "DuckDB reads what has landed")
        yield _leftovers(manifest, lake)
        if deep:
            yield _named_files(settings, lake)
            yield _landed_files(settings, lake, streams)


def _leftovers(manifest: Manifest, lake: Lake) -> Checkup:
    if not manifest.models:
        return Checkup("leftovers", "skipped", "no model is known here: dbt parse")
    backups = {backup_name(model) for model in manifest.models}
    left = sorted(name for schema, name in relations(lake) if schema == "main" and name in backups)
    if left:
        return Checkup("leftovers", "warning", f"of killed runs: {', '.join(left)}", "lakeward maintain")
    return Checkup("leftovers", "ok", "none")


def _named_files(settings: Settings, lake: Lake) -> Checkup:
    """Every file of every snapshot there is."""
    named = lake.files()
    there = list_data(settings)  # after it: what a feed writes meanwhile is there before it is named
    gone = sorted(path for path in named if path not in there)
    other = sorted(path for path, size in named.items() if there.get(path, size) != size)
    if gone or other:
        told = [f"{len(gone)} of {len(named)} files are not there: {_some(gone)}"] if gone else []
        told += [f"{len(other)} have another size: {_some(other)}"] if other else []
        return Checkup(
            "data files", "failed", "; ".join(told),
            "restore catalog and data of one moment (docs/backing-up.md); or lakeward refresh the streams",
        )  # fmt: skip
    return Checkup("data files", "ok", f"all {len(named)} that the catalog names are there")


def _landed_files(settings: Settings, lake: Lake, streams: Sequence[Stream]) -> Checkup:
    landing = open_landing(settings)
    there = [(stream.id, file.path, file.etag) for stream in streams for file in landing.list(stream)]
    # After it: what a feed loads meanwhile was there before it is known.
    known = set(lake.query(f"select distinct source || '/' || stream, path, etag from {META}.feeder_files"))
    pending = sorted(path for stream, path, etag in there if (stream, path, etag) not in known)
    if pending:
        told = f"{len(pending)} of {len(there)} are not in the ledger: {_some(pending)}"
        return Checkup("landed files", "warning", told, "lakeward feed --reconcile")
    return Checkup("landed files", "ok", f"all {len(there)} are in the ledger")


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
