"""Store, catalog, disk or clock in trouble: nothing lost, nothing doubled, and a word on why."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from _pytest.mark import ParameterSet

from tests.faulty_proxy import FAULTS, SECONDS, FaultyProxy, after, always, each, first, seeded
from tests.scratch import APPEND, ScratchLake, launcher, scratch_lake
from tests.servers import PostgresServer, S3Server

LISTING = r"GET /lake\?"
READING = r"(GET|HEAD) /lake/landing/"
WRITING = r"(PUT|POST) /lake/data/"


def slow(*values: str) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.slow)


@dataclass
class Team:
    """A lake on S3 behind the proxy and on a network Postgres; a model with a key, and one without."""

    lake: ScratchLake
    s3: S3Server
    proxy: FaultyProxy
    environment: dict[str, str]
    landed: list[int] = field(default_factory=list)

    def land(self, *days: int) -> None:
        """A file of five rows on each of the days."""
        for day in days:
            ids = range(len(self.landed), len(self.landed) + 5)
            path = self.lake.land("shop/items", day, f"{ids.start}.parquet", ids)
            self.s3.store("landing").put(str(path.relative_to(self.lake.landing)), path)
            self.landed += ids

    def feed(self) -> subprocess.CompletedProcess[str]:
        done = self.lake.cli("feed", check=False)
        assert "Traceback" not in done.stderr
        return done

    def is_loaded(self) -> bool:
        """Every row once, in both models, and no file blamed."""
        tables = [self.lake.table(f"int_shop__items{suffix}") for suffix in ("", "_log")]
        assert self.lake.events("quarantined") == []
        return all([key for key, _ in table] == self.landed for table in tables)

    def recovers(self) -> bool:
        """All is well again. Does the next feed load what is left, exactly once?"""
        self.proxy.heal()
        self.lake.cli("feed")
        return self.is_loaded()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[Team]:
    lake = scratch_lake(tmp_path_factory.mktemp("lake"))
    lake.add_stream("shop/items", config={"batch_max_bytes": 1})
    log = APPEND.replace("SOURCE__STREAM", "shop__items")
    lake.write("dag/processed/shop/int_shop__items_log.sql", log)
    with (
        closing(S3Server(tmp_path_factory.mktemp("seaweedfs"))) as s3,
        closing(FaultyProxy(s3.endpoint.removeprefix("http://"))) as proxy,
    ):
        environment = s3.environment | {
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "LAKEWARD_LANDING_URL": f"s3://{S3Server.BUCKET}/landing",
            "LAKEWARD_DATA_URL": f"s3://{S3Server.BUCKET}/data",
            "LAKEWARD_CATALOG_URL": postgres.create_database("faults"),
        }
        yield Team(lake, s3, proxy, environment)


@pytest.fixture
def team(started: Team, monkeypatch: pytest.MonkeyPatch) -> Team:
    """One lake for all tests: each finds two files pending, and batches of a file."""
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    if not started.landed:
        started.land(1, 2)
        started.lake.cli("feed")
    started.proxy.heal()
    started.land(3, 4)
    return started


@pytest.mark.parametrize("fault", [*map(slow, ("500", "503", "drop", "lost", "slow")), "cut"])
def test_a_store_in_trouble_for_a_moment_is_asked_again(team: Team, fault: str) -> None:
    times = {LISTING: 2, READING: 5, WRITING: 4}
    team.proxy.plan = each(*(first(number, fault, wanted) for wanted, number in times.items()))
    done = team.feed()
    assert done.returncode == 0, done.stderr
    assert team.proxy.met[fault] == 11
    assert team.is_loaded()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        slow("500", "500 Internal Server Error"),
        slow("503", "503 Service Unavailable"),
        slow("drop", "Server returned nothing"),
        slow("cut", "partial file"),
        ("expired", "ExpiredToken: The provided token has expired"),
    ],
)
@pytest.mark.parametrize(
    "passed", [pytest.param(0, id="footers"), pytest.param(2, id="rows", marks=pytest.mark.slow)]
)
def test_landed_files_that_the_store_does_not_give_stay_pending(
    team: Team, fault: str, told: str, passed: int
) -> None:
    """The footers of two files come in two requests; those after them are for the rows."""
    team.proxy.plan = after(passed, fault, r"GET /lake/landing/")
    done = team.feed()
    assert done.returncode == 1
    assert done.stderr.count("cannot be reached") == 2
    assert told in done.stderr
    assert team.recovers()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        slow("500", "We encountered an internal error"),
        slow("503", "SlowDown"),
        slow("drop", "error sending request"),
        ("cut", "Error getting list response body"),
        ("expired", "ExpiredToken"),
    ],
)
def test_a_store_that_lists_nothing_is_an_error_that_says_why(team: Team, fault: str, told: str) -> None:
    team.proxy.plan = always(fault, LISTING)
    done = team.feed()
    assert done.returncode == 1
    assert "cannot read the landing zone" in done.stderr
    assert told in done.stderr
    assert team.recovers()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        slow("500", "HTTP 500"),
        slow("503", "HTTP 503"),
        slow("lost", "Server returned nothing"),
        ("expired", "ExpiredToken"),
    ],
)
def test_a_store_that_takes_nothing_is_an_error_and_all_stays_pending(
    team: Team, fault: str, told: str
) -> None:
    team.proxy.plan = always(fault, WRITING)
    done = team.feed()
    assert done.returncode == 1
    assert told in done.stderr
    assert team.recovers()


def test_a_listing_that_lags_is_made_good_by_the_next(team: Team) -> None:
    team.land(5)
    team.proxy.plan = always("lag")
    done = team.feed()
    assert "fed 1 file" in done.stdout
    assert team.feed().stdout.startswith("nothing pending")
    assert team.recovers()


@pytest.mark.slow
def test_an_answer_that_does_not_come_is_asked_for_again(team: Team) -> None:
    team.proxy.plan = each(first(1, "hang", LISTING), first(1, "hang", READING))
    assert SECONDS["hang"] > 30  # the patience of both clients
    done = team.feed()
    assert done.returncode == 0, done.stderr
    assert team.proxy.met["hang"] == 2
    assert team.is_loaded()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_fails_at_random_loses_and_doubles_nothing(team: Team, seed: int) -> None:
    team.proxy.plan = seeded(seed, 0.3, FAULTS)
    for day in range(6, 12):
        team.feed()
        team.land(day)
    assert team.proxy.met.total() > 20
    assert team.recovers()


@pytest.mark.slow
def test_a_disk_that_is_full_of_spill(lake: ScratchLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands in for the full disk; the data files stay below it."""
    lake.add_stream("shop/items")
    lake.land_sql(
        "shop/items", 1, "a.parquet",
        """select 'r' as _airbyte_raw_id, timestamptz '2026-11-01 12:00:00+00' as _airbyte_extracted_at,
            1::bigint as _airbyte_generation_id, i::bigint as id,
            {'word': repeat(md5(i::varchar), 20), 'amount': 1.5} as attributes from range(200_000) as t(i)""",
    )  # fmt: skip
    monkeypatch.setenv("LAKEWARD_MEMORY_LIMIT", "250MB")
    lake.project()
    feeding = launcher().start(
        "lakeward", "feed", cwd=lake.root, before="tests.hooks:limit_file_size", options={"size": 20_000_000}
    )
    done = feeding.wait(60)
    assert done.returncode == 1
    assert ".lake/spill/" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert lake.events("quarantined") == []
    monkeypatch.delenv("LAKEWARD_MEMORY_LIMIT")
    lake.cli("feed")
    assert lake.query("select count(*), count(distinct item_id) from int_shop__items") == [(200_000, 200_000)]
