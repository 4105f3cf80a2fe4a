"""What is installed is what was locked: every file by its hash; and a list of it for whoever must know."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

from uv import find_uv_bin

from tests.scratch import REPOSITORY, clean_environment


def test_every_file_of_every_package_is_pinned_by_its_hash() -> None:
    packages = tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]
    own = [package["name"] for package in packages if "registry" not in package["source"]]
    assert own == ["lakeward"]
    for package in packages:
        if package["name"] == "lakeward":
            continue
        assert package["source"]["registry"] == "https://pypi.org/simple"
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        for file in files:
            assert file["url"].startswith("https://files.pythonhosted.org/"), file
            assert len(file["hash"].removeprefix("sha256:")) == 64, file


def test_the_bill_of_materials_names_every_package_that_a_lake_needs(tmp_path: Path) -> None:
    """As `make sbom` writes it, with the uv that is a dependency itself."""
    (command,) = (
        line.partition(" export ")[2]
        for line in (REPOSITORY / "Makefile").read_text().splitlines()
        if line.startswith("\t$(UV) export") and "sbom.json" in line
    )
    arguments = command.replace("sbom.json", str(tmp_path / "sbom.json")).split()
    subprocess.run(
        [find_uv_bin(), "export", "--offline", *arguments],
        cwd=REPOSITORY,
        check=True,
        env=clean_environment(),
    )
    found = json.loads((tmp_path / "sbom.json").read_text())
    assert found["bomFormat"] == "CycloneDX"
    names = {component["name"]: component for component in found["components"]}
    assert {"duckdb", "duckdb-extension-ducklake", "dbt-duckdb", "obstore", "dagster"} <= set(names)
    assert "pytest" not in names
    for name, component in names.items():
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        hashes = [part for file in component["externalReferences"] for part in file["hashes"]]
        assert hashes, name
        assert {part["alg"] for part in hashes} == {"SHA-256"}
