"""What was applied: append-only events in the lake itself, one snapshot with the rows they speak of.

Events are only ever inserted: an update or delete in a table that every stream writes would make the
others' commits fail. meta.py has the tables, reading.py reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

from lakeward.meta import META, retry

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.reading import ModelState
    from lakeward.stores import LandedFile
    from lakeward.streams import Stream


FILE_COLUMNS = ("path", "etag", "model", "status", "size", "rows", "batch_id", "error", "logged_at")


class Ledger:
    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def get_cursor(self, stream: Stream) -> str | None:
        """The newest applied file's path. Read-only; a lower bound for listing, never proof of anything."""
        rows = self._lake.query(
            f"select cursor_path from {META}.feeder_cursors where source = ? and stream = ?",
            [stream.source, stream.name],
        )
        return rows[0][0] if rows else None

    def quarantine(self, stream: Stream, state: ModelState, file: LandedFile, reason: str) -> None:
        self._event(stream, state.model, "quarantined", state.build, file, reason)

    def fail(self, stream: Stream, model: str, reason: str) -> None:
        """Remember that a feed stopped, for `status`; the model's next applied file makes it history."""
        self._event(stream, model, "failed", 0, None, reason)

    def recover(self, stream: Stream, model: str) -> None:
        """Remember that what stopped a feed is over, where no applied file says so."""
        self._append(
            "feeder_log",
            "by name select $source as source, $stream as stream, $model as model, 'recovered' as event, "
            "now() as logged_at",
            {"source": stream.source, "stream": stream.name, "model": model},
        )

    def fail_build(self, model: str, reason: str) -> None:
        """Remember that a mart could not be built; its next build makes it history."""
        self._append(
            "build_log",
            "select $model, 'failed', null, null, $error, now()",
            {"model": model, "error": reason},
        )

    def release(
        self, stream: Stream, paths: Sequence[str] | None = None, *, model: str | None = None
    ) -> list[str]:
        """Make quarantined files (all, or those named, of all models or one) pending again; returns paths."""
        wanted = "status = 'quarantined' and ($model is null or model = $model)"
        if paths is not None:
            return self._reopen("released", stream, f"{wanted} and path in $paths", model=model, paths=paths)
        return self._reopen("released", stream, wanted, model=model)

    def replay(self, stream: Stream, models: Sequence[str], since: date) -> list[str]:
        """Make the files applied from that partition on pending again for the models; returns paths."""
        wanted = "status = 'applied' and model in $models and partition_date >= $since"
        return self._reopen("replayed", stream, wanted, models=models, since=since)

    def _reopen(self, event: str, stream: Stream, wanted: str, **parameters: object) -> list[str]:
        parameters |= {"source": stream.source, "stream": stream.name}
        files = f"from {META}.feeder_files where source = $source and stream = $stream and {wanted}"
        rows = self._lake.query(f"select distinct path {files} order by path", parameters)
        if rows:
            self._append(
                "feeder_log",
                f"by name select source, stream, model, build, '{event}' as event, path, etag, size, "
                f"partition_date, generation, rows, extracted_at, nulled, now() as logged_at {files}",
                parameters,
            )
        return [path for (path,) in rows]

    def files(self, stream: Stream) -> list[dict[str, object]]:
        """The stream's rows of the view `feeder_files`, as records. Read-only."""
        rows = self._lake.query(
            f"select {', '.join(FILE_COLUMNS)} from {META}.feeder_files where source = ? and stream = ?",
            [stream.source, stream.name],
        )
        return [dict(zip(FILE_COLUMNS, row, strict=True)) for row in rows]

    def applied(self, stream: Stream, since: datetime) -> dict[str, tuple[int, int, int]]:
        """Files, rows and bytes applied to each model since then, by the feeders' clocks. Read-only."""
        rows = self._lake.query(
            f"""
            select model, count(*), sum(rows)::bigint, sum(size)::bigint from {META}.feeder_log
            where source = ? and stream = ? and event = 'applied' and logged_at >= ? group by model""",
            [stream.source, stream.name, since],
        )
        return {model: (files, count, size) for model, files, count, size in rows}

    def record_listing(self, stream: Stream) -> None:
        """Everything that had landed was found: until `reconcile_after_hours`, listings may be partial."""
        self._append(
            "feeder_log",
            "by name select $source as source, $stream as stream, 'listed' as event, now() as logged_at",
            {"source": stream.source, "stream": stream.name},
        )

    def announce(self, stream: Stream, owner: str, until: datetime) -> None:
        """A refresh is under way: feeders leave the stream alone until then, or until a later word."""
        self._append(
            "feeder_log",
            "by name select $source as source, $stream as stream, 'announced' as event, $owner as error, "
            "$until as until, now() as logged_at",
            {"source": stream.source, "stream": stream.name, "owner": owner, "until": until},
        )

    def columns(self, stream: Stream) -> list[tuple[str, str]]:
        """Every column (name, type) ever seen in a landed file of the stream, in that order."""
        return self._lake.query(
            f"select name, type from {META}.feeder_columns where source = ? and stream = ? order by rowid",
            [stream.source, stream.name],
        )

    def record_columns(self, stream: Stream, columns: dict[str, str], path: str) -> None:
        """Append the columns (name, type) first seen in the file `path`."""
        self._append(
            "feeder_columns",
            "select $source, $stream, unnest($names), unnest($types), $path, now()",
            {
                "source": stream.source,
                "stream": stream.name,
                "names": list(columns),
                "types": list(columns.values()),
                "path": path,
            },
        )

    def _append(self, table: str, select: str, parameters: dict[str, object]) -> None:
        retry(lambda: self._lake.query(f"insert into {META}.{table} {select}", parameters))

    def _event(
        self, stream: Stream, model: str, event: str, build: int, file: LandedFile | None, reason: str
    ) -> None:
        self._append(
            "feeder_log",
            "by name select $source as source, $stream as stream, $model as model, $build as build, "
            "$event as event, $path as path, $etag as etag, $size as size, $partition as partition_date, "
            "$error as error, now() as logged_at",
            {
                "source": stream.source,
                "stream": stream.name,
                "model": model,
                "build": build,
                "event": event,
                "path": file.path if file else None,
                "etag": file.etag if file else None,
                "size": file.size if file else None,
                "partition": file.partition if file else None,
                "error": reason,
            },
        )
