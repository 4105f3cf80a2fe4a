"""dbt, in this process: the only module that runs it. Importing it costs about two seconds.

dbt is process-global and not re-entrant (docs.getdbt.com, programmatic invocations): one Transform at
a time per process, and several streams at once are several processes (workers.py).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.artifacts.schemas.results import RunStatus
from dbt.artifacts.schemas.run import RunExecutionResult, RunResult
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest as DbtManifest

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
from lakeward.lake import is_conflict
from lakeward.manifest import manifest_path
from lakeward.plugin import handing_over
from lakeward.settings import Settings

# DuckDB's words for "this value does not fit": the only errors a landed file can be blamed for.
_DATA = re.compile(
    r"(Conversion Error|Out of Range Error|Invalid Input Error|Invalid unicode|Malformed JSON"
    r"|Parquet|Constraint Error)"
)
_MEMORY = re.compile(r"Out of Memory Error|failed to allocate|failed to (pin|offload)", re.IGNORECASE)
_STORE = re.compile(r"IO Error|HTTP Error|HTTPException|Connection Error")


@dataclass(frozen=True)
class ModelResult:
    model: str
    seconds: float
    error: LakewardError | None


class Transform:
    """Runs models of one project. Use as a context manager: leaving closes dbt's connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
        shutil.rmtree(self._scratch, ignore_errors=True)

    def parse(self) -> None:
        """`dbt parse`. Raises TransformError with dbt's words; the last good manifest stays."""
        began = time.time_ns()
        self._invoke(["parse"], own_target=False)
        # dbt leaves the file alone when nothing changed. Its time says up to when changes are in it.
        os.utime(manifest_path(self._settings.project_dir), ns=(began, began))

    def feed(self, tag: str, plans: Mapping[str, Plan], *, whole: bool) -> list[ModelResult]:
        """`dbt run --select tag:{source}__{stream}` on the planned files; one snapshot per model.

        whole False: only the planned models, when another of the stream has stopped.
        """
        selection = [f"tag:{tag}"] if whole else list(plans)
        with handing_over(self._settings, plans):
            return self._run(["--select", *selection], expected=set(plans))

    def run(self, models: Sequence[str], *, full_refresh: bool = False) -> list[ModelResult]:
        """`dbt run --select {models}`, upstream first."""
        flags = ["--full-refresh"] if full_refresh else []
        with handing_over(self._settings, {}):
            return self._run(["--select", *models, *flags], expected=set(models))

    def _run(self, arguments: list[str], *, expected: set[str]) -> list[ModelResult]:
        result = self._invoke(["run", *arguments], own_target=True)
        failed = {item.node.unique_id: item.node.name for item in result if item.status != RunStatus.Success}
        found = [
            ModelResult(
                model=str(item.node.alias),  # type: ignore[union-attr]
                seconds=item.execution_time,
                error=None if item.status == RunStatus.Success else _error_of(item, failed),
            )
            for item in result
        ]
        ran = {item.model for item in found}
        if ran != expected:
            raise NothingSelected(
                f"dbt run {' '.join(arguments[:2])} ran {sorted(ran) or 'no model'}, not {sorted(expected)}",
                hint="check the models' tags, and whether one is disabled; nothing was marked as done",
            )
        return found

    def _invoke(self, arguments: list[str], *, own_target: bool) -> Sequence[RunResult]:
        project = self._settings.project_dir
        flags = ["--project-dir", str(project), "--profiles-dir", str(project), "--log-level", "none"]
        flags += ["--log-level-file", "none", "--no-use-colors", "--no-version-check"]
        if own_target:
            place = str(self._scratch)
            flags += ["--target-path", place, "--log-path", place, "--no-write-json"]
            self._manifest = self._manifest or DbtManifest.from_msgpack(manifest_path(project).read_bytes())
        with _undisturbed():
            done = dbtRunner(manifest=self._manifest if own_target else None).invoke([*arguments, *flags])
        if done.exception is not None:
            raise _as_error(str(done.exception)) from done.exception
        return list(done.result.results) if isinstance(done.result, RunExecutionResult) else []


def _error_of(item: RunResult, failed: Mapping[str, str]) -> LakewardError:
    if item.status == RunStatus.Skipped:
        upstream = [failed[name] for name in item.node.depends_on_nodes if name in failed]
        return TransformError(f"skipped: {', '.join(upstream) or 'something upstream'} failed")
    return _as_error(str(item.message))


def _as_error(message: str) -> LakewardError:
    """What a model's failure means for its files; the text is dbt's, made one line."""
    line = _told(message)
    if is_conflict(message):
        return WriterConflict(line)
    if _MEMORY.search(message):
        return MemoryExceeded(line, hint="raise memory_limit, or lower batch_max_bytes")
    if _STORE.search(message):
        return LandingError(line)
    if _DATA.search(message):
        return DataError(line)
    return TransformError(line)


def _told(message: str) -> str:
    """dbt's line that names the model, then the words behind it, up to SQL excerpts and macro stacks."""
    lines = []
    for line in message.strip().splitlines():
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
