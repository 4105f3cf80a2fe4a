"""Columns of landed files, as DuckDB writes types: which files one statement can read, what is known.

Pure text: `STRUCT(word VARCHAR, amount DOUBLE)[]` is taken apart here, not by DuckDB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lakeward.sql import quote_identifier

Columns = tuple[tuple[str, str], ...]  # (name, type), in the file's order

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT"}
_FLOATS = {"FLOAT", "DOUBLE"}
_NAME = re.compile(r'"((?:[^"]|"")*)"|([^ "]+)')


class KnownColumns:
    """Every column a stream ever had, with a type that holds all its variants where one does."""

    def __init__(self, seen: Iterable[tuple[str, str]]) -> None:
        self.types: dict[str, str] = {}
        self._seen: set[tuple[str, str]] = set()
        self.learn(seen)

    def learn(self, columns: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Take note of them; returns those that were not known under that type."""
        fresh = {name: kind for name, kind in columns if (name.lower(), kind) not in self._seen}
        for name, kind in fresh.items():
            self._seen.add((name.lower(), kind))
            known = self._name(name)
            self.types[known] = merged(self.types[known], kind) if known in self.types else kind
        return fresh

    def missing_from(self, files: Sequence[Columns]) -> Columns:
        """Known columns, or struct fields, that none of the files has: as columns an empty file can bring."""
        have: dict[str, str] = {}
        for columns in files:
            for name, kind in columns:
                key = name.lower()
                have[key] = merged(have[key], kind) if key in have else kind
        return tuple(
            (name, kind)
            for name, kind in self.types.items()
            if name.lower() not in have
            or (compatible(have[name.lower()], kind) and not _holds(have[name.lower()], kind))
        )

    def _name(self, name: str) -> str:
        """The spelling it was first seen in: DuckDB tells names apart without regard to case."""
        return next((known for known in self.types if known.lower() == name.lower()), name)


def readable_together(groups: Sequence[Mapping[str, str]], columns: Columns) -> int | None:
    """Index of the first group of columns that a file with `columns` can be read beside; None: none.

    DuckDB's union_by_name adds missing columns and struct fields; it fails, or changes values without a
    word, where a column is a timestamp here and a number there, text here and a struct there, or a whole
    number here and a fraction there (airbytehq/airbyte#52559).
    """
    for index, group in enumerate(groups):
        if all(compatible(group.get(name.lower(), kind), kind) for name, kind in columns):
            return index
    return None


def grouped(group: Mapping[str, str], columns: Columns) -> dict[str, str]:
    """The group with a file of `columns` in it."""
    more = {name.lower(): kind for name, kind in columns}
    return {**group, **{name: merged(group.get(name, kind), kind) for name, kind in more.items()}}


def compatible(one: str, other: str) -> bool:
    """Can one statement read both, no value changed?"""
    if one == other or {one, other} <= _INTEGERS or {one, other} <= _FLOATS:
        return True
    if one.endswith("[]") and other.endswith("[]"):
        return compatible(one[:-2], other[:-2])
    fields, others = _fields(one), _fields(other)
    if fields is None or others is None:
        return False
    return all(compatible(fields[name], others[name]) for name in fields.keys() & others.keys())


def merged(one: str, other: str) -> str:
    """The type with the fields of both; `other`, the newer, where they are no structs of one shape."""
    if one.endswith("[]") and other.endswith("[]"):
        return merged(one[:-2], other[:-2]) + "[]"
    fields, others = _fields(one), _fields(other)
    if fields is None or others is None:
        return other
    both = fields | {name: merged(fields.get(name, kind), kind) for name, kind in others.items()}
    return _struct(both)


def narrowed(given: str, wanted: str) -> str:
    """`given` without the struct fields that `wanted` lacks: what a value keeps on its way to that type."""
    if given.endswith("[]") and wanted.endswith("[]"):
        return narrowed(given[:-2], wanted[:-2]) + "[]"
    fields, others = _fields(given), _fields(wanted)
    if fields is None or others is None:
        return given
    kept = {name: narrowed(kind, others[name]) for name, kind in fields.items() if name in others}
    return _struct(kept) if kept else given


def hidden_columns(columns: Iterable[str]) -> list[str]:
    """Columns of the files' own that nobody can select: DuckDB puts the partition's value in their place."""
    return [name for name in columns if name.lower() in ("year", "month", "day")]


def _struct(fields: Mapping[str, str]) -> str:
    return f"STRUCT({', '.join(f'{quote_identifier(name)} {kind}' for name, kind in fields.items())})"


def _holds(one: str, other: str) -> bool:
    """Does `one` have every field of `other`?"""
    if one.endswith("[]") and other.endswith("[]"):
        return _holds(one[:-2], other[:-2])
    fields, others = _fields(one), _fields(other)
    if fields is None or others is None:
        return True
    return all(name in fields and _holds(fields[name], kind) for name, kind in others.items())


def _fields(kind: str) -> dict[str, str] | None:
    """Fields of a STRUCT; None for every other type."""
    if not (kind.startswith("STRUCT(") and kind.endswith(")")):
        return None
    found = {}
    for part in _parts(kind[len("STRUCT(") : -1]):
        name = _NAME.match(part)
        assert name is not None, kind
        plain = name[2] if name[1] is None else name[1].replace('""', '"')
        found[plain] = part[name.end() :].strip()
    return found


def _parts(text: str) -> Iterator[str]:
    """Split at commas that stand in no parentheses and no quotes."""
    depth, quoted, start = 0, False, 0
    for index, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character == "(") - (character == ")")
            if character == "," and depth == 0:
                yield text[start:index].strip()
                start = index + 1
    if text.strip():
        yield text[start:].strip()
