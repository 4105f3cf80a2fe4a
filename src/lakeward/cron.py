"""When, as cron has it: five fields, in UTC; and as Quartz has it, which Airbyte speaks."""

from __future__ import annotations

import re

# Least and greatest of each field: minute, hour, day, month, day of the week.
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def is_cron(text: str) -> bool:
    """`*`, numbers, ranges, steps and lists of them; names of months and days are not taken."""
    fields = text.split(" ")
    return len(fields) == 5 and all(map(_is_field, fields, _BOUNDS))


def as_quartz(text: str) -> str:
    """Six fields, seconds first, `?` for the day that is not meant; Sunday is 1 there.

    Raises ValueError for what Airbyte takes no schedule for.
    """
    minute, hour, day, month, weekday = text.split(" ")
    if not minute.isdigit():
        raise ValueError("Airbyte syncs once an hour at most: give one minute, as in 15 * * * *")
    if day != "*" and weekday != "*":
        raise ValueError("Airbyte takes a day of the month or one of the week: write * for the other")
    if weekday == "*":
        return f"0 {minute} {hour} {day} {month} ?"
    days = sorted({number % 7 + 1 for part in weekday.split(",") for number in _numbers(part, 0, 6)})
    return f"0 {minute} {hour} ? {month} {','.join(map(str, days))}"


def _is_field(field: str, bounds: tuple[int, int]) -> bool:
    least, greatest = bounds
    for part in field.split(","):
        found = re.fullmatch(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/[1-9]\d?)?", part, re.ASCII)
        if found is None or not all(least <= int(each) <= greatest for each in found.groups() if each):
            return False
        if found[2] and int(found[1]) > int(found[2]):
            return False
    return True


def _numbers(part: str, least: int, greatest: int) -> range:
    span, _, step = part.partition("/")
    first, _, last = span.partition("-")
    if first == "*":
        return range(least, greatest + 1, int(step or 1))
    return range(int(first), int(last or (greatest if step else first)) + 1, int(step or 1))
