"""A network Postgres that restarts, has no room for one more, is full, or stands elsewhere from now on."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.test_two_writers import LOG, expect_everything_once, held
from tests.scratch import APPEND, ScratchLake, launcher
from tests.servers import PostgresServer

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Not pytest's own folder: as root a server runs as nobody, who may not enter that one."""
    folder = Path(tempfile.mkdtemp(prefix="lakeward-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[PostgresServer]:
    made = PostgresServer(place / "postgres")
    yield made
    made.stop()


@pytest.fixture
def items(embedded_lake: ScratchLake, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> ScratchLake:
    """Five files fed, two more landed."""
    lake = embedded_lake
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", server.create_database(lake.root.name))
    lake.add_stream("shop/items")
    lake.write(f"dag/processed/shop/{LOG}.sql", APPEND.replace("SOURCE__STREAM", "shop__items"))
    land(lake, range(1, 6))
    lake.feed()
    land(lake, range(6, 8))
    return lake


def land(lake: ScratchLake, days: range) -> None:
    for day in days:
        lake.land("shop/items", day, "a.parquet", range(day * 10, day * 10 + 15))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("phase", ["reading", "rendering", "pre-hook"])
@pytest.mark.slow
def test_a_catalog_restarted_between_transactions_is_connected_to_again(
    items: ScratchLake, server: PostgresServer, phase: str, mode: str
) -> None:
    with held(items, phase, "lakeward", "feed") as feeding:
        server.stop(mode)
        server.start()
    assert feeding.wait(60).returncode == 0
    expect_everything_once(items)


@pytest.mark.parametrize(
    ("phase", "mode"),
    [
        ("commit", "immediate"),
        *(pytest.param(*both, marks=SLOW) for both in [("write", "fast"), ("commit", "fast")]),
    ],
)
def test_a_catalog_restarted_within_a_transaction_leaves_the_rest_to_the_next_feed(
    items: ScratchLake, server: PostgresServer, phase: str, mode: str
) -> None:
    with held(items, phase, "lakeward", "feed") as feeding:
        server.stop(mode)
        server.start()
    done = feeding.wait(60)
    assert done.returncode == 1
    assert "the catalog's Postgres went away" in done.stderr
    assert "Traceback" not in done.stderr
    items.cli("feed")
    expect_everything_once(items)


def test_a_catalog_that_is_down_is_named(items: ScratchLake, server: PostgresServer) -> None:
    server.stop()
    try:
        for command in ("feed", "status"):
            done = items.cli(command, check=False)
            assert done.returncode == 1
            assert "Connection refused" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        server.start()
    items.cli("feed")
    expect_everything_once(items)


def test_a_catalog_that_lets_nobody_in_is_no_outage(
    items: ScratchLake, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["LAKEWARD_CATALOG_URL"]
    server.run(items.root.name, "create role locked_out nologin password 'x'")
    server.run(items.root.name, "create role let_in login password 'x'")
    for wrong, said in {
        server.url("nowhere"): 'database "nowhere" does not exist',
        server.url(items.root.name, "let_in"): "no password supplied",
        server.url(items.root.name, "let_in:y"): 'password authentication failed for user "let_in"',
        server.url(items.root.name, "locked_out:x"): 'role "locked_out" is not permitted',
    }.items():
        monkeypatch.setenv("LAKEWARD_CATALOG_URL", wrong)
        done = items.cli("feed", "--watch", check=False)
        assert done.returncode == 1
        assert said in done.stderr
        assert "mend LAKEWARD_CATALOG_URL" in done.stderr
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", url)
    items.cli("feed")
    expect_everything_once(items)


def test_a_catalog_with_too_few_connections_says_so(
    items: ScratchLake, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = items.root.name
    server.run(database, "create role guest login password 'guest'")
    server.run(database, "grant create on schema public to guest")
    server.run(database, "grant all on all tables in schema public to guest")
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", server.url(database, "guest:guest"))
    for limit in range(10):
        server.run(database, f"alter role guest connection limit {limit}")
        done = items.cli("feed", check=False)
        assert "Traceback" not in done.stderr
        if done.returncode == 0:
            break
        assert "too many connections" in done.stderr
    assert limit > 1, "nothing was refused on the way"
    expect_everything_once(items)


@SLOW
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_catalog_whose_disk_is_full_says_so(
    items: ScratchLake, server: PostgresServer, place: Path
) -> None:
    name, disk = items.root.name, place / "small"
    disk.mkdir()
    server.stop("fast")
    server.start(small_disk=disk)
    server.psql("postgres", f"create tablespace small location '{disk}'")
    server.psql("postgres", f'alter database "{name}" set tablespace small')
    server.psql(
        name,
        "create table filler (x text); alter table filler alter column x set storage plain; "
        "do $$ begin loop begin insert into filler values (repeat('x', 7000)); "
        "exception when disk_full then exit; end; end loop; end $$",
    )
    done = items.cli("feed", check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    server.psql(name, "drop table filler")
    items.cli("feed")
    expect_everything_once(items)
    server.psql("postgres", f'alter database "{name}" set tablespace pg_default')
    server.psql("postgres", "drop tablespace small")
    server.stop("fast")
    server.start()


@SLOW
def test_a_watching_feed_outlives_a_restart(items: ScratchLake, server: PostgresServer) -> None:
    watching = launcher().start("lakeward", "feed", "--watch", cwd=items.root)
    deadline = time.monotonic() + 60
    while "fed 2 files" not in watching.said("out"):
        assert time.monotonic() < deadline, watching.said("err")
        time.sleep(0.2)
    server.stop()
    time.sleep(8)
    server.start()
    land(items, range(8, 10))
    while "fed 2 files" not in watching.said("out").partition("fed 2 files")[2]:
        assert time.monotonic() < deadline, watching.said("err")
        time.sleep(0.2)
    watching.kill(2)
    done = watching.wait(30)
    assert "Traceback" not in done.stderr
    expect_everything_once(items, range(1, 10))


def test_a_failover_to_a_standby_that_had_not_heard_of_the_last_feed(
    items: ScratchLake, server: PostgresServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed and is gone now is gone as a whole: rows, and the ledger's word on them."""
    standby = PostgresServer(place / "standby", copy_of=server)
    standby.stop("fast")
    items.cli("feed")
    expect_everything_once(items)
    server.stop()
    try:
        standby.start()
        monkeypatch.setenv("LAKEWARD_CATALOG_URL", standby.url(items.root.name))
        done = items.cli("feed", check=False)
        assert done.returncode == 1
        assert "read-only transaction" in done.stderr
        standby.promote()
        items.cli("feed")
        expect_everything_once(items)
    finally:
        standby.stop()
        server.start()
