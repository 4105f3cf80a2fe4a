"""README and docs, executed: in a scratch copy of the shipped lake, landed and fed once for all of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from lakeward.cli import app
from lakeward.settings import Settings, load_settings
from samples.shop import STREAMS, land
from tests.scratch import REPOSITORY, clean_environment

DOCS = REPOSITORY / "docs"
REFERENCE = DOCS / "reference"
WRITTEN = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
WRITTEN += sorted(path for path in DOCS.rglob("*.md") if REFERENCE not in path.parents)
PAGES = [*WRITTEN, *sorted(REFERENCE.glob("*.md"))]
MODEL_PAGES = sorted((REPOSITORY / "orchestration" / "dag").rglob("*.md"))
ADDING = DOCS / "adding-a-flow.md"

# Lines of ```bash blocks that no test can run here, by how they begin, and why.
NOT_RUN = {
    "make demo": "tests/functional/test_demo.py runs it",
    "make test": "runs this very test",
    "make fmt": "would change the checkout",
    "make docs": "test_the_reference_is_what_the_code_says runs the same program",
    "make bench": "takes tens of minutes",
    "make chaos": "takes minutes; tests/chaos/test_kills.py runs ten of its schedules",
    "make soak": "takes ten minutes",
    "make mutants": "takes tens of minutes",
    "make test-all": "takes an hour",
    "make fuzz": "takes minutes, and a package that make test does without",
    "make audit": "asks pypi.org; tests/unit/test_lock.py checks the hashes",
    "make sbom": "tests/unit/test_lock.py runs the same program",
    ".venv/bin/pytest": "runs these very tests",
    "docker compose ": "needs Docker: tests/functional/test_deployment.py runs the services as processes",
    "kubectl ": "needs a cluster",
    "git ": "needs your repository and its remote",
    "lakeward up": "never ends: tests/functional/test_dagster.py runs it",
    "lakeward feed --watch": "never ends: the fixture runs it while everything else here runs",
}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(language: str, pages: list[Path]) -> list[Block]:
    return [
        Block(page, page.read_text()[: found.start()].count("\n") + 1, language, found[1])
        for page in pages
        for found in re.finditer(rf"^```{re.escape(language)}\n(.*?)^```$", page.read_text(), re.M | re.S)
    ]


def bash_lines() -> list[str]:
    """Each once: pages repeat the commands that matter."""
    lines = (
        line.split("  #")[0].strip() for block in blocks("bash", WRITTEN) for line in block.code.splitlines()
    )
    return list(dict.fromkeys(line for line in lines if line))


def is_run(line: str) -> bool:
    return not line.startswith(tuple(NOT_RUN))


def sql_queries() -> list[Block]:
    """Each once. Blocks with `{{` in them are models: tests/functional/test_seed_document.py runs those."""
    found = {block.code: block for block in blocks("sql", [*WRITTEN, *MODEL_PAGES]) if "{{" not in block.code}
    return list(found.values())


@dataclass(frozen=True)
class DocsLake:
    root: Path
    environment: dict[str, str]

    def bash(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.root, env=self.environment, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def docs_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocsLake]:
    """The shipped lake, landed and fed; `feed --watch` keeps it open, as the pages say."""
    root = tmp_path_factory.mktemp("docs")
    programs = root / "bin"
    programs.mkdir()
    clean = clean_environment()
    path = f"{programs}:{Path(sys.executable).parent}:{clean['PATH']}"
    lake = DocsLake(root, clean | {"PATH": path})
    built = shutil.ignore_patterns("target", "logs", "sources")  # the pages ask about files of many days
    shutil.copytree(REPOSITORY / "orchestration", root / "orchestration", ignore=built)
    _stand_in_for_the_duckdb_program(programs / "duckdb")
    shopify = [stream for stream in STREAMS if stream.startswith("shopify/")]  # what the pages ask about
    land(root / ".lake" / "landing", days=5, orders_per_day=20, streams=shopify)
    source: dict[str, Any] = {"connector": str(REPOSITORY / "samples" / "source-shop")}
    source |= {"config": {"app": "klaviyo", "days": 2, "orders_per_day": 5}}
    (root / "orchestration" / "sources").mkdir()
    (root / "orchestration" / "sources" / "klaviyo.yml").write_text(json.dumps(source))
    lake.bash("lakeward run")
    watching = subprocess.Popen(
        ["lakeward", "feed", "--watch"],
        cwd=root, env=lake.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with watching:
        assert watching.stdout is not None
        assert "nothing pending" in watching.stdout.readline()
        yield lake
        watching.terminate()


def test_every_command_line_is_run_or_excused() -> None:
    lines = bash_lines()
    for line in filter(is_run, lines):
        assert not re.search(r"SOURCE|STREAM|[{<]\w+[}>]", line), f"a placeholder in a bash block: {line}"
    for excused in NOT_RUN:
        assert any(line.startswith(excused) for line in lines), f"no page has {excused!r} any more"


@pytest.mark.parametrize("line", [line for line in bash_lines() if is_run(line)])
def test_a_command_line_of_the_docs_runs(docs_lake: DocsLake, line: str) -> None:
    docs_lake.bash(line)


@pytest.mark.parametrize("block", sql_queries(), ids=str)
def test_a_query_of_the_docs_returns_rows(
    docs_lake: DocsLake, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(lakeward(docs_lake, monkeypatch, "sql", "--json", block.code))
    finds_faults = "having count(*) > 1" in block.code
    assert rows or finds_faults


@pytest.mark.parametrize(
    "page", sorted({block.page for block in blocks("python", WRITTEN)}), ids=lambda p: p.name
)
def test_the_python_of_a_page_runs(docs_lake: DocsLake, page: Path) -> None:
    code = "\n".join(block.code for block in blocks("python", [page]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=docs_lake.root, env=docs_lake.environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_page_adding_a_flow_lists_the_streams_and_models_that_ship() -> None:
    listed = {
        (stream, model, fact)
        for stream, model, fact in re.findall(
            r"^\| (\w+) \| (int_\w+) \| (.+?) \|$", ADDING.read_text(), re.M
        )
    }
    dag = REPOSITORY / "orchestration" / "dag"
    assert {model for _, model, _ in listed} == {path.stem for path in (dag / "processed").rglob("*.sql")}
    assert {(model[4:].split("__")[0], stream) for stream, model, _ in listed} == {
        (path.parent.name, path.stem) for path in (dag / "streams").rglob("*.json")
    }
    facts = {word for _, _, fact in listed for word in re.findall(r"\w*fct_\w+", fact)}
    assert facts == {path.stem for path in (dag / "enriched").rglob("*.sql")}


@pytest.mark.parametrize("page", [*PAGES, *MODEL_PAGES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_command_has_help_and_a_place_in_the_docs() -> None:
    text = "\n".join(page.read_text() for page in WRITTEN)
    for name, command in commands(typer.main.get_command(app), "lakeward"):
        assert command.help, name
        assert name in text, f"no page tells of {name}"


def test_every_setting_stands_in_the_reference() -> None:
    text = (REFERENCE / "settings.md").read_text()
    for key, field in Settings.model_fields.items():
        assert field.exclude or f"`{key}`" in text, key


def test_every_aws_variable_of_the_reference_is_read() -> None:
    project = REPOSITORY / "orchestration"
    found = set(re.findall(r"AWS_\w+", (REFERENCE / "settings.md").read_text()))
    assert found
    for name in found:
        assert load_settings(project, {name: "x"}).s3 != load_settings(project, {}).s3, name


def test_the_reference_is_what_the_code_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "generate.py"), str(tmp_path)], check=True)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert fresh == {path.name: path.read_text() for path in REFERENCE.iterdir()}, "run `make docs`"


def test_the_public_contract_is_documented_key_by_key(
    docs_lake: DocsLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "how-delivery-works.md").read_text()
    status = json.loads(lakeward(docs_lake, monkeypatch, "status", "--json"))
    names = {*status, *status["streams"][0], *status["marts"][0]}
    for view in ("feeder_files", "feeder_cursors"):
        described = lakeward(docs_lake, monkeypatch, "sql", "--json", f"describe meta.{view}")
        names |= {row["column_name"] for row in json.loads(described)}
    for name in names:
        assert re.search(rf"\b{name}\b", text), name


def test_the_walk_through_the_code_passes_every_module() -> None:
    text = (DOCS / "walkthrough.md").read_text()
    for path in (REPOSITORY / "src" / "lakeward").glob("[!_]*.py"):
        assert f"src/lakeward/{path.name})" in text, path.name


def test_every_decision_is_in_the_index() -> None:
    folder = DOCS / "decisions"
    index = (folder / "README.md").read_text()
    for path in folder.glob("0*.md"):
        assert path.name in index, f"docs/decisions/README.md does not list {path.name}"


def lakeward(lake: DocsLake, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The command line in this process: what a process of its own would cost, forty queries cannot."""
    monkeypatch.chdir(lake.root)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.exception or done.output
    return done.stdout


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, sub in command.commands.items():
        yield f"{path} {name}", sub
        if hasattr(sub, "commands"):
            yield from commands(sub, f"{path} {name}")


def anchors(page: Path) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _stand_in_for_the_duckdb_program(path: Path) -> None:
    """The DuckDB CLI is no dependency; the same engine takes its two options here."""
    path.write_text(
        f"#!{sys.executable}\n"
        "import sys, duckdb\n"
        "options = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "connection = duckdb.connect()\n"
        "connection.execute(options['-cmd'])\n"
        "print(connection.sql(options['-c']))\n"
    )
    path.chmod(0o755)


def test_every_fault_in_the_table_has_its_test() -> None:
    rows = re.findall(r"^\| .* \| (`test_.*`) \|$", (DOCS / "what-happens-when.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    code = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert len(rows) > 30
    assert named == {name for name in named if f"def {name}(" in code}
