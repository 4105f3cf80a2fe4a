"""How a name or a value enters SQL text, for the places where `?` cannot go."""

from __future__ import annotations

import re
from collections.abc import Iterable


def quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def quote_list(values: Iterable[str]) -> str:
    return "[" + ", ".join(quote_literal(value) for value in values) + "]"


def escape_glob(path: str) -> str:
    """A path as a pattern that matches itself alone: DuckDB expands `* ? [` inside list elements too."""
    return re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", path)
