"""Real connectors from PyPI: where they are installed, once per clone, and which Python they need."""

from __future__ import annotations

import subprocess

import pytest
from uv import find_uv_bin

from tests.scratch import REPOSITORY

INSTALLED = REPOSITORY / ".lake" / "connectors"


def needed_python(supported: str) -> str:
    """A Python that the connector has a release for, or a skip."""
    found = subprocess.run(
        [find_uv_bin(), "python", "find", "--system", "--no-python-downloads", supported],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        pytest.skip(f"the connector needs Python {supported}, and there is none here")
    return found.stdout.strip()
