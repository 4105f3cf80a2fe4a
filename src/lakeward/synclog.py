"""How far each source was read: a sync's checkpoints, append-only, in the lake itself.

A checkpoint is a connector's state together with the files of the records it speaks of. The files are
staged before it is written and land after: whoever finds one that has not landed lands it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from lakeward.errors import ConfigError, WriterConflict
from lakeward.meta import META, fence_table, retry, set_up

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.protocol import Message


@dataclass(frozen=True)
class StagedFile:
    """staged, path: relative to the landing root, before and after it lands."""

    staged: str
    path: str
    rows: int
    size: int


@dataclass(frozen=True)
class Part:
    """What a checkpoint holds of one stream; of all of them with no stream, where the state is global.

    state: the connector's own message, or None where it has told none. nulled: values that did not fit.
    generation: of the files. covers: the streams that a global state speaks of.
    """

    stream: str | None
    state: Message | None
    files: Sequence[StagedFile] = ()
    nulled: int = 0
    generation: int = 0
    covers: Sequence[str] = ()


@dataclass(frozen=True)
class Begun:
    """states: one per stream, or one for all. leftovers: files of checkpoints that may not have landed.

    generations: of each stream that was ever refreshed, by its name.
    """

    states: dict[str | None, Message]
    generations: dict[str, int]
    leftovers: list[StagedFile]


@dataclass(frozen=True)
class LastSync:
    """A stream's last sync on this side: three counts of the same records.

    sent: by the connector, where it says so. landed: in the files. applied: by the ledger; None while a file
    of it is not applied.
    """

    ended_at: datetime
    sent: int | None
    landed: int
    applied: int | None
    error: str | None

    @property
    def problem(self) -> str | None:
        if self.error is not None:
            return f"its last sync failed: {self.error}"
        if self.applied is not None and self.applied != self.landed:
            return f"its last sync landed {self.landed:,} records, and the ledger knows of {self.applied:,}"
        return None


def last_syncs(lake: Lake) -> dict[str, LastSync]:
    """By stream id, where the ledger is set up. Read-only. Two queries; one where nothing was synced."""
    ((is_any,),) = lake.query(f"select exists (from {META}.sync_log where event in ('done', 'failed'))")
    if not is_any:
        return {}
    rows = lake.query(
        f"""
        with ended as (
            select source, stream, sync_id, logged_at, sent, records, error from {META}.sync_log
            where event in ('done', 'failed')
            qualify row_number() over (partition by source, stream order by checkpoint desc, rowid desc) = 1
        ), landed as (
            select source, stream, sync_id,
                unnest(from_json(files, '[{{"path": "varchar", "rows": "bigint"}}]'), recursive => true)
            from {META}.sync_log semi join ended using (source, stream, sync_id)
            where event = 'checkpoint' and files <> '[]'
        ), applied as (
            select path, min(rows) as rows from {META}.feeder_files
            where status = 'applied' and path in (select path from landed) group by path
        )
        select ended.source || '/' || ended.stream, any_value(logged_at), any_value(sent),
            any_value(records), case when count(landed.path) = count(applied.path)
                then coalesce(sum(applied.rows), 0)::bigint end, any_value(error)
        from ended left join landed using (source, stream, sync_id) left join applied using (path)
        group by all"""
    )
    return {stream: LastSync(*rest) for stream, *rest in rows}


class SyncLog:
    """Of one source. Whoever began last may write: the fence refuses all who began before."""

    def __init__(self, lake: Lake, source: str, sync_id: int) -> None:
        self.sync_id = sync_id
        self._lake = lake
        self._source = source
        self._fence = fence_table(f"sync {source}")
        self._number = -1

    def begin(self, streams: Sequence[str], refreshed: Sequence[str] = (), *, anew: bool = False) -> Begun:
        """Take over from whoever synced this source before, killed or not. Sets up what is missing.

        streams: all that are read. refreshed: those of them that begin anew, each in its next generation,
        without a state. anew: the state of all streams goes as well.
        Raises ConfigError where one state speaks of streams that are not read: it would move past them.
        """
        set_up(self._lake, [f"sync {self._source}"])
        retry(self._take)
        states, generations = self._states(), self._generations()
        missing = sorted(set(self._covered()) - set(streams)) if None in states and not anew else []
        if missing:
            raise ConfigError(
                f"{self._source} keeps one state for all of its streams: they are synced together, "
                f"{', '.join(missing)} too",
                hint=f"lakeward sync {self._source}; --refresh begins anew with the streams there are",
            )
        with self._lake.transaction():
            for stream in refreshed:
                generations[stream] = generations.get(stream, 0) + 1
                self._insert("refresh", self._number, stream=stream, generation=generations[stream])
            if anew and None in states:
                self._insert("refresh", self._number, stream=None)
                states.pop(None)
        states = {stream: state for stream, state in states.items() if stream not in refreshed}
        return Begun(states, generations, self._leftovers())

    def checkpoint(self, parts: Sequence[Part]) -> None:
        """All parts in one snapshot, or none. Raises WriterConflict when another sync has begun since."""
        with self._lake.transaction():
            number = self._advance(self._number)
            for part in parts:
                self._insert(
                    "checkpoint",
                    number,
                    stream=part.stream,
                    state=json.dumps(part.state) if part.state is not None else None,
                    files=json.dumps([vars(file) for file in part.files]),
                    covers=json.dumps(list(part.covers)),
                    records=sum(file.rows for file in part.files),
                    nulled=part.nulled,
                    generation=part.generation,
                )
        self._number = number

    def published(self) -> None:
        """What every checkpoint so far has staged has landed, as far as the caller saw to it."""
        self._insert("published", self._number)

    def finish(self, stream: str, records: int, sent: int | None, generation: int, error: str | None) -> None:
        """A stream's end. sent: how many records the connector says it sent, as far as it says so."""
        event = "done" if error is None else "failed"
        self._insert(
            event, self._number, stream=stream, records=records, sent=sent, generation=generation, error=error
        )

    def fail(self, stream: str, error: str) -> None:
        """It was not read at all, or the sync broke off; for `status`."""
        set_up(self._lake, [])
        ((newest,),) = self._lake.query(
            f"select coalesce(max(checkpoint), 0) from {META}.sync_log where source = ?", [self._source]
        )
        self._insert("failed", newest, stream=stream, records=0, error=error)

    def _states(self) -> dict[str | None, Message]:
        rows = self._lake.query(
            f"""
            select stream, state from {META}.sync_log
            where source = ? and (event = 'checkpoint' and state is not null or event = 'refresh')
            qualify row_number() over (partition by stream order by checkpoint desc, rowid desc) = 1
            order by checkpoint""",
            [self._source],
        )
        states: dict[str | None, Message] = {}
        for stream, state in rows:
            if state is None:  # refreshed, and nothing has come since
                continue
            if stream is None:  # of all streams: it stands for what each has told before
                states.clear()
            states[stream] = json.loads(state)
        return states

    def _covered(self) -> list[str]:
        """The streams of the last state that is one for all."""
        rows = self._lake.query(
            f"select max_by(covers, checkpoint) from {META}.sync_log "
            "where source = ? and event = 'checkpoint' and stream is null",
            [self._source],
        )
        return list(json.loads(rows[0][0] or "[]"))

    def _leftovers(self) -> list[StagedFile]:
        """Not of streams that have begun anew since: their records come again."""
        rows = self._lake.query(
            f"""
            select files from {META}.sync_log as log
            where source = $source and event = 'checkpoint' and checkpoint > coalesce((
                select max(checkpoint) from {META}.sync_log where source = $source and event = 'published'
            ), -1) and not exists (
                select 1 from {META}.sync_log as later where later.source = $source
                    and later.event = 'refresh' and later.stream = log.stream
                    and later.checkpoint > log.checkpoint
            )""",
            {"source": self._source},
        )
        return [StagedFile(**file) for (files,) in rows for file in json.loads(files)]

    def _generations(self) -> dict[str, int]:
        """Of each stream, by its own refreshes and by what a server may have landed in the same place."""
        rows = self._lake.query(
            f"""
            select stream, max(generation) from (
                select stream, generation from {META}.sync_log where source = $source and event = 'refresh'
                union all
                select stream, generation from {META}.feeder_log where source = $source and event = 'applied'
            ) where stream is not null and generation is not null group by stream""",
            {"source": self._source},
        )
        return dict(rows)

    def _take(self) -> None:
        with self._lake.transaction():
            ((number,),) = self._lake.query(f"select n from {self._fence}")
            taken = self._advance(number)
        self._number = taken

    def _advance(self, expected: int) -> int:
        ((number,),) = self._lake.query(f"select n from {self._fence}")
        if number != expected:
            raise WriterConflict(
                f"another sync of {self._source} has begun meanwhile",
                hint="it goes on from the last checkpoint; nothing of this one is lost or landed twice",
            )
        self._lake.query(f"update {self._fence} set n = n + 1")
        return expected + 1

    def _insert(self, event: str, checkpoint: int, **values: object) -> None:
        values |= {
            "source": self._source, "sync_id": self.sync_id, "checkpoint": checkpoint, "event": event,
        }  # fmt: skip
        columns = ", ".join(f"${name} as {name}" for name in values)
        self._lake.query(
            f"insert into {META}.sync_log by name select {columns}, now() as logged_at", dict(values)
        )
