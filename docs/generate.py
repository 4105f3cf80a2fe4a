"""Writes docs/reference/ from the code, so that no page there can tell another story.

`python docs/generate.py [FOLDER]`; tests/docs/test_docs.py compares the result with what is committed.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from lakeward import check
from lakeward.cli import app
from lakeward.settings import Settings
from lakeward.sources import SourceConfig
from lakeward.streams import _TYPES, META_COLUMNS, StreamConfig

HEADER = "<!-- Written by docs/generate.py from the code: `make docs`. Do not edit. -->\n\n"
WIDTH = 100  # of help texts, whatever the terminal

# Defaults that a computer works out are told in words: the page must be the same on every machine.
IN_WORDS = {"workers": "number of cores, at most 4"}

NAMES: dict[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    timedelta: "duration",
    SecretStr: "text, a secret",
}

# settings.py reads these from the environment alone; the test asks it whether it does.
STORES = {
    "AWS_ACCESS_KEY_ID": "Key of the object store. Without it, a profile or a role is looked for.",
    "AWS_SECRET_ACCESS_KEY": "Its secret.",
    "AWS_SESSION_TOKEN": "Only for temporary keys.",
    "AWS_REGION": "Default `us-east-1`. `AWS_DEFAULT_REGION` is read where this is not set.",
    "AWS_ENDPOINT_URL": "Address of an S3-compatible store, as in `https://minio.example.com:9000`. "
    "`AWS_ENDPOINT_URL_S3` comes first.",
    "AZURE_STORAGE_CONNECTION_STRING": "Account, keys and address for `az://`. It comes before those below.",
    "AZURE_STORAGE_ACCOUNT_NAME": "The storage account.",
    "AZURE_STORAGE_ACCOUNT_KEY": "Its key. Without key and token, an identity is looked for.",
    "AZURE_STORAGE_SAS_TOKEN": "A token instead of the key.",
}


def settings_page() -> str:
    rows = [
        (
            f"`{key}`",
            _type(field.annotation),
            IN_WORDS.get(key) or _default(field),
            f"`LAKEWARD_{key.upper()}`",
            field.description or "",
        )
        for key, field in _documented(Settings)
    ]
    return f"""# Settings

`orchestration/lakeward.toml` holds them; a variable of the environment goes before the file. Every key has a
default, so an empty file is complete. An unknown key is an error that lists the known ones.
A relative path is relative to the lake's root, the folder that `orchestration/` lies in.

{_table(("key", "type", "default", "environment", "meaning"), rows)}

## The object store

Read from the environment alone, so that no file holds a secret.
`catalog_url` may hold a password too: set `LAKEWARD_CATALOG_URL` and leave it out of the file.

{_table(("variable", "meaning"), [(f"`{name}`", meaning) for name, meaning in STORES.items()])}
"""


def stream_page() -> str:
    rows = [
        (f"`{key}`", _type(field.annotation), _default(field), field.description or "")
        for key, field in _documented(StreamConfig)
    ]
    types_ = [(f"`{word}`", f"`{kind}`") for word, kind in _TYPES.items()]
    meta = [(f"`{name}`", f"`{kind}`") for name, kind in META_COLUMNS.items()]
    return f"""# Stream JSON

`orchestration/dag/streams/{{source}}/{{stream}}.json` makes a stream. `{{}}` is complete: every key has a
default. An unknown key is an error that names the nearest known one.

{_table(("key", "type", "default", "meaning"), rows)}

The first keys, up to `fields`, say how the stream is synced: by `lakeward sync`, or by an Airbyte server.

## Types in `fields`

{_table(("word", "DuckDB type of the landed column"), types_)}

These columns are always there, so `fields` does not name them:

{_table(("column", "type"), meta)}
"""


def source_page() -> str:
    rows = [
        (f"`{key}`", _type(field.annotation), _default(field), field.description or "")
        for key, field in _documented(SourceConfig)
    ]
    return f"""# Source YAML

`orchestration/sources/{{source}}.yml` says how a source is read: [Adding a source](../adding-a-source.md).
`connector` is needed, the rest has defaults. An unknown key is an error that names the nearest known one.

{_table(("key", "type", "default", "meaning"), rows)}
"""


def cli_page() -> str:
    blocks = [f"## {path}\n\n```text\n{text}\n```" for path, text in help_texts()]
    return "# Command line\n\nEvery command, as its `--help` prints it.\n\n" + "\n\n".join(blocks) + "\n"


def help_texts() -> Iterator[tuple[str, str]]:
    """`lakeward feed` and its help, for the program and every command."""
    command = typer.main.get_command(app)
    yield from _helps(command, command.make_context("lakeward", [], resilient_parsing=True), "lakeward")


def checks_page() -> str:
    lines: list[str] = []
    for rule in rules():
        lines += ["", f"## {rule.holds}", ""]
        for finding in rule.findings:
            remedy = f"\n  Remedy: {finding.remedy}" if finding.remedy else ""
            lines.append(f"- `{finding.name}`, {finding.level}: {finding.why}.{remedy}")
    return f"""# What `lakeward check` checks

Each heading holds in a sound lake. A finding says where it does not, why that matters and what to do.
The command exits 2 when a finding is an error; a warning alone leaves it at 0.
{chr(10).join(lines)}
"""


@dataclass(frozen=True)
class Found:
    name: str
    level: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    holds: str
    findings: tuple[Found, ...]


def rules() -> list[Rule]:
    """The functions of check.py that make findings, with the names, levels and reasons they give them."""
    found = []
    for node in ast.parse(inspect.getsource(check)).body:
        if isinstance(node, ast.FunctionDef):
            findings = tuple(_findings(node))
            if findings:
                found.append(Rule((ast.get_docstring(node) or "").rstrip("."), findings))
    return found


def _findings(function: ast.FunctionDef) -> Iterator[Found]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            texts = [_text(argument) for argument in node.args]
            level = next((_text(word.value) for word in node.keywords if word.arg == "level"), "error")
            if node.func.id == "Finding" and texts[0]:
                name, level, _, _, why, remedy = texts
                yield Found(name, level, why, remedy)
            elif node.func.id == "_finding":
                name, _, _, why, remedy = texts
                yield Found(name, level, why, remedy)


def _text(node: ast.expr) -> str:
    """A string as it is written; its computed parts as `{name}`, or as an ellipsis where they are longer."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"{{{node.value.id}}}" if isinstance(node.value, ast.Name) else "…"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _helps(command: Any, context: Any, path: str) -> Iterator[tuple[str, str]]:
    """Typer brings its own click, whose classes it does not show: hence Any."""
    context.terminal_width = context.max_content_width = WIDTH
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield path, text.strip()
    for name, sub in getattr(command, "commands", {}).items():
        yield from _helps(sub, type(context)(sub, info_name=name, parent=context), f"{path} {name}")


def _documented(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return [(key, field) for key, field in model.model_fields.items() if field.exclude is not True]


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(kind) for kind in arguments if kind is not types.NoneType)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "object"
    return NAMES[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it is needed"
    if field.default_factory is not None:
        return "empty"
    if field.default is None:
        return "not set"
    if isinstance(field.default, str):
        return f"`{field.default}`"
    return f"`{str(field.default).lower()}`"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


PAGES = {
    "settings.md": settings_page,
    "stream-json.md": stream_page,
    "source-yml.md": source_page,
    "cli.md": cli_page,
    "checks.md": checks_page,
}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(HEADER + page().rstrip() + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "reference")
