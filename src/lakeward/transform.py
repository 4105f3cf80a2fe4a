"""dbt, in this process: the only module that runs it. Importing it costs about two seconds.

dbt is process-global and not re-entrant (docs.getdbt.com, programmatic invocations): one Transform at
a time per process, and several streams at once are several processes (workers.py).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.artifacts.schemas.results import RunStatus, TestStatus
from dbt.artifacts.schemas.run import RunExecutionResult, RunResult
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest as DbtManifest

from lakeward.complaints import error_kind, is_conflict, went_away, without_statements
from lakeward.errors import (
    DataError,
    LakewardError,
    LandingError,
    MemoryExceeded,
    NothingSelected,
    TransformError,
    WriterConflict,
)
from lakeward.intake import Plan
from lakeward.manifest import manifest_path
from lakeward.plugin import close_catalogs, handing_over
from lakeward.settings import Settings

if TYPE_CHECKING:
    from lakeward.manifest import Model

# How DuckDB begins its errors when the model's SQL or the machine is at fault. All other errors of a batch
# may be one file's; whether they are, only loading it apart from the others shows.
_OF_THE_MODEL = (
    "Binder Error", "Catalog Error", "Dependency Error", "FATAL Error", "INTERNAL Error", "Interrupt Error",
    "Parser Error", "Permission Error", "Syntax Error", "TransactionContext Error",
)  # fmt: skip
_OF_THE_STORE = ("IO Error", "HTTP Error", "Connection Error")


@dataclass(frozen=True)
class ModelResult:
    model: str
    seconds: float
    error: LakewardError | None


@dataclass(frozen=True)
class Tested:
    """One data test. error: what it found, in dbt's words; as a warning where its severity says so."""

    test: str
    error: str | None
    is_warning: bool


