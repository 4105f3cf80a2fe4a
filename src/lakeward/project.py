"""The composition root: from a folder to the collaborators that the use cases want. Decides nothing."""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.attaching import Connection
from lakeward.errors import ConfigError, LakewardError
from lakeward.lake import open_lake
from lakeward.landing import open_landing
from lakeward.manifest import Manifest, is_fresh, last_change, read_manifest
from lakeward.settings import Settings, find_project, load_settings
from lakeward.streams import Stream, load_streams

if TYPE_CHECKING:
    from lakeward.attempt import Progress, Tools
    from lakeward.history import History
    from lakeward.transform import Transform


@dataclass(frozen=True)
class Project:
    """What the files say, and what is wrong with those that say nothing usable: each stops only itself."""

    settings: Settings
    streams: list[Stream]
    manifest: Manifest
    is_fresh: bool  # is it made from the files as they were when the project was opened?
    parse_error: str | None = None
    broken_files: Mapping[Path, ConfigError] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        parsing = [f"the project does not parse: {self.parse_error}"] if self.parse_error else []
        return [*map(str, self.broken_files.values()), *parsing]


def open_project(start: Path, *, parse: bool = True) -> Project:
    """Reads files only. parse: when the manifest is stale, runs `dbt parse` first (about 4 s).

    A project that no longer parses keeps its last good manifest: the other streams go on, and
    `problems` names the offender. Raises ConfigError when there has never been a good one.
    """
    settings = load_settings(find_project(start))
    streams, errors = load_streams(settings.project_dir)
    fresh = is_fresh(settings.project_dir)
    manifest = _read(settings) if fresh or not parse else None
    problem = None if fresh or parse else _known_problem(settings)
    if manifest is None and parse:
        problem = _parse(settings)
        manifest = _read(settings)
        if manifest is None:
            raise ConfigError(problem or "dbt parse left no manifest", hint="dbt parse shows more")
    manifest = manifest or Manifest(())
    made = problem is None if parse else fresh
    return Project(settings, streams, manifest, made, problem, errors)


def _parse(settings: Settings) -> str | None:
    """`dbt parse`; why it failed, which is kept for commands that only look."""
    kept = _problem_file(settings)
    began = time.time_ns()
    try:
        with open_transform(settings) as transform:
            transform.parse()
    except LakewardError as error:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(str(error))
        os.utime(kept, ns=(began, began))
        return str(error)
    kept.unlink(missing_ok=True)
    return None


def _known_problem(settings: Settings) -> str | None:
    """Why the last `dbt parse` failed, if nothing has changed since."""
    kept = _problem_file(settings)
    if kept.is_file() and kept.stat().st_mtime_ns >= last_change(settings.project_dir):
        return kept.read_text()
    return None


def _problem_file(settings: Settings) -> Path:
    return settings.state_dir / "parse_error.txt"


def _read(settings: Settings) -> Manifest | None:
    """None also for one that cannot be read: dbt writes it in place, and may be killed half-way."""
    try:
        return read_manifest(settings.project_dir)
    except ConfigError:
        return None


def connect_read_only(start: Path) -> Connection:
    """For notebooks: the lake stays open, and the embedded catalog up, until the process ends."""
    settings = load_settings(find_project(start))
    opened = ExitStack()
    lake = opened.enter_context(open_lake(settings, read_only=True))
    if lake is None:
        raise ConfigError("the lake is empty: nothing was ever fed", hint="lakeward feed")
    atexit.register(opened.close)
    return lake.con


@contextmanager
def open_transform(settings: Settings, tables: Mapping[str, str] | None = None) -> Iterator[Transform]:
    from lakeward.transform import Transform  # two seconds of imports: only when there is work

    with Transform(settings, tables or {}) as transform:
        yield transform


@contextmanager
def open_tools(
    settings: Settings,
    say: Callable[[Progress], None],
    history: History | None = None,
    *,
    turn: float = math.inf,
) -> Iterator[Tools]:
    """The collaborators of one feeding process; the lake is open until the end.

    history: what the process knows of the same lake from an earlier time. turn: `Tools.turn`.
    """
    from lakeward.attempt import Tools  # commands that only look do without
    from lakeward.history import History
    from lakeward.ledger import Ledger

    landing = open_landing(settings)
    with open_lake(settings) as lake:
        assert lake is not None  # only a read-only lake can be absent
        yield Tools(
            settings=settings,
            lake=lake,
            landing=landing,
            ledger=Ledger(lake),
            transform=partial(open_transform, settings),
            say=say,
            history=history or History(),
            turn=turn,
        )
