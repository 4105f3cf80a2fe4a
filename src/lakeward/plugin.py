"""dbt's door into lakeward: profiles.yml names this module, macros/lakeward.sql asks it for plans.

`configure_connection` prepares dbt's DuckDB connection; `store`, the one call of the plugin API a
macro can make (`adapter.store_relation`), answers what a model run reads. Works the same under plain
dbt and under the feeder, which hands over the plans it has already made.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.events.logging import AdapterLogger
from dbt.flags import get_flags
from dbt_common.exceptions import DbtRuntimeError

from lakeward.announcement import announced
from lakeward.attaching import StoreSecrets, prepare
from lakeward.complaints import translated
from lakeward.errors import ConfigError, LakewardError, LandingError, WriterConflict
from lakeward.intake import (
    CONTROL,
    Plan,
    get_files_after_cursor,
    inspect,
    known_columns,
    record_new_columns,
    render,
    shape_for,
)
from lakeward.lake import Lake
from lakeward.landing import Landing, open_landing
from lakeward.ledger import Ledger
from lakeward.manifest import packaged_macros
from lakeward.meta import set_up
from lakeward.reading import Reading, read
from lakeward.schemas import compatible, grouped, narrowed, readable_together
from lakeward.settings import Settings, load_settings
from lakeward.sql import escape_glob, quote_list
from lakeward.stores import LandedFile
from lakeward.streams import Stream, stream_of_tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb
    from dbt.adapters.duckdb.utils import TargetConfig

    from lakeward.embedded import EmbeddedCatalog

# The plan as SQL sees it, in dbt's own in-memory database: the post-hook inserts from it.
_PLANNED = "memory.main.lakeward_planned"
_PLANNED_COLUMNS = {
    "path": "varchar",
    "etag": "varchar",
    "size": "bigint",
    "partition_date": "date",
    "generation": "bigint",
    "rows": "bigint",
    "extracted_at": "timestamptz",
    "nulled": "bigint",
}
_PLANNED_ROW = json.dumps(_PLANNED_COLUMNS)


@dataclass
class Handover:
    """What the process that runs dbt for us gives its plugin, so nothing is read or listed twice."""

    settings: Settings
    plans: Mapping[str, Plan] = field(default_factory=dict)


_log = AdapterLogger("lakeward")
_handover: Handover | None = None
_catalogs: list[EmbeddedCatalog] = []


@contextmanager
def handing_over(settings: Settings, plans: Mapping[str, Plan]) -> Iterator[None]:
    """dbt is process-global and not re-entrant, so this is too."""
    global _handover  # noqa: PLW0603 - dbt creates the plugin itself; there is no other way in
    _handover = Handover(settings, plans)
    try:
        yield
    finally:
        _handover = None


def close_catalogs() -> None:
    """Call it after dbt's connections are closed; plain dbt comes here when its process ends."""
    while _catalogs:
        _catalogs.pop().close()


@cache
def _close_at_exit() -> None:
    atexit.register(close_catalogs)


