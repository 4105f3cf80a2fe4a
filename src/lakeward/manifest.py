"""What dbt knows of the project, read from `target/partial_parse.msgpack` without importing dbt.

Importing dbt costs about two seconds, reading this file a few hundredths: `status` and a feed with
nothing to do stay fast. dbt writes the file at every parse (`dbt parse`, the seed's step 4).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from lakeward.errors import ConfigError

if TYPE_CHECKING:
    from lakeward.streams import Stream

_INPUTS = ("dag", "macros", "dbt_project.yml", "profiles.yml", "packages.yml")


@dataclass(frozen=True)
class Unfit:
    """Why a model cannot be fed. As text: one line, the remedy in a second."""

    model: str
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.model} {self.what}: {self.why}\n  {self.remedy}"


@dataclass(frozen=True)
class Model:
    """One dbt model. `name` is its table's name in `lakehouse.main`, `node` is dbt's for it in `--select`."""

    name: str
    node: str
    unique_id: str
    path: str
    schema: str
    tags: tuple[str, ...]
    materialized: str
    unique_key: tuple[str, ...]
    strategy: str | None
    depends_on: tuple[str, ...]
    full_refresh: bool | None
    hooks: str
    code: str  # dbt's checksum of the SQL file
    raw_code: str
    description: str
    columns: tuple[tuple[str, str | None, str], ...]  # documented ones: name, data_type if given, description
    owners: tuple[str, ...]

    @property
    def stream_tags(self) -> tuple[str, ...]:
        """`shopify__orders`: the tags that name a stream. A processed model has exactly one."""
        return tuple(tag for tag in self.tags if "__" in tag)

    @property
    def unfit(self) -> Unfit | None:
        """Why no batch can be loaded into it without losing or doubling rows; None when all is well.

        The macros refuse the same under plain dbt.
        """
        replaced = "every batch would replace the table by its own rows"
        if self.materialized != "incremental":
            what = f"is materialized as {self.materialized}"
            return Unfit(self.name, what, replaced, "materialized='incremental'")
        if self.full_refresh:
            return Unfit(self.name, "has full_refresh=true", replaced, "remove full_refresh=true")
        if "lakeward_begin()" not in self.hooks or "lakeward_applied()" not in self.hooks:
            what = "has a stream's tag, but runs without lakeward's hooks"
            remedy = "move it to dag/processed/, or take the tag away"
            return Unfit(self.name, what, "what it loads would not be recorded", remedy)
        return None

    @property
    def is_enriched(self) -> bool:
        return "enriched" in self.tags


@dataclass(frozen=True)
class DataTest:
    """One of dbt's data tests, and the models it reads."""

    name: str
    models: tuple[str, ...]  # unique ids; the one it was written at comes first


@dataclass(frozen=True)
class Manifest:
    models: tuple[Model, ...]
    tests: tuple[DataTest, ...] = ()

    def of_stream(self, tag: str) -> list[Model]:
        """What `dbt run --select tag:{source}__{stream}` would run."""
        return [model for model in self.models if tag in model.tags]

    def jobs(self, streams: Iterable[Stream]) -> list[tuple[Stream, list[Model]]]:
        """Each stream with its models."""
        return [(stream, self.of_stream(stream.tag)) for stream in streams]

    def enriched(self) -> list[Model]:
        """The enriched models that leave a table or view, upstream first."""
        by_id = {model.unique_id: model for model in self.models}
        ordered: dict[str, Model] = {}

        def visit(model: Model) -> None:
            if model.unique_id not in ordered:
                for upstream in model.depends_on:
                    if upstream in by_id:
                        visit(by_id[upstream])
                ordered[model.unique_id] = model

        for model in self.models:
            visit(model)
        return [m for m in ordered.values() if m.is_enriched and m.materialized != "ephemeral"]

    def upstream(self, model: Model) -> list[Model]:
        """The models with a table of their own that `model` reads, through views and ephemeral ones."""
        by_id = {other.unique_id: other for other in self.models}
        found: dict[str, Model] = {}
        stack = list(model.depends_on)
        while stack:
            other = by_id.get(stack.pop())
            if other is None or other.unique_id in found:
                continue
            if other.materialized in ("view", "ephemeral"):
                stack.extend(other.depends_on)
            else:
                found[other.unique_id] = other
        return sorted(found.values(), key=lambda other: other.name)


