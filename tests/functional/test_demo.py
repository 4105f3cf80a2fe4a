"""`make demo` on a fresh clone, twice, as a stranger types it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.scratch import copy_checkout, remove_catalog


def test_make_demo_twice_on_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "lakeward"
    _copy_what_git_would(clone)

    first = _make_demo(clone)
    assert "fed " in first
    assert "built fct_sales" in first
    for stream in ("shopify/orders", "klaviyo/lists"):
        assert re.search(rf"^{stream} .* ok *$", first, re.MULTILINE), first
    assert "net_sales" in first
    assert "Try next" in first
    assert re.search(r"install [\d.]+ s, work [\d.]+ s", first)  # benchmarks/ judges them
    assert not list((clone / ".venv" / "lib").glob("python*/site-packages/pytest")), "more than it uses"

    again = _make_demo(clone)
    assert "nothing pending in 9 streams" in again
    assert "nothing to build" in again
    remove_catalog(clone)
    left = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True
    )
    assert left.stdout == "", "the demo leaves files that git would show"


def _make_demo(clone: Path) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", "demo"], cwd=clone, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _copy_what_git_would(clone: Path) -> None:
    """The working tree's tracked and new files, as a repository of their own."""
    copy_checkout(clone)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "clone"]):
        subprocess.run(["git", *command], cwd=clone, check=True)
