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

_OLDER = f"""
    from {META}.feeder_files as files
    where source = $source and stream = $stream and model = $model and status = 'applied'
        and coalesce(generation, 0) < $generation
        and not exists (
            from {META}.feeder_log as log where log.event = 'replaced' and log.model = files.model
                and log.build = files.build and log.path = files.path and log.etag = files.etag
        )"""


@dataclass(frozen=True)
class Outdated:
    """A model's files of generations before the newest, which is complete."""

    model: str
    newest: int
    paths: tuple[str, ...]


def outdated(stream: Stream, models: Sequence[str], lake: Lake, landing: Landing) -> list[Outdated]:
    """None unless the stream's file says that they go. Costs two queries per model where there is nothing."""
    found = []
    for model in models if stream.config.on_refresh == "replace" else ():
        names = _names(stream, model)
        newest = _newest(lake, names)
        older = lake.query(f"select path {_OLDER}", names | {"generation": newest}) if newest else []
        paths = tuple(path for (path,) in older)
        if paths and (_is_told(lake, stream, newest) or all(landing.head(path) is None for path in paths)):
            found.append(Outdated(model, newest, paths))
    return found


def leave(stream: Stream, gone: Outdated, lake: Lake, landing: Landing) -> int:
    """Delete their rows; how many went. One snapshot holds that and what the ledger says of it.

    Raises WriterConflict when another writer was faster; nothing is lost by it.
    """
    names = _names(stream, gone.model) | {"generation": gone.newest}
    with lake.transaction():
        said = quote_literal(f"older generations of {stream.id} leave {gone.model}")
        lake.query(f"call {LAKE}.set_commit_message('lakeward', {said})")
        ((known,),) = lake.query(f"select count(*) {_OLDER}", names)
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
            f"insert into {META}.feeder_log by name select source, stream, model, build, "
            f"'replaced' as event, path, etag, generation, now() as logged_at {_OLDER}",
            names,
        )
    return int(rows)


def _names(stream: Stream, model: str) -> dict[str, object]:
    return {"source": stream.source, "stream": stream.name, "model": model}


def _newest(lake: Lake, names: dict[str, object]) -> int:
    rows = lake.query(
        f"select coalesce(max(generation), 0) from {META}.feeder_files "
        "where source = $source and stream = $stream and model = $model and status = 'applied'",
        names,
    )
    return int(rows[0][0])


def _is_told(lake: Lake, stream: Stream, newest: int) -> bool:
    """Has `lakeward sync` ended well in that generation?"""
    rows = lake.query(
        f"select count(*) from {META}.sync_log "
        "where source = ? and stream = ? and event = 'done' and generation >= ?",
        [stream.source, stream.name, newest],
    )
    return bool(rows[0][0])
