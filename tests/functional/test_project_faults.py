"""What people do to a project and to the places it stands on: each fault names itself and stops no more."""

from __future__ import annotations

import json
import os
import subprocess

import duckdb
import pytest

from lakeward import embedded
from lakeward.embedded import EmbeddedCatalog
from tests.scratch import MODEL, ScratchLake, launcher
from tests.servers import PostgresServer

# Two megabytes for each row of the batch, all at once.
HUNGRY = """
{{ config(tags=['processed', 'SOURCE__STREAM'], materialized='incremental', unique_key='item_id') }}

with batch as (from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true))
select filename as _source_file, id as item_id, 'a' as word, _airbyte_extracted_at
from batch
where (select length(string_agg(repeat('x', 2_000_000), '')) from batch) > 0
"""


@pytest.fixture
def items(lake: ScratchLake) -> ScratchLake:
    """A stream that is fed, with something more to feed."""
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(5))
    lake.feed()
    lake.land("shop/items", 2, "b.parquet", range(5, 10))
    return lake


def keys(lake: ScratchLake, model: str = "int_shop__items") -> list[int]:
    return [key for key, _ in lake.table(model)]


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("dag/processed/shop/int_shop__bad.sql", "select {{ oops( }}", "int_shop__bad.sql"),
        pytest.param(
            "dag/enriched/int_shop__items.sql", "select 1 as a", "int_shop__items", marks=pytest.mark.slow
        ),
        ("dag/enriched/fct_bad.sql", "select * from {{ ref('nobody') }}", "fct_bad"),
        pytest.param("dag/enriched/fct_bad.yml", "models: [", "fct_bad.yml", marks=pytest.mark.slow),
    ],
    ids=["jinja", "name twice", "ref to nothing", "yaml"],
)
def test_a_project_that_does_not_parse_names_the_offender_and_feeds_on(
    items: ScratchLake, path: str, text: str, told: str
) -> None:
    items.write(path, text)
    fed = items.cli("feed", check=False)
    assert fed.returncode == 1
    assert told in fed.stderr
    assert keys(items) == [*range(10)]
    status = items.cli("status", check=False)
    assert status.returncode == 1
    assert told in status.stdout
    (items.project_dir / path).unlink()
    assert items.cli("feed").returncode == 0
    assert items.cli("status").returncode == 0


def test_a_misspelt_tag_a_stream_alone_and_a_model_alone(items: ScratchLake) -> None:
    items.write("dag/streams/shop/bad.json", "{}")
    items.write("dag/processed/shop/int_shop__bad.sql", MODEL.replace("SOURCE__STREAM", "shop__bda"))
    items.land("shop/bad", 1, "a.parquet", range(5))
    fed = items.cli("feed", check=False)
    assert fed.returncode == 1
    assert "shop/bad: no model carries the tag shop__bad" in fed.stderr.replace(
        "shop/bad: shop/bad:", "shop/bad:"
    )
    assert keys(items) == [*range(10)]
    assert items.cli("status", check=False).returncode == 1
    checked = items.cli("check", check=False)
    assert checked.returncode == 2
    assert "carries the tag shop__bda, but there is no such stream" in checked.stdout
    assert "shop/bad.json: no model carries the tag shop__bad" in checked.stdout
    ran = items.dbt("run", "-s", "int_shop__bad", check=False)
    assert ran.returncode == 1
    assert "the tag shop__bda names no stream" in ran.stdout


def test_a_model_renamed_is_a_new_table_and_a_stream_file_deleted_waits(items: ScratchLake) -> None:
    folder = items.project_dir / "dag/processed/shop"
    (folder / "int_shop__items.sql").rename(folder / "int_shop__items_all.sql")
    items.cli("feed")
    assert keys(items, "int_shop__items_all") == [*range(10)]
    assert keys(items) == [*range(5)]  # nobody's any more, and left alone
    stream = items.project_dir / "dag/streams/shop/items.json"
    stream.rename(items.root / "items.json")
    items.add_stream("shop/others")
    items.land("shop/others", 1, "a.parquet", range(3))
    items.land("shop/items", 3, "c.parquet", range(10, 15))
    items.cli("feed")
    assert keys(items, "int_shop__others") == [*range(3)]
    assert keys(items, "int_shop__items_all") == [*range(10)]
    (items.root / "items.json").rename(stream)
    items.cli("feed")
    assert keys(items, "int_shop__items_all") == [*range(15)]


