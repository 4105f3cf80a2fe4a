"""The lake this repository ships, landed and fed once; tests that change it take a copy of their own."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import REPOSITORY, ScratchLake, run_program

DAYS = "6"


def shipped_lake(root: ScratchLake) -> ScratchLake:
    """The repository's own dag/ in a scratch lake, with some days of the sample shop landed."""
    shutil.copytree(REPOSITORY / "orchestration" / "dag", root.project_dir / "dag", dirs_exist_ok=True)
    run_program(
        "python", str(REPOSITORY / "samples" / "shop.py"), "--out", str(root.landing), "--days", DAYS,
        cwd=root.root,
    )  # fmt: skip
    return root


@pytest.fixture
def shop(lake: ScratchLake) -> ScratchLake:
    return shipped_lake(lake)