class Plugin(BasePlugin):
    _con: duckdb.DuckDBPyConnection
    _settings: Settings

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        self._plans: dict[tuple[str, str], Plan] = {}  # by invocation and model
        self._rendered: set[tuple[str, str]] = set()
        self._announcement = ExitStack()
        with _as_dbt_error():
            # Not the working directory: `dbt --project-dir X` may be called from anywhere.
            self._settings = (
                _handover.settings if _handover else load_settings(Path(get_flags().PROJECT_DIR))  # type: ignore[no-untyped-call]
            )
            _expect_own_macros(self._settings.project_dir)

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        self._con = conn
        with _as_dbt_error(), translated():
            catalog = prepare(conn, self._settings)
            self._secrets = StoreSecrets(self._settings)
        if catalog is not None:
            _catalogs.append(catalog)
            _close_at_exit()
        columns = ", ".join(f"{name} {kind}" for name, kind in _PLANNED_COLUMNS.items())
        conn.execute(f"create or replace table {_PLANNED} (invocation varchar, model varchar, {columns})")

    def store(self, target_config: TargetConfig) -> None:
        """Fill `config['answer']`, a dict of the calling macro's, for the request beside it."""
        request = target_config.config
        with _as_dbt_error():
            self._secrets.renew(self._con)
            if request.get("bootstrap"):  # of a mart: the processed models before it have committed
                self._announcement.close()
                set_up(Lake(self._con.cursor()), [])
                return
            if convert := request.get("convert"):
                request["answer"]["narrowed"] = narrowed(convert["given"], convert["wanted"])
                return
            landing = open_landing(self._settings)
            if request.get("verify"):
                _verify(self._plans[request["invocation_id"], request["model"]], landing)
                return
            stream = stream_of_tag(self._settings.project_dir, request["tag"])
            if not request["runs"]:
                pattern = f"{escape_glob(landing.url(stream.root))}**/*.parquet*"
                request["answer"]["files"] = f"{quote_list([pattern])}, union_by_name=true"
                return
            plan = self._plan(request, stream, landing)
            request["answer"] |= {
                "files": render(plan, landing),
                "rendered": (request["invocation_id"], request["model"]) in self._rendered,
                "fence": plan.fence,
                "build": plan.build,
                "is_new_build": plan.is_new_build,
                "batch_id": plan.batch_id,
                "source": stream.source,
                "stream": stream.name,
                "paths": [item.file.path for item in plan.files],
                "control": CONTROL if plan.is_control else None,
            }

    def _plan(self, request: dict[str, Any], stream: Stream, landing: Landing) -> Plan:
        key = (request["invocation_id"], request["model"])
        if key not in self._plans:
            self._announcement.close()  # of the model before, which has committed by now
            if request["full_refresh"] and not _handover:
                # Before the ledger is read: a long statement must not lose to feeders that go on meanwhile.
                self._announcement.enter_context(announced(stream, self._settings))
                atexit.register(self._announcement.close)  # of the last model there is no later plan
            handed = _handover.plans.get(request["model"]) if _handover else None
            self._plans[key] = handed or self._make_plan(request, stream, landing)
            self._stash(*key, self._plans[key])
        if request["rendered"]:
            self._rendered.add(key)
        return self._plans[key]

    def _make_plan(self, request: dict[str, Any], stream: Stream, landing: Landing) -> Plan:
        """Plain dbt: given files, or everything (full refresh), or what is pending."""
        lake = Lake(self._con.cursor())
        ledger = Ledger(lake)
        model = request["model"]
        set_up(lake, [model])
        chosen = request["full_refresh"] or request["given"] is not None  # also files before the cursor
        bounds = {stream.id: None} if chosen else None
        reading = read(
            lake, [(stream, [model])], self._settings, datetime.now(UTC), fences=True, bounds=bounds
        )[stream.id]
        (state,) = reading.models
        if request["full_refresh"]:
            listed = sorted(landing.list(stream), key=lambda file: file.path)
            files = [file for file in listed if (file.path, file.etag) not in state.quarantined]
        elif request["given"] is not None:
            files = _given(request["given"], stream, landing, reading)
        else:
            files, trouble = get_files_after_cursor(reading, landing, stream)
            if trouble is not None:
                raise trouble
        found = inspect(lake, landing, files)
        _log.info(f"{model}: {len(found.readable)} files to load")
        for file, reason in found.unreadable:
            _log.warning(f"{model}: quarantined {file.path}: {reason}")
            ledger.quarantine(stream, state, file, reason)
        for file, reason in found.unreachable:
            raise LandingError(f"{file.path}: {reason}", hint="it stays pending")
        group: dict[str, str] = {}
        for item in found.readable:
            if readable_together([group], item.columns) is None:
                raise _mixed(stream, item.file, group, item.columns)
            group = grouped(group, item.columns)
        known = known_columns(ledger, stream)
        record_new_columns(ledger, stream, known, found.readable)
        if not known.types:
            raise ConfigError(
                f"nothing has landed yet for {stream.id} (looked in {landing.url(stream.root)})",
                hint=f'sync it first, or name its "fields" with types in {stream.path.name}',
            )
        is_new = state.is_new_build or request["full_refresh"]
        return Plan(
            stream=stream,
            model=model,
            build=state.build + (request["full_refresh"] and not state.is_new_build),
            is_new_build=is_new,
            fence=state.fence,
            files=found.readable,
            batch_id=request["invocation_id"],
            shape=shape_for(lake, landing, known, found.readable),
        )

    def _stash(self, invocation: str, model: str, plan: Plan) -> None:
        """One JSON parameter: binding row by row took seconds for a thousand files."""
        rows = [
            {
                "path": item.file.path,
                "etag": item.file.etag,
                "size": item.file.size,
                "partition_date": item.file.partition,
                "generation": item.generation,
                "rows": item.rows,
                "extracted_at": item.extracted_at,
                "nulled": item.nulled,
            }
            for item in plan.files
        ]
        self._con.cursor().execute(
            f"insert into {_PLANNED} select ?, ?, row.* "
            f"from (select unnest(from_json(?, '[{_PLANNED_ROW}]')) as row)",
            [invocation, model, json.dumps(rows, default=str)],
        )