def test_streams_may_be_called_like_sql(lake: ScratchLake) -> None:
    for stream in ("select/from", "shop/table", "order/group"):
        lake.add_stream(stream)
        lake.land(stream, 1, "a.parquet", range(3))
    assert not any(report.failed for report in lake.feed().values())
    assert keys(lake, "int_select__from") == keys(lake, "int_order__group") == [0, 1, 2]


def test_nothing_landed_no_folder_and_no_landing_zone(
    items: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    items.add_stream("shop/empty")
    (items.landing / "raw/shop/empty/year=2026").mkdir(parents=True)
    items.add_stream("shop/absent")
    assert items.cli("feed").returncode == 0
    assert keys(items) == [*range(10)]
    monkeypatch.setenv("LAKEWARD_LANDING_URL", str(items.root / "nowhere"))
    fed = items.cli("feed", check=False)
    assert fed.returncode == 2
    assert "nowhere: no such folder" in fed.stderr
    assert items.cli("status", check=False).returncode == 2


def test_a_landing_zone_inside_the_lakes_data_is_refused(
    items: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEWARD_LANDING_URL", str(items.root / ".lake/data/landing"))
    done = items.cli("feed", check=False)
    assert done.returncode == 2
    assert "contain one another" in done.stderr


def test_a_catalog_that_may_only_be_read(items: ScratchLake, postgres: PostgresServer) -> None:
    database = os.environ["LAKEWARD_CATALOG_URL"].rsplit("/", 1)[1]
    postgres.run(database, f'alter database "{database}" set default_transaction_read_only = on')
    with pytest.raises(AssertionError, match="read-only transaction"):
        postgres.run(database, "create table probe (a int)")
    fed = items.cli("feed", check=False)
    assert fed.returncode == 1
    assert "read-only transaction" in fed.stderr
    assert "Traceback" not in fed.stderr
    assert items.cli("status").returncode == 0  # who only looks may
    postgres.run("postgres", f'alter database "{database}" set default_transaction_read_only = off')
    items.cli("feed")
    assert keys(items) == [*range(10)]


def test_a_catalog_of_a_format_to_come(items: ScratchLake, postgres: PostgresServer) -> None:
    database = os.environ["LAKEWARD_CATALOG_URL"].rsplit("/", 1)[1]
    (version,) = postgres.run(database, "select value from ducklake_metadata where key = 'version'")
    postgres.run(database, "update ducklake_metadata set value = '9.9' where key = 'version'")
    for command in ("feed", "status"):
        done = items.cli(command, check=False)
        assert done.returncode == 1
        assert "9.9" in done.stderr
        assert "Traceback" not in done.stderr
    postgres.run(database, f"update ducklake_metadata set value = '{version}' where key = 'version'")
    items.cli("feed")
    assert keys(items) == [*range(10)]


def test_a_disk_that_takes_no_more(items: ScratchLake) -> None:
    """A limit on the size of files stands in for the full disk: the system refuses the write."""
    items.land("shop/items", 3, "big.parquet", range(10, 200_000))
    running = launcher().start(
        "lakeward", "feed", cwd=items.root, before="tests.hooks:limit_file_size", options={"size": 100_000}
    )
    done = running.wait(60)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(items.cli("quarantine", "list", "--json").stdout) == []
    items.cli("feed")
    assert keys(items) == [*range(200_000)]


def test_a_folder_that_may_not_be_read(items: ScratchLake) -> None:
    items.add_stream("shop/others")
    items.land("shop/others", 1, "a.parquet", range(3))
    closed = items.landing / "raw/shop/items/year=2026/month=11/day=03"
    items.land("shop/items", 3, "a.parquet", range(10, 15))
    closed.chmod(0)

    def unprivileged(*command: str) -> subprocess.CompletedProcess[str]:
        """root reads everything: without its capabilities it is an account like any other."""
        return launcher().start(*command, cwd=items.root, before="tests.hooks:drop_capabilities").wait(60)

    probe = items.root / "probe.py"
    probe.write_text(f"import os; os.listdir({str(closed)!r})")
    assert "PermissionError" in unprivileged("python", str(probe)).stderr
    fed = unprivileged("lakeward", "feed")
    assert fed.returncode == 1
    assert "day=03" in fed.stderr
    assert "Permission denied" in fed.stderr
    assert keys(items) == [*range(10)]  # the days beside it
    assert keys(items, "int_shop__others") == [*range(3)]
    assert "Permission denied" in unprivileged("lakeward", "status").stdout
    closed.chmod(0o755)
    assert unprivileged("lakeward", "feed").returncode == 0
    assert keys(items) == [*range(15)]


def test_text_that_is_no_utf8_is_one_files_fault(items: ScratchLake) -> None:
    folder = items.landing / "raw/shop/items/year=2026/month=11/day=02"
    with duckdb.connect() as con:
        for key, name in ((98, "good.parquet"), (99, "bad.parquet")):
            con.execute(
                "copy (select 'r' as _airbyte_raw_id, timestamptz '2026-11-02' as _airbyte_extracted_at, "
                f"1::bigint as _airbyte_generation_id, {key}::bigint as id, "
                '\'{"word": "XXXX"}\' as attributes) '
                f"to '{folder / name}' (format parquet, compression uncompressed)"
            )
    bad = folder / "bad.parquet"
    bad.write_bytes(bad.read_bytes().replace(b"XXXX", b"\xff\xfe\xfd\xfc"))
    report = items.feed()["shop/items"]
    ((path, why),) = report.quarantined.items()
    assert path.endswith("bad.parquet")
    assert "not valid UTF8" in why
    assert keys(items) == [*range(10), 98]


def test_a_batch_that_exceeds_memory_is_taken_in_smaller_parts(
    items: ScratchLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model asks for more memory than there is, by the number of its rows."""
    items.add_stream("shop/hungry", model=HUNGRY)
    for day in range(1, 9):
        items.land("shop/hungry", day, "a.parquet", range(day * 10, day * 10 + 10))
    monkeypatch.setenv("LAKEWARD_MEMORY_LIMIT", "150MB")
    fed = items.cli("feed", "shop/hungry")
    assert len(keys(items, "int_shop__hungry")) == 80
    assert int(items.query("select count(distinct batch_id) from meta.feeder_log where event = 'applied' "
                           "and stream = 'hungry'")[0][0]) > 1, fed.stderr  # fmt: skip


def test_a_lake_whose_first_start_was_killed_half_way_starts(embedded_lake: ScratchLake) -> None:
    """Between the rename of the new data folder and the creation of its database."""
    embedded_lake.add_stream("shop/items")
    embedded_lake.land("shop/items", 1, "a.parquet", range(3))
    catalog = EmbeddedCatalog(embedded_lake.root / ".lake").open()
    embedded._pg("dropdb", f"--host={catalog.host}", "--username=postgres", "lakeward")
    catalog.close()
    (embedded_lake.root / ".lake/catalog/lakeward.complete").unlink()
    embedded_lake.cli("feed")
    assert keys(embedded_lake) == [0, 1, 2]


def test_an_editors_lock_file_is_no_part_of_the_project(items: ScratchLake) -> None:
    """Emacs keeps a link to nowhere beside a file that is being changed."""
    (items.project_dir / "dag/processed/shop/.#int_shop__items.sql").symlink_to("somebody@somewhere.1234")
    assert items.cli("feed").returncode == 0
    assert items.cli("status").returncode == 0
    assert keys(items) == [*range(10)]


def test_a_path_typed_in_another_spelling_is_refused(items: ScratchLake) -> None:
    applied = "raw/shop/items//year=2026/month=11/day=01/a.parquet"
    for path in (applied, "raw/shop/items/../items/year=2026/month=11/day=01/a.parquet"):
        variables = json.dumps({"files": [path]})
        done = items.dbt("run", "-s", "int_shop__items", "--vars", variables, check=False)
        assert done.returncode == 1
        assert "as `lakeward files shop/items` does" in done.stdout


def test_an_error_that_is_over_leaves_status(items: ScratchLake) -> None:
    items.add_stream("shop/items", model=MODEL.replace("'$.word'", "'$.word' || nothing"))
    assert items.cli("feed", check=False).returncode == 1
    assert items.cli("status", check=False).returncode == 1
    items.add_stream("shop/items")
    (items.landing / "raw/shop/items/year=2026/month=11/day=02/b.parquet").unlink()
    assert items.cli("feed").returncode == 0
    assert items.cli("status").returncode == 0
