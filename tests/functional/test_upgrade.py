"""A lake that another lakeward has made. Nothing was released yet: version 1 is that of the months before."""

from __future__ import annotations

import pytest

from lakeward import meta
from lakeward.lake import open_lake
from lakeward.meta import LAKE_VERSION
from tests.functional.test_two_writers import held
from tests.scratch import APPEND, ScratchLake

_BACK_TO_1 = (
    "comment on table lakehouse.meta.feeder_log is null",
    "drop view meta.feeder_files",
    "drop table meta.sync_log",
    "drop table meta.airbyte_log",
    "alter table meta.feeder_log drop column nulled",
    "create view meta.feeder_files as select source, stream, model, build, path, etag, size, "
    "partition_date, generation, event as status, rows, extracted_at, batch_id, code, error, "
    "logged_at from meta.feeder_log where event = 'applied'",
)
_COLUMNS = (
    "select table_name, column_name, data_type from information_schema.columns "
    "where table_catalog = 'lakehouse' and table_schema = 'meta' order by all"
)


def tell(lake: ScratchLake, *statements: str) -> None:
    with open_lake(lake.project().settings) as opened:
        assert opened is not None
        for statement in statements:
            opened.query(statement)


def test_a_lake_of_an_older_version_is_taken_along_by_the_next_that_writes(fed: ScratchLake) -> None:
    fresh = fed.query(_COLUMNS)
    tell(fed, *_BACK_TO_1)
    refused = fed.cli("status", check=False)
    assert (refused.returncode, "this lake is of version 1" in refused.stderr) == (1, True)
    assert "lakeward feed brings it up to date" in refused.stderr
    fed.add_stream("shop/words", model=APPEND)
    fed.land("shop/words", 1, "older.parquet", range(3))
    fed.cli("feed")
    assert fed.query("select count(*) from int_shop__words") == [(3,)]
    assert fed.query(_COLUMNS) == fresh
    assert f"lake version {LAKE_VERSION}" in fed.cli("status").stdout
    assert fed.events() == ["a.parquet", "older.parquet"]


def test_a_lake_of_a_version_to_come_is_left_alone(fed: ScratchLake) -> None:
    told = f"comment on table lakehouse.meta.feeder_log is 'lakeward lake, version {LAKE_VERSION}'"
    tell(fed, told.replace(f"version {LAKE_VERSION}", f"version {LAKE_VERSION + 1}"))
    fed.land("shop/items", 2, "b.parquet", range(20, 30))
    commands = (
        "status", "feed", "maintain", "build", "refresh shop/items", "replay shop/items --since 2026-11-01",
        "quarantine retry shop/items", "files shop/items", "attach",
    )  # fmt: skip
    for command in commands:
        refused = fed.cli(*command.split(), check=False)
        assert refused.returncode == 1, command
        assert f"this lake is of version {LAKE_VERSION + 1}" in refused.stdout + refused.stderr, command
        assert "Traceback" not in refused.stderr
    assert fed.dbt("run", check=False).returncode == 1
    assert fed.cli("doctor", check=False).returncode == 1
    tell(fed, told)
    assert fed.events() == ["a.parquet"]
    fed.cli("feed")
    assert fed.events() == ["a.parquet", "b.parquet"]


def test_a_process_that_began_before_the_upgrade_stops_at_its_next_write(
    fed: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker that stays, while the lake is upgraded beneath it by another machine."""
    fed.land("shop/items", 2, "b.parquet", range(20, 30))
    with held(fed, "pre-hook", "lakeward", "feed") as feeding, monkeypatch.context() as later:
        later.setitem(meta._MIGRATIONS, LAKE_VERSION + 1, ("select 1",))
        later.setattr(meta, "LAKE_VERSION", LAKE_VERSION + 1)
        with open_lake(fed.project().settings) as lake:
            assert lake is not None
            meta.set_up(lake, [])
    done = feeding.wait(120)
    assert done.returncode == 1
    assert f"this lake is of version {LAKE_VERSION + 1}" in done.stderr
    tell(fed, f"comment on table lakehouse.meta.feeder_log is 'lakeward lake, version {LAKE_VERSION}'")
    assert fed.events() == ["a.parquet"]
    fed.cli("feed")
    assert fed.events() == ["a.parquet", "b.parquet"]
