"""Fixtures: a scratch lake per test, on one real Postgres per session."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import lakeward.transform  # noqa: F401, TID253 - nearly every test needs dbt
from tests.launcher import trust_extensions
from tests.scratch import SETTING, PostgresServer, ScratchLake, remove_catalog, scratch_lake

settings.register_profile("all", max_examples=2500)  # `make test-all`

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


@pytest.fixture
def lake(
    embedded_lake: ScratchLake, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> ScratchLake:
    """The same on the session's Postgres: saves the seconds of an initdb per test."""
    name = f"lake{abs(hash(embedded_lake.root)):x}"
    monkeypatch.setenv("LAKEWARD_CATALOG_URL", postgres.create_database(name))
    return embedded_lake


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