def manifest_path(project_dir: Path) -> Path:
    return project_dir / "target" / "partial_parse.msgpack"


def packaged_macros() -> Path:
    """The macros that every lake has a copy of, in macros/lakeward.sql."""
    return Path(__file__).with_name("macros") / "lakeward.sql"


def is_fresh(project_dir: Path) -> bool:
    """Is the manifest newer than every file and folder it was made from? Reads no file."""
    path = manifest_path(project_dir)
    return path.is_file() and last_change(project_dir) <= path.stat().st_mtime_ns


def last_change(project_dir: Path) -> int:
    """When a file or folder that a manifest is made from last changed, in nanoseconds. Reads no file."""
    newest = 0
    for path in _inputs(project_dir):
        with suppress(FileNotFoundError):  # an editor's own files come and go
            stat = path.lstat()
            # A copy may come with old times: when its name was given is a time as well.
            newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
    return newest


def read_manifest(project_dir: Path) -> Manifest:
    """The last good manifest. Raises ConfigError when there is none, or none that can be read."""
    path = manifest_path(project_dir)
    try:
        raw = msgpack.unpackb(path.read_bytes(), strict_map_key=False)  # type: ignore[no-untyped-call, attr-defined]
        nodes, owners = raw["nodes"].values(), _owners(raw["groups"].values())
        return Manifest(tuple(_models(nodes, owners)), tuple(_tests(nodes)))
    except FileNotFoundError:
        raise ConfigError(
            f"{project_dir} has no manifest yet", hint=f"cd {project_dir.name} && dbt parse"
        ) from None
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="delete it and run dbt parse") from error


def _models(nodes: Iterable[dict[str, Any]], owners: dict[str, tuple[str, ...]]) -> Iterator[Model]:
    for node in nodes:
        if node["resource_type"] == "model":
            config = node["config"]
            yield Model(
                name=node.get("alias") or node["name"],
                node=node["name"],
                unique_id=node["unique_id"],
                path=node["original_file_path"],
                schema=node["schema"],
                tags=tuple(node["tags"]),
                materialized=config["materialized"],
                unique_key=_as_tuple(config.get("unique_key")),
                strategy=config.get("incremental_strategy"),
                depends_on=tuple(node["depends_on"]["nodes"]),
                full_refresh=config.get("full_refresh"),
                hooks=str([config.get("pre-hook"), config.get("post-hook")]),
                code=node["checksum"]["checksum"],
                raw_code=node["raw_code"],
                description=node["description"],
                columns=tuple(
                    (column["name"], column["data_type"], column["description"])
                    for column in node["columns"].values()
                ),
                owners=owners.get(config.get("group") or "", ()),
            )


def _tests(nodes: Iterable[dict[str, Any]]) -> Iterator[DataTest]:
    for node in nodes:
        if node["resource_type"] == "test":
            others = (name for name in node["depends_on"]["nodes"] if name != node.get("attached_node"))
            models = tuple(name for name in (node.get("attached_node"), *others) if name is not None)
            yield DataTest(node["name"], models)


def _owners(groups: Iterable[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The e-mail address of each dbt group's owner."""
    return {group["name"]: _as_tuple((group.get("owner") or {}).get("email")) for group in groups}


def _as_tuple(value: str | list[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _inputs(project_dir: Path) -> Iterator[Path]:
    """Files and folders: a file taken away changes only its folder's time."""
    for name in _INPUTS:
        path = project_dir / name
        if path.exists():
            yield path
        for folder, subfolders, files in os.walk(path):
            for entry in (*subfolders, *files):
                yield Path(folder, entry)
