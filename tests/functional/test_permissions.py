"""The roles and policies of deploy/, as they are there: they allow what each command needs, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import S3Store

from tests.scratch import REPOSITORY, ScratchLake
from tests.servers import PostgresServer, S3Server
from tests.shop import Shop

DEPLOY = REPOSITORY / "deploy"
LANDING, LAKE = "acme-landing", "acme-lake"  # the buckets that the policies name
CATALOG = "LAKEWARD_CATALOG_URL"
FILE = "raw/shop/items/year=2026/month=11/day=01/a.parquet"


@dataclass(frozen=True)
class Team:
    """A team's lake and its servers. accounts: what a program has to be given to be somebody there."""

    lake: ScratchLake
    s3: S3Server
    postgres: PostgresServer
    database: str
    accounts: dict[str, dict[str, str]]
    monkeypatch: pytest.MonkeyPatch

    def be(self, account: str) -> None:
        for variable, value in self.accounts[account].items():
            self.monkeypatch.setenv(variable, value)

    def store(self, account: str, bucket: str) -> S3Store:
        key, secret = (
            self.accounts[account][f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
        )
        return self.s3.store("", bucket=bucket, key=key, secret=secret)

    def cli(self, account: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.be(account)
        return self.lake.cli(*arguments, check=check)

    def upload(self, path: Path) -> str:
        """As whoever lands files does it: with an account of his own."""
        name = str(path.relative_to(self.lake.landing))
        self.s3.store("", bucket=LANDING).put(name, path)
        return name

    def landed(self) -> dict[str, tuple[str | None, object]]:
        """Etag and time of everything in the landing bucket."""
        pages = self.s3.store("", bucket=LANDING).list()
        return {meta["path"]: (meta["e_tag"], meta["last_modified"]) for page in pages for meta in page}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with closing(S3Server(tmp_path_factory.mktemp("seaweedfs"))) as server:
        server.shell(*(f"s3.bucket.create -name={bucket}" for bucket in (LANDING, LAKE)))
        yield server


@pytest.fixture(scope="module")
def keys(s3: S3Server) -> dict[str, dict[str, str]]:
    return {
        name: s3.add_user(name, *(DEPLOY / f"policy-{policy}.json" for policy in policies))
        for name, policies in {"feeder": ["feed"], "syncer": ["feed", "sync"], "reader": ["read"]}.items()
    }


@pytest.fixture
def team(
    embedded_lake: ScratchLake,
    s3: S3Server,
    keys: dict[str, dict[str, str]],
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Team:
    """An empty lake, in the buckets that the policies name."""
    for bucket in (LANDING, LAKE):
        store = s3.store("", bucket=bucket)
        for page in store.list():
            store.delete([meta["path"] for meta in page])
    database = f"acme_{embedded_lake.root.name}"
    postgres.create_database(database)
    for _ in range(2):  # once more does no harm
        postgres.run_script(database, DEPLOY / "roles.sql")
    catalogs = {}
    for role in ("writer", "reader"):
        postgres.run(database, f"alter role lakeward_{role} password 'of the {role}'")
        catalogs[role] = {CATALOG: postgres.url(database, f"lakeward_{role}:of%20the%20{role}")}
    monkeypatch.setenv("LAKEWARD_LANDING_URL", f"s3://{LANDING}")
    monkeypatch.setenv("LAKEWARD_DATA_URL", f"s3://{LAKE}/data")
    accounts = {
        name: variables | catalogs["reader" if name == "reader" else "writer"]
        for name, variables in keys.items()
    }
    return Team(embedded_lake, s3, postgres, database, accounts, monkeypatch)


def test_a_lake_is_fed_rebuilt_and_looked_at_by_who_may_only_read_what_landed(team: Team) -> None:
    lake = team.lake
    lake.add_stream("shop/items")
    for day, ids in ((1, range(10)), (2, range(5, 15))):
        team.upload(lake.land("shop/items", day, "a.parquet", ids))
    before = team.landed()
    team.cli("feeder", "feed")
    team.upload(lake.land("shop/items", 3, "b.parquet", range(15, 20)))
    team.cli("feeder", "run")
    team.cli("feeder", "refresh", "shop/items")
    team.cli("feeder", "replay", "shop/items", "--since", "2026-11-03")
    team.cli("feeder", "feed", "--reconcile")
    team.cli("feeder", "maintain")
    assert lake.table("int_shop__items") == [(n, "a") for n in range(20)]
    assert before.items() <= team.landed().items()
    assert len(team.landed()) == 3

    shown = team.cli("reader", "status").stdout
    assert "shop/items" in shown
    assert "ok" in shown
    assert "20" in team.cli("reader", "sql", "select count(*) from int_shop__items").stdout
    assert "b.parquet" in team.cli("reader", "files", "shop/items").stdout


@pytest.mark.parametrize("account", ["feeder", "reader"])
def test_the_store_lets_neither_feeder_nor_reader_change_what_landed(team: Team, account: str) -> None:
    team.upload(team.lake.land("shop/items", 1, "a.parquet", range(10)))
    before = team.landed()
    landing = team.store(account, LANDING)
    for path in (FILE, "raw/new.parquet", "staging/shop/new.parquet"):
        with pytest.raises(PermissionDeniedError):
            landing.put(path, b"other")
    with pytest.raises(PermissionDeniedError):
        landing.copy(FILE, f"{FILE}-1")
    with pytest.raises(BaseError, match="AccessDenied"):
        landing.delete(FILE)
    assert team.landed() == before


def test_the_reader_may_write_nothing_and_is_told_so(team: Team) -> None:
    lake = team.lake
    lake.add_stream("shop/items")
    assert "shop/items" in team.cli("reader", "status").stdout  # of a catalog that is not there yet
    team.upload(lake.land("shop/items", 1, "a.parquet", range(10)))
    team.cli("feeder", "feed")
    team.upload(lake.land("shop/items", 4, "pending.parquet", range(3)))
    data = team.store("reader", LAKE)
    with pytest.raises(PermissionDeniedError):
        data.put("data/new.parquet", b"new")
    with pytest.raises(BaseError, match="AccessDenied"):
        data.delete("data/main")
    refused = team.cli("reader", "feed", check=False)
    assert refused.returncode == 1
    assert "403 Forbidden" in refused.stderr

    team.be("feeder")  # at the store; at the catalog
    team.monkeypatch.setenv(CATALOG, team.accounts["reader"][CATALOG])
    for command in ("feed", "refresh shop/items", "replay shop/items --since 2026-11-01"):
        refused = lake.cli(*command.split(), check=False)
        told = refused.stdout + refused.stderr
        assert refused.returncode == 1, told
        assert "read-only transaction" in told
        assert "may only read: see deploy/roles.sql" in told
        assert "Traceback" not in told
    assert "read-only mode" in lake.cli("sql", "create table mine as select 1", check=False).stderr
    assert "fed 1 file, 3 rows" in team.cli("feeder", "feed").stdout


def test_a_sync_needs_to_write_staging_and_raw_and_nothing_else(team: Team) -> None:
    shop = Shop(team.lake)
    team.be("feeder")
    refused = shop.sync()
    assert refused.returncode == 1
    assert "cannot write to the landing zone" in refused.stderr
    team.be("syncer")
    assert shop.sync().returncode == 0
    assert not [path for path in team.landed() if path.startswith("staging/")]
    landed = [path for path in team.landed() if path.startswith("raw/shop/notes")]
    assert len(landed) == 1
    with pytest.raises(BaseError, match="AccessDenied"):
        team.store("syncer", LANDING).delete(landed[0])
    team.cli("feeder", "feed")
    assert team.lake.query("select count(*) from int_shop__notes") == [(5,)]


def test_the_writer_owns_the_catalogs_tables_and_is_nothing_more(team: Team) -> None:
    team.be("feeder")
    team.lake.add_stream("shop/items")
    team.upload(team.lake.land("shop/items", 1, "a.parquet", range(10)))
    team.lake.cli("feed")
    run = team.postgres.run
    powers = "rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls"
    assert run(
        team.database, f"select count(*) from pg_roles where rolname like 'lakeward%' and ({powers})"
    ) == ["0"]
    owners = run(team.database, "select distinct tableowner::text from pg_tables where schemaname = 'public'")
    assert owners == ["lakeward_writer"]
    unreadable = run(
        team.database,
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' "
        "and not has_table_privilege('lakeward_reader', oid, 'select')",
    )
    assert unreadable == ["0"]
    writable = run(
        team.database,
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace and "
        "has_table_privilege('lakeward_reader', oid, 'insert, update, delete, truncate, trigger')",
    )
    assert writable == ["0"]
    may_create = "has_schema_privilege('lakeward_reader', 'public', 'create')"
    assert run(team.database, f"select {may_create}") == ["False"]