class Transform:
    """Runs models of one project. Use as a context manager: leaving closes dbt's connection."""

    def __init__(self, settings: Settings, tables: Mapping[str, str]) -> None:
        """tables: for models, by unique id, whose table is to have another name than theirs."""
        self._settings = settings
        self._tables = tables
        self._manifest: DbtManifest | None = None
        # Two processes writing one target folder would overwrite each other's artifacts.
        self._scratch = settings.state_dir / "dbt" / str(os.getpid())

    def __enter__(self) -> Transform:
        for left in self._scratch.parent.glob("[0-9]*"):
            if not _is_running(int(left.name)):  # it was killed
                shutil.rmtree(left, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        _close_connection()
        close_catalogs()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def parse(self) -> None:
        """`dbt parse`. Raises TransformError with dbt's words; the last good manifest stays."""
        began = time.time_ns()
        self._invoke(["parse"], own_target=False)
        # dbt leaves the file alone when nothing changed. Its time says up to when changes are in it.
        os.utime(manifest_path(self._settings.project_dir), ns=(began, began))

    def feed(
        self, models: Sequence[Model], plans: Mapping[str, Plan], *, tag: str | None
    ) -> list[ModelResult]:
        """Run the models on their planned files; one snapshot per model.

        tag: `shopify__orders` when they are all of the stream's: `dbt run --select tag:{source}__{stream}`.
        """
        with handing_over(self._settings, plans):
            return self._run(models, ["--select", *([f"tag:{tag}"] if tag else _names(models))])

    def run(self, models: Sequence[Model], *, full_refresh: bool = False) -> list[ModelResult]:
        """`dbt run --select {models}`, upstream first."""
        flags = ["--full-refresh"] if full_refresh else []
        with handing_over(self._settings, {}):
            return self._run(models, ["--select", *_names(models), *flags])

    def test(self, nodes: Sequence[str]) -> list[Tested]:
        """`dbt test --select {nodes}`: models or data tests; unit tests are not run."""
        with handing_over(self._settings, {}):
            arguments = ["test", "--select", *nodes, "--exclude-resource-type", "unit_test"]
            results = self._invoke(arguments, own_target=True)
        return [
            Tested(
                item.node.name,
                None if item.status == TestStatus.Pass else _told(str(item.message)),
                is_warning=item.status == TestStatus.Warn,
            )
            for item in results
        ]

    def _run(self, models: Sequence[Model], arguments: list[str]) -> list[ModelResult]:
        """A result for each model; NothingSelected for one that dbt did not run."""
        ran = {item.node.unique_id: item for item in self._invoke(["run", *arguments], own_target=True)}
        failed = {name: item.node.name for name, item in ran.items() if item.status != RunStatus.Success}
        return [self._result(model, ran.get(model.unique_id), failed, arguments) for model in models]

    def _result(
        self, model: Model, item: RunResult | None, failed: Mapping[str, str], arguments: list[str]
    ) -> ModelResult:
        if item is None:
            absent = NothingSelected(
                f"dbt run {' '.join(arguments)} did not run {model.node}",
                hint="check the model's tags; nothing was marked as done",
            )
            return ModelResult(model.name, 0.0, absent)
        error: LakewardError | None = None
        if item.status == RunStatus.Skipped:
            upstream = [failed[name] for name in model.depends_on if name in failed]
            error = TransformError(f"skipped: {', '.join(upstream) or 'something upstream'} failed")
        elif item.status != RunStatus.Success:
            error = _as_error(str(item.message), self._settings.landing_url)
        return ModelResult(model.name, item.execution_time, error)

    def _invoke(self, arguments: list[str], *, own_target: bool) -> Sequence[RunResult]:
        project = self._settings.project_dir
        flags = ["--project-dir", str(project), "--profiles-dir", str(project), "--log-level", "none"]
        flags += ["--log-level-file", "none", "--no-use-colors", "--no-version-check"]
        if own_target:
            place = str(self._scratch)
            flags += ["--target-path", place, "--log-path", place, "--no-write-json"]
            self._manifest = self._manifest or self._read_manifest()
        with _undisturbed():
            done = dbtRunner(manifest=self._manifest if own_target else None).invoke([*arguments, *flags])
        if isinstance(done.exception, KeyboardInterrupt | SystemExit):  # dbt's runner catches these too
            raise done.exception
        if done.exception is not None:
            raise TransformError(_told(str(done.exception))) from done.exception
        return list(done.result.results) if isinstance(done.result, RunExecutionResult) else []

    def _read_manifest(self) -> DbtManifest:
        manifest = DbtManifest.from_msgpack(manifest_path(self._settings.project_dir).read_bytes())
        for unique_id, table in self._tables.items():
            node = manifest.nodes[unique_id]
            node.relation_name = str(node.relation_name).replace(node.alias, table)
            node.alias = table
        return manifest


def _names(models: Sequence[Model]) -> list[str]:
    return [model.node for model in models]


def _as_error(message: str, landing_url: str) -> LakewardError:
    """What a model's failure means for its files. Only DuckDB's own first words count, never the data's."""
    told = _told(message)
    head, _, words = message.strip().partition("\n")
    if not head.startswith(("Runtime Error in", "Compilation Error in", "Database Error in")):
        words = message
    kind = error_kind(words)
    if is_conflict(words):
        return WriterConflict(told)
    if went_away(words):
        return TransformError(
            told, hint="the catalog's Postgres went away: the next feed knows what was done"
        )
    if kind == "Out of Memory Error":
        return MemoryExceeded(told, hint="raise memory_limit, or lower batch_max_bytes")
    if kind in _OF_THE_STORE:
        return LandingError(told) if landing_url in words else TransformError(told)
    if not kind or kind in _OF_THE_MODEL:  # without a kind they are dbt's words, or ours, and no file's fault
        return TransformError(told)
    return DataError(told)


def _told(message: str) -> str:
    """dbt's line that names the model, then the words behind it, up to SQL excerpts and macro stacks."""
    lines = []
    for line in without_statements(message).strip().splitlines():
        if line.strip().startswith(("LINE ", "> in macro", "> called by", "compiled code at")):
            break
        lines.append(line.strip())
    return " ".join(line for line in lines if line)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _undisturbed() -> Iterator[None]:
    """dbt's runner changes the working directory."""
    before = Path.cwd()
    try:
        yield
    finally:
        os.chdir(before)


def _close_connection() -> None:
    """dbt keeps its connection for the life of the process; ours ends with the Transform."""
    environment = DuckDBConnectionManager._ENV
    if environment is not None:
        environment.close()
        DuckDBConnectionManager._ENV = None
