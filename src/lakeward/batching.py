"""How much at once: pure planning, no input or output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lakeward.intake import Inspected
from lakeward.schemas import grouped, readable_together


@dataclass(frozen=True)
class Limits:
    max_bytes: int
    max_files: int


def plan_batches(files: Sequence[Inspected], limits: Limits) -> list[list[Inspected]]:
    """Files in batches that stay under the limits and can be read by one statement.

    Order is kept inside a batch and no file is left out or given twice. Few large batches: delete+insert
    rewrites a delete file per data file it touches, so cost grows with the square of their number. A
    file larger than `max_bytes` goes alone.
    """
    groups: list[dict[str, str]] = []
    by_group: list[list[list[Inspected]]] = []
    for item in files:
        index = readable_together(groups, item.columns)
        if index is None:
            index = len(groups)
            groups.append({})
            by_group.append([[]])
        groups[index] = grouped(groups[index], item.columns)
        if not _fits(by_group[index][-1], item, limits):
            by_group[index].append([])
        by_group[index][-1].append(item)
    return [batch for batches in by_group for batch in batches]


def _fits(batch: Sequence[Inspected], item: Inspected, limits: Limits) -> bool:
    size = sum(other.file.size for other in batch) + item.file.size
    return not batch or (len(batch) < limits.max_files and size <= limits.max_bytes)
