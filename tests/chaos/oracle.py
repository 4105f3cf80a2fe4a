"""The truth in plain Python: what a lake must hold when these versions of these files were loaded.

Shares no code with the engine. Knows three things of it, all from the documentation: what a landed file's
identity is (path, and in a folder its size and time of change), that the newest row of a key wins by
`_airbyte_extracted_at` and then by `_source_file`, and what the views of the ledger mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

Identity = tuple[str, str]  # path below the landing root, etag


class Row(NamedTuple):
    """A row of a file, and of the models that copy it."""

    key: int | None
    word: str
    at: datetime
    source_file: str
    day: int


@dataclass(frozen=True)
class Version:
    """What once lay under a name. rows None: nothing that could be read as Parquet."""

    path: str
    etag: str
    rows: tuple[Row, ...] | None

    @property
    def identity(self) -> Identity:
        return self.path, self.etag


def newest(versions: Iterable[Version]) -> dict[int | None, set[Row]]:
    """By key the rows that may stand for it: one, unless a file has several of the same moment."""
    best: dict[int | None, set[Row]] = {}
    for version in versions:
        for row in version.rows or ():
            rank = (row.at, row.source_file)
            held = best.get(row.key)
            known = next(iter(held)) if held else None
            if known is None or rank > (known.at, known.source_file):
                best[row.key] = {row}
            elif rank == (known.at, known.source_file):
                best[row.key].add(row)
    return best


def differences_keyed(table: Sequence[Row], versions: Collection[Version]) -> list[str]:
    """The table of a model with a key, row by row."""
    wanted = newest(versions)
    found = Counter(row.key for row in table)
    told = [f"key {key}: {count} rows" for key, count in found.items() if count > 1]
    told += [f"key {key}: missing" for key in wanted if key not in found]
    for row in table:
        if row.key not in wanted:
            told.append(f"{row}: in no file")
        elif row not in wanted[row.key]:
            told.append(f"{row}: not the newest, which is {sorted(wanted[row.key])}")
    return told


def differences_append(table: Sequence[Row], versions: Collection[Version]) -> list[str]:
    """The table of a model without a key: every row of every version, as often as it is there."""
    wanted = Counter(row for version in versions for row in version.rows or ())
    found = Counter(table)
    return [
        f"{row}: {found[row]} times, not {wanted[row]}" for row in wanted | found if found[row] != wanted[row]
    ]


def differences_ledger(
    held: Mapping[str, Collection[Identity]], wanted: Mapping[str, Collection[Identity]], what: str
) -> list[str]:
    """By model: the identities that the ledger says are `what`."""
    told = []
    for model in sorted({*held, *wanted}):
        mine, theirs = set(held.get(model, ())), set(wanted.get(model, ()))
        told += [f"{model}: {path} ({etag}) should be {what}" for path, etag in sorted(theirs - mine)]
        told += [f"{model}: {path} ({etag}) should not be {what}" for path, etag in sorted(mine - theirs)]
    return told


def words(table: Iterable[Row]) -> dict[str, int]:
    """The mart: rows of the keyed table, by word."""
    return dict(Counter(row.word for row in table))


def moment(day: int, second: int = 0) -> datetime:
    return datetime(2026, 9, day, 12, second // 60, second % 60, tzinfo=UTC)
