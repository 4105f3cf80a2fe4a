"""Fixtures: a scratch lake per test, on one real Postgres per session."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings

import lakeward.transform  # noqa: F401, TID253 - nearly every test needs dbt
from tests.launcher import trust_extensions
from tests.scratch import SETTING, ScratchLake, remove_catalog, scratch_lake
from tests.servers import SETTINGS, PostgresServer, S3Server

settings.register_profile("usual", deadline=None)  # a slow machine is no failure
settings.register_profile("all", deadline=None, max_examples=1000)  # `make test-all`
settings.load_profile("usual")

trust_extensions()
gc.freeze()  # what dbt's import made stays: searching it for garbage was a sixth of the tests' time

EXPECTED_SKIPS = Path(__file__).parent / "expected_skips.txt"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    # Not pytest's own folder: as root the server runs as nobody, who may not enter that one.
    folder = Path(tempfile.mkdtemp(prefix="lakeward-test-"))
    folder.chmod(0o755)
    server = PostgresServer(folder / "postgres")
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(SETTING):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LAKEWARD_WORKERS", "1")  # more would import dbt again; some tests want that
    monkeypatch.setenv("LAKEWARD_THREADS", "1")  # as two workers on two cores: idle DuckDB threads spin


@pytest.fixture(scope="session")
def parsed_macros(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the macros alone: dbt parses only what a test adds to it, in a third of the time."""
    lake = scratch_lake(tmp_path_factory.mktemp("template"))
    lake.dbt("parse")
    return lake.project_dir / "target"


@pytest.fixture
def embedded_lake(tmp_path_factory: pytest.TempPathFactory, parsed_macros: Path) -> Iterator[ScratchLake]:
    """A lake as a user gets it: nothing set, the embedded catalog."""
    lake = scratch_lake(tmp_path_factory.mktemp("lake"))
    shutil.copytree(parsed_macros, lake.project_dir / "target")
    os.utime(lake.project_dir / "target" / "partial_parse.msgpack", (0, 0))  # stale: every test parses
    yield lake
    remove_catalog(lake.root)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with closing(S3Server(tmp_path_factory.mktemp("seaweedfs"))) as server:
        yield server


@pytest.fixture
def setting() -> str:
    """Where landing zone and data lie, and where the catalog. One of SETTINGS."""
    return "folder-network"  # saves the seconds of an initdb per test


@pytest.fixture
def lake(
    embedded_lake: ScratchLake, setting: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ScratchLake:
    """A lake in that setting, by environment variables alone."""
    name = f"lake{abs(hash(embedded_lake.root)):x}"
    store, catalog = setting.split("-")
    if catalog == "network":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("LAKEWARD_CATALOG_URL", postgres.create_database(name))
    if store == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for variable, value in server.environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("LAKEWARD_LANDING_URL", f"s3://{S3Server.BUCKET}/{name}/landing")
        monkeypatch.setenv("LAKEWARD_DATA_URL", f"s3://{S3Server.BUCKET}/{name}/data")
        return ScratchLake(embedded_lake.root, server.store(f"{name}/landing"))
    return embedded_lake


def pytest_addoption(parser: pytest.Parser) -> None:
    choices = ("today", "all", *SETTINGS)
    parser.addoption("--settings", choices=choices, default="today", help="for tests marked every_setting")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked `every_setting` run in all of them with `--settings=all`.

    In `make test` they run in one; the guarantees (`daily`) in a laptop's and in one that the day chooses.
    """
    marker = metafunc.definition.get_closest_marker("every_setting")
    if "lake" not in metafunc.fixturenames or marker is None:
        return
    wanted = metafunc.config.getoption("--settings")
    others = SETTINGS[1:]
    today = (SETTINGS[0], others[datetime.now(UTC).date().toordinal() % len(others)])
    usual = today if marker.kwargs.get("daily") else ("folder-network",)
    chosen = {"today": usual, "all": SETTINGS}.get(wanted, (wanted,))
    if metafunc.definition.get_closest_marker("folder_only"):
        chosen = tuple(setting for setting in chosen if setting.startswith("folder"))
    metafunc.fixturenames.append("setting")
    metafunc.parametrize("setting", chosen)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one, unless expected_skips.txt names it with its reason."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" not in os.environ or reporter is None:
        return
    lines = EXPECTED_SKIPS.read_text().splitlines()
    expected = {line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")}
    surprising = [
        report.nodeid for report in reporter.stats.get("skipped", []) if report.nodeid not in expected
    ]
    if surprising:
        print(f"\nskipped without a reason in {EXPECTED_SKIPS.name}: {surprising}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
