"""Any order of arrival, cut into feeds anywhere, ends in the table that the files themselves define."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.chaos import oracle
from tests.chaos.oracle import Identity
from tests.chaos.schedule import compare
from tests.chaos.world import World
from tests.servers import PostgresServer

DAYS = st.integers(1, 9)
KEYS = st.lists(st.integers(1, 12) | st.none(), max_size=6, unique=True)
NAMES = st.sampled_from(["0.parquet", "0.parquet-1", "a b.parquet", "1_2.parquet", "part=0.parquet"])


@pytest.fixture(scope="module")
def world(postgres: PostgresServer) -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="lakeward-disorder-"))
    made = World(root, postgres)
    made.found()
    yield made
    shutil.rmtree(root)


class Arrival(RuleBasedStateMachine):
    """Files land, are written anew, vanish, and are fed at any time."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.bring_back("empty")
        self.read: set[Identity] = set()  # every version that lay there when a feed began
        self.second = 0
        self.is_fed = True

    @rule(day=DAYS, name=NAMES, keys=KEYS, padded=st.booleans(), skew=st.sampled_from([0, 0, -9, 30]))
    def land(self, day: int, name: str, keys: list[int | None], padded: bool, skew: int) -> None:
        """skew: days by which the clock behind `_airbyte_extracted_at` is wrong. No moment comes twice."""
        self.second += 1
        at = oracle.moment(day, self.second) + timedelta(days=skew)
        self.world.land(day, name, keys, word=f"w{self.second}", at=at, padded=padded)
        self.is_fed = False

    @precondition(lambda self: self.world.present())
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        paths = sorted(version.path for version in self.world.present())
        (self.world.lake.landing / data.draw(st.sampled_from(paths))).unlink()
        self.is_fed = False

    @precondition(lambda self: not self.is_fed and self.world.present())
    @rule()
    def feed(self) -> None:
        done = self.world.run("lakeward", "feed")
        assert done.returncode == 0, done.stderr
        self.is_fed = True
        self.read |= {version.identity for version in self.world.present()}
        told, _ = compare(self.world, self.read, marts=False)
        assert not told, told[:5]

    def teardown(self) -> None:
        if not self.is_fed and self.world.present():
            self.feed()


@pytest.mark.timeout(3600)  # forty of them in `make test-all`
def test_any_arrival_ends_in_the_same_table(world: World) -> None:
    Arrival.world = world
    profile = settings.default
    assert profile is not None
    run_state_machine_as_test(
        Arrival,
        settings=settings(
            max_examples=profile.max_examples // 25,  # 4; `make test-all` has another profile
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
