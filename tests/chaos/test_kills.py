"""Ten schedules of kills; `make chaos` runs as many as you like, `make test-all` two hundred."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.__main__ import shooting_ranges
from tests.chaos.schedule import Range

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
def ranges() -> Iterator[tuple[Range, Range]]:
    with shooting_ranges() as both:
        yield both


@pytest.mark.parametrize(("seed", "scenario", "phase"), [(seed, *one) for seed, one in enumerate(SCHEDULES)])
def test_a_killed_process_leaves_nothing_lost_doubled_or_in_the_way(
    ranges: tuple[Range, Range], seed: int, scenario: str, phase: str
) -> None:
    network, _ = ranges
    outcome = network.run(network.schedule(seed, scenario, phase))
    assert not outcome.differences, (outcome.schedule, outcome.died_in, outcome.differences[:10])


@pytest.mark.slow
def test_neither_does_a_catalog_killed_with_it(ranges: tuple[Range, Range]) -> None:
    _, embedded = ranges
    outcome = embedded.run(embedded.schedule(9, "run"))
    assert not outcome.differences, (outcome.schedule, outcome.died_in, outcome.differences[:10])
