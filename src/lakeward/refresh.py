"""Rebuild a stream's models from everything that landed and is not quarantined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lakeward.errors import WriterConflict

if TYPE_CHECKING:
    from lakeward.manifest import Model
    from lakeward.transform import ModelResult, Transform

_ATTEMPTS = 5


def refresh(models: Sequence[Model], transform: Transform) -> list[ModelResult]:
    """`dbt run --full-refresh` per model; readers see the old table until the new one is complete.

    One statement over all files: needs disk to spill to, and stops at files that one statement cannot
    read together. Another writer's commit makes it start over, at most five times.
    """
    results = []
    for model in models:
        for _ in range(_ATTEMPTS):
            (result,) = transform.run([model.name], full_refresh=True)
            if not isinstance(result.error, WriterConflict):
                break
        results.append(result)
    return results