def _expect_own_macros(project_dir: Path) -> None:
    """Fence and ledger are written by the lake's copy of the macros: another version's may not match."""
    own, packaged = project_dir / "macros" / "lakeward.sql", packaged_macros()
    if not own.is_file() or own.read_bytes() != packaged.read_bytes():
        raise ConfigError(f"{own} is not the installed lakeward's", hint=f"cp {packaged} {own}")


def _verify(plan: Plan, landing: Landing) -> None:
    """Raise a conflict when a file is no longer what was listed: nobody knows which of the two was read.

    One listing request per partition of the plan. A file that is gone by now was read before.
    """
    planned = {item.file.path: item.file.etag for item in plan.files}
    for partition in {path.rpartition("/")[0] for path in planned}:
        try:
            found: list[LandedFile | None] = [*landing.list_partition(partition)]
        except LandingError:  # something else in there cannot be listed: a request per file, then
            found = [landing.head(path) for path in planned if path.rpartition("/")[0] == partition]
        for file in found:
            if file is not None and planned.get(file.path, file.etag) != file.etag:
                raise WriterConflict(f"lakeward: fence moved: {file.path} was rewritten while it was read")


def _given(paths: object, stream: Stream, landing: Landing, reading: Reading) -> list[LandedFile]:
    """Files typed by hand, as in `--vars '{"files": [...]}'`: resolved by the same discovery."""
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ConfigError('"files" is not a list of paths', hint="""write --vars '{"files": ["..."]}'""")
    found = []
    for given in paths:
        path = landing.relative(given)
        if path is None or not path.startswith(stream.root) or normpath(path) != path or "\0" in path:
            raise ConfigError(
                f"{given} does not belong to {stream.id}",
                hint=f"write it as `lakeward files {stream.id}` does; they lie in {landing.url(stream.root)}",
            )
        file = landing.head(path)
        if file is None:
            raise ConfigError(f"{given}: no such landed file", hint=f"lakeward files {stream.id}")
        found.append(file)
    return reading.pending(found)


def _mixed(
    stream: Stream, file: LandedFile, group: dict[str, str], columns: tuple[tuple[str, str], ...]
) -> ConfigError:
    name, kind = next(
        (name, kind)
        for name, kind in columns
        if name.lower() in group and not compatible(group[name.lower()], kind)
    )
    return ConfigError(
        f'{file.path}: column "{name}" is {kind}, in the files before it {group[name.lower()]}: '
        "one statement cannot read both",
        hint=f"lakeward feed {stream.id} and lakeward refresh {stream.id} load them in groups",
    )


@contextmanager
def _as_dbt_error() -> Iterator[None]:
    """dbt prints three clean lines for its own error and a hundred of traceback for any other."""
    try:
        yield
    except LakewardError as error:
        raise DbtRuntimeError(str(error)) from error
