"""Ten schedules of kills; `make chaos` runs as many as you like, `make test-all` two hundred."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.chaos.__main__ import Ranges, shooting_ranges

# A phase of each that has caught something or nearly did; the seed draws the step, the place and the moment.
SCHEDULES = [
    ("first run", "bootstrap"),
    ("first run", "commit"),
    ("run", "listing"),
    ("run", "commit"),
    ("run", "post-hook"),
    ("run", "mart"),
    ("refresh", "refresh swap"),
    ("refresh", "commit"),
    ("dbt full refresh", "drop"),
]


@pytest.fixture(scope="module")
def ranges() -> Iterator[Ranges]:
    with shooting_ranges() as made:
        yield made


@pytest.mark.parametrize(("seed", "scenario", "phase"), [(seed, *one) for seed, one in enumerate(SCHEDULES)])
def test_a_killed_process_leaves_nothing_lost_doubled_or_in_the_way(
    ranges: Ranges, seed: int, scenario: str, phase: str
) -> None:
    outcome = ranges.network.run(ranges.network.schedule(seed, scenario, phase))
    assert not outcome.differences, (outcome.schedule, outcome.died_in, outcome.differences[:10])


@pytest.mark.slow
def test_neither_does_a_catalog_killed_with_it(ranges: Ranges) -> None:
    outcome = ranges.embedded.run(ranges.embedded.schedule(9, "run"))
    assert not outcome.differences, (outcome.schedule, outcome.died_in, outcome.differences[:10])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "phase"), [("store", "write"), ("postgres", "commit"), ("store", "footers")]
)
def test_nor_does_a_server_killed_under_it(ranges: Ranges, target: str, phase: str) -> None:
    schedule = replace(ranges.team.schedule(1, "run", phase), target=target)
    outcome = ranges.team.run(schedule)
    assert not outcome.differences, (outcome.schedule, outcome.died_in, outcome.differences[:10])
