"""Records on their way to Parquet: in a file of their own stream, never in memory.

The Parquet imitates what Airbyte's S3 destination writes (shapes.py); nobody has compared it with a file
of a real destination yet.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakeward.errors import LakeError
from lakeward.shapes import Shape, as_line
from lakeward.sql import quote_identifier, quote_literal

if TYPE_CHECKING:
    from lakeward.lake import Lake

_NULLED, _WHY = "NULLED", "DESTINATION_SERIALIZATION_ERROR"
_LATEST = 253_402_300_800_000  # milliseconds since 1970: the end of the year 9999
_ROW_GROUP = 20_480  # rows: what is held in memory at once
_LINE_AT_LEAST = 16 * 1024**2  # bytes: DuckDB's own bound of one record


class Spool:
    """A stream's records since its last checkpoint, in the order in which they came.

    Those before the connector's last word on the stream's state are `covered` by it.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        self._path = path
        self._shape = shape
        self._file = path.open("w+b")
        self._longest = 0
        self.rows, self.size, self.nulled = 0, 0, 0
        self._covered = (0, 0, 0)

    def add(self, line: bytes, record: dict[str, Any], *, is_clean: bool) -> None:
        """line: the connector's own, of this record, and valid JSON if it is clean."""
        nulled: list[str] = []
        made = self._shape.fit(record["data"], nulled)
        emitted_at = record["emitted_at"]
        is_moment = type(emitted_at) is int and 0 <= emitted_at < _LATEST
        if made is not record["data"] or not is_clean or not is_moment:
            if is_clean:  # orjson has made a float of an integer of many digits
                nulled = []
                made = self._shape.fit(json.loads(line)["record"]["data"], nulled)
            emitted_at = min(max(int(emitted_at), 0), _LATEST - 1)
            changes = [{"field": path, "change": _NULLED, "reason": _WHY} for path in dict.fromkeys(nulled)]
            line = as_line({"record": {"data": made, "emitted_at": emitted_at}, "changes": changes})
        self._file.write(line)
        self._longest = max(self._longest, len(line))
        self.rows += 1
        self.size += len(line)
        self.nulled += len(nulled)

    def cover(self) -> None:
        """The connector has told a state: it speaks of all records so far."""
        self._covered = self.rows, self.size, self.nulled

    def uncover(self) -> None:
        """What was told no longer holds of these records alone."""
        self._covered = (0, 0, 0)

    @property
    def uncovered(self) -> int:
        return self.rows - self._covered[0]

    def drop_uncovered(self) -> None:
        """Forget what came after the last state: the connector sends it again."""
        self.rows, self.size, self.nulled = self._covered
        self._file.flush()
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def write(self, writer: Lake, path: Path, *, sync_id: int, generation: int) -> int:
        """All records as one Parquet file, on disk when it returns. Returns its rows.

        writer: DuckDB, on one thread. Costs one pass over them, and a row group in memory.
        """
        self._file.flush()
        try:
            self._write(writer, path, sync_id, generation)
        except LakeError:  # a line that Python reads and DuckDB does not, as with a key that is there twice
            self._write_lines_anew()
            self._write(writer, path, sync_id, generation)
        with path.open("rb+") as written:
            os.fsync(written.fileno())
        ((rows,),) = writer.query("select num_rows from parquet_file_metadata(?)", [str(path)])
        return int(rows)

    def _write_lines_anew(self) -> None:
        anew = self._path.with_suffix(".anew")
        with anew.open("wb") as lines:
            self._file.seek(0)
            for line in self._file:
                lines.write(as_line(json.loads(line)))
        anew.replace(self._path)
        self._file.close()
        self._file = self._path.open("r+b")
        self.size = self._file.seek(0, os.SEEK_END)

    def _write(self, writer: Lake, path: Path, sync_id: int, generation: int) -> None:
        data = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in self._shape.columns.items())
        fields = f"data STRUCT({data}), emitted_at BIGINT" if data else "emitted_at BIGINT"
        writer.query(
            f"""
            copy (
                select uuid()::varchar as _airbyte_raw_id,
                    make_timestamptz(record.emitted_at * 1000) as _airbyte_extracted_at,
                    {{'sync_id': {sync_id}::bigint, 'changes': coalesce(changes, [])}} as _airbyte_meta,
                    {generation}::bigint as _airbyte_generation_id
                    {", unnest(record.data)" if data else ""}
                from read_json(
                    {quote_literal(str(self._path))}, format='newline_delimited',
                    maximum_object_size={max(_LINE_AT_LEAST, 2 * self._longest)},
                    columns={{
                        'record': {quote_literal(f"STRUCT({fields})")},
                        'changes': 'STRUCT("field" VARCHAR, "change" VARCHAR, reason VARCHAR)[]'
                    }}
                )
            ) to {quote_literal(str(path))} (
                format parquet, compression zstd, row_group_size {_ROW_GROUP}
            )"""
        )

    def clear(self) -> None:
        self.uncover()
        self.drop_uncovered()
        self._longest = 0

    def close(self) -> None:
        with suppress(OSError):  # a full disk has been told by then
            self._file.close()
        self._path.unlink(missing_ok=True)
