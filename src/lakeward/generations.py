"""Airbyte's generations: when a stream was read anew from the start, what is left of before may go.

A refresh gives its records a higher `_airbyte_generation_id`. It is complete when `lakeward sync` says so, or
when an Airbyte server has deleted every older file, which it does after the refresh's last (docs,
integrations/destinations/s3; airbytehq/airbyte, ObjectStorageStreamLoader.kt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakeward.errors import LakeError, WriterConflict
from lakeward.meta import META, fence_table
from lakeward.settings import LAKE
from lakeward.sql import quote_identifier, quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.streams import Stream

_LANDED_HERE = f"""
    select unnest(from_json(files, '[{{"path": "varchar"}}]'), recursive => true), generation
    from {META}.sync_log where source = $source and stream = $stream and event = 'checkpoint'"""

# Files of the model that are applied and have not left it. is_ours: landed by `lakeward sync`, which counts
# generations by itself, as a server does.
_HELD = f"""
    select path, etag, build, coalesce(files.generation, 0) as generation, ours.path is not null as is_ours
    from {META}.feeder_files as files
    left join (select distinct path from ({_LANDED_HERE})) as ours using (path)
    where source = $source and stream = $stream and model = $model and status = 'applied'
        and not exists (
            from {META}.feeder_log as log where log.event = 'replaced' and log.model = files.model
                and log.build = files.build and log.path = files.path and log.etag = files.etag
        )"""


@dataclass(frozen=True)
class Outdated:
    """A model's files of generations before one that is complete."""

    model: str
    paths: tuple[str, ...]


def outdated(stream: Stream, models: Sequence[str], lake: Lake, landing: Landing) -> list[Outdated]:
    """None unless the stream's file says that they go. Costs two queries per model, and few requests."""
    found = []
    for model in models if stream.config.on_refresh == "replace" else ():
        paths = [*_of_ours(stream, model, lake), *_of_a_server(stream, model, lake, landing)]
        if paths:
            found.append(Outdated(model, tuple(sorted(paths))))
    return found


def _of_ours(stream: Stream, model: str, lake: Lake) -> list[str]:
    """Before the last generation in which `lakeward sync` ended well, once all it landed is in the model."""
    rows = lake.query(
        f"""
        with done as (
            select max(generation) as generation from {META}.sync_log
            where source = $source and stream = $stream and event = 'done'
        ), held as ({_HELD})
        select path from held, done
        where is_ours and held.generation < done.generation and not exists (
            from ({_LANDED_HERE}) as landed
            where landed.generation = done.generation and landed.path not in (select path from held)
        )""",
        _names(stream, model),
    )
    return [path for (path,) in rows]


def _of_a_server(stream: Stream, model: str, lake: Lake, landing: Landing) -> list[str]:
    """Before the newest, if it has deleted all of them."""
    rows = lake.query(
        f"""
        with held as ({_HELD})
        select path from held
        where not is_ours and generation < (select max(generation) from held where not is_ours)""",
        _names(stream, model),
    )
    paths = [path for (path,) in rows]
    return paths if all(landing.head(path) is None for path in paths) else []


def leave(stream: Stream, gone: Outdated, lake: Lake, landing: Landing) -> int:
    """Delete their rows; how many went. One snapshot holds that and what the ledger says of it.

    Raises WriterConflict when another writer was faster; nothing is lost by it.
    """
    names = _names(stream, gone.model) | {"paths": list(gone.paths)}
    held = f"from ({_HELD}) where list_contains($paths, path)"
    with lake.transaction():
        said = quote_literal(f"older generations of {stream.id} leave {gone.model}")
        lake.query(f"call {LAKE}.set_commit_message('lakeward', {said})")
        ((known,),) = lake.query(f"select count(distinct path) {held}", names)
        if known != len(gone.paths):
            raise WriterConflict("the ledger has changed between two looks")
        lake.query(f"update {fence_table(gone.model)} set n = n + 1")
        try:
            ((rows,),) = lake.query(
                f"delete from {LAKE}.main.{quote_identifier(gone.model)} "
                "where list_contains($urls, _source_file)",
                {"urls": [landing.url(path) for path in gone.paths]},
            )
        except LakeError as error:
            hint = "on_refresh wants filename as _source_file in the model"
            raise LakeError(f"{gone.model}: {error.message}", hint=hint) from error
        lake.query(
            f"insert into {META}.feeder_log by name select $source as source, $stream as stream, "
            f"$model as model, build, 'replaced' as event, path, etag, generation, now() as logged_at {held}",
            names,
        )
    return int(rows)


def _names(stream: Stream, model: str) -> dict[str, object]:
    return {"source": stream.source, "stream": stream.name, "model": model}
