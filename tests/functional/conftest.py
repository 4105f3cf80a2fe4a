"""The lake this repository ships, with some days of the sample shop landed; each test has its own copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from samples.shop import land
from tests.scratch import REPOSITORY, ScratchLake
from tests.shop import Shop

DAYS = 6


@pytest.fixture(scope="session")
def sample_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landing root."""
    landing = tmp_path_factory.mktemp("sample")
    land(landing, days=DAYS)
    return landing


def shipped_flows(lake: ScratchLake, *sources: str) -> ScratchLake:
    """The repository's own flows of the sources; their enriched models when shopify is among them."""
    shipped = REPOSITORY / "orchestration" / "dag"
    for source in sources:
        for layer in ("streams", "processed"):
            shutil.copytree(shipped / layer / source, lake.project_dir / "dag" / layer / source)
    if "shopify" in sources:
        shutil.copytree(shipped / "enriched", lake.project_dir / "dag" / "enriched")
    return lake


def shipped_lake(lake: ScratchLake, sample: Path, *sources: str) -> ScratchLake:
    """The same, with what has landed in them."""
    for source in sources:
        shutil.copytree(sample / "raw" / source, lake.landing / "raw" / source)
    return shipped_flows(lake, *sources)


@pytest.fixture
def shopify(lake: ScratchLake, sample_shop: Path) -> ScratchLake:
    """What fct_sales needs, and customers."""
    return shipped_lake(lake, sample_shop, "shopify")


@pytest.fixture
def fed(lake: ScratchLake) -> ScratchLake:
    """One stream with one file, fed."""
    lake.add_stream("shop/items")
    lake.land("shop/items", 1, "a.parquet", range(10))
    lake.feed()
    return lake


@pytest.fixture
def shop(lake: ScratchLake) -> Shop:
    return Shop(lake)
