"""The oracle sees what it is there to see: each test plants one wrong thing."""

from __future__ import annotations

import pytest

from tests.chaos.oracle import (
    Row,
    Version,
    differences_append,
    differences_keyed,
    differences_ledger,
    moment,
    newest,
)


def version(path: str, *rows: tuple[int | None, str, int]) -> Version:
    """rows: key, word, second."""
    made = tuple(Row(key, word, moment(1, second), path, 1) for key, word, second in rows)
    return Version(path, "e", made)


OLD = version("a", (1, "old", 0), (2, "only", 0), (None, "nobody", 0))
NEW = version("b", (1, "new", 1))
TIED = version("c", (3, "one", 0), (3, "other", 0))
RIGHT = [
    Row(1, "new", moment(1, 1), "b", 1),
    Row(2, "only", moment(1), "a", 1),
    Row(None, "nobody", moment(1), "a", 1),
]


def test_the_right_table_has_no_differences_whichever_came_first() -> None:
    assert not differences_keyed(RIGHT, [OLD, NEW])
    assert not differences_keyed(RIGHT, [NEW, OLD])


def test_of_two_of_one_moment_the_greater_file_wins_and_in_one_file_either_may() -> None:
    later = version("d", (1, "tie", 1))
    assert newest([NEW, later])[1] == {Row(1, "tie", moment(1, 1), "d", 1)}
    for word in ("one", "other"):
        assert not differences_keyed([Row(3, word, moment(1), "c", 1)], [TIED])


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([*RIGHT, RIGHT[0]], "2 rows"),
        (RIGHT[1:], "key 1: missing"),
        ([Row(1, "old", moment(1), "a", 1), *RIGHT[1:]], "not the newest"),
        ([*RIGHT, Row(9, "stray", moment(1), "a", 1)], "in no file"),
        ([RIGHT[0], RIGHT[1], RIGHT[2]._replace(word="changed")], "not the newest"),
    ],
)
def test_a_wrong_table_is_told(table: list[Row], told: str) -> None:
    assert told in "; ".join(differences_keyed(table, [OLD, NEW]))


def test_rows_lost_or_doubled_in_a_table_without_a_key_are_told() -> None:
    rows = [*(OLD.rows or ()), *(NEW.rows or ())]
    assert not differences_append(rows, [OLD, NEW])
    assert "2 times, not 1" in differences_append([*rows, rows[0]], [OLD, NEW])[0]
    assert "0 times, not 1" in differences_append(rows[1:], [OLD, NEW])[0]


def test_a_ledger_that_says_too_much_or_too_little_is_told() -> None:
    held = {"m": [("a", "e")]}
    assert not differences_ledger(held, held, "applied")
    assert "should be" in differences_ledger({}, held, "applied")[0]
    assert "should not be" in differences_ledger(held, {}, "applied")[0]
