"""Which sources a lake has, and what `orchestration/sources/{source}.yml` may say about one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from lakeward.cron import is_cron
from lakeward.errors import ConfigError
from lakeward.masking import Mask
from lakeward.settings import unknown_key, validation_error
from lakeward.streams import NAME, Stream

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+")


class SourceConfig(BaseModel):
    """One source: which connector reads it, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connector: str = Field(
        description="An Airbyte Python connector and its version, as on PyPI: "
        "`airbyte-source-faker==7.2.1`. Or a program that speaks Airbyte's protocol, by its path from the "
        "lake's root: `./connectors/source-erp`."
    )
    definition_id: str | None = Field(
        default=None,
        description="The connector's id on an Airbyte server, where it is not one of Airbyte's own.",
    )
    schedule: str | None = Field(
        default=None,
        description="When it is synced, in UTC, as cron has it: `15 * * * *`. By the Airbyte server, or "
        "else by `lakeward up`. Default: when asked.",
    )
    python: str | None = Field(
        default=None, description="The Python the connector needs, where it is not the one lakeward runs on."
    )
    config: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The connector's own configuration, start date included. `${NAME}` is what the "
        "environment has under that name; a secret must be written so.",
    )

    @field_validator("connector")
    @classmethod
    def _is_pinned(cls, value: str) -> str:
        if not value.startswith(("./", "/")) and not _REQUIREMENT.fullmatch(value):
            raise ValueError("name a package and its version, as in airbyte-source-faker==7.2.1")
        return value

    @field_validator("schedule")
    @classmethod
    def _has_five_fields(cls, value: str | None) -> str | None:
        if value is not None and not is_cron(value):
            raise ValueError("write five fields, minute to day of the week, as in 15 * * * *")
        return value


@dataclass(frozen=True)
class Source:
    name: str
    path: Path
    config: SourceConfig

    @property
    def airbyte_type(self) -> str | None:
        """As an Airbyte server calls the connector: `shopify`, of airbyte-source-shopify."""
        name = self.config.connector.partition("==")[0].rpartition("/")[2]
        return name.removeprefix("airbyte-").removeprefix("source-")

    def resolved(self, environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
        """The configuration as the connector gets it, and the words in it that nobody may see.

        Raises ConfigError naming the variable that is not set and the key that wants it.
        """
        secrets: list[str] = []

        def look_up(name: str, where: str) -> str:
            value = environment.get(name)
            if not value:
                raise ConfigError(
                    f'{self.path}: "{where}" wants ${{{name}}}, which is not set', hint=f"export {name}=..."
                )
            secrets.append(value)
            return value

        def fill(value: JsonValue, where: str) -> JsonValue:
            if isinstance(value, dict):
                return {key: fill(inner, f"{where}.{key}") for key, inner in value.items()}
            if isinstance(value, list):
                return [fill(inner, where) for inner in value]
            if isinstance(value, str):
                return _REFERENCE.sub(lambda found: look_up(found[1], where), value)
            return value

        config = {key: fill(value, f"config.{key}") for key, value in self.config.config.items()}
        return config, secrets

    def check(self, spec: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Raises ConfigError for a secret that was typed into the file, and for what the connector refuses.

        spec: the connector's `connectionSpecification`.
        """
        for where, value in _secrets(spec, self.config.config, "config"):
            if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
                raise ConfigError(
                    f'{self.path}: "{where}" is a secret, typed into the file',
                    hint=f"write ${{{self.name.upper()}_{where.rpartition('.')[2].upper()}}} and set that in "
                    "the environment; what was pushed once is known: change it at the source",
                )
        import jsonschema  # 50 ms, which commands that read no source do without

        config, secrets = self.resolved(environment)
        error = jsonschema.exceptions.best_match(jsonschema.Draft7Validator(dict(spec)).iter_errors(config))
        if error is not None:
            written: Any = self.config.config
            for part in error.absolute_path:
                written = written[part]
            where = ".".join(["config", *map(str, error.absolute_path)])
            said = error.message
            if written != error.instance:  # as the file has it: with the names of secrets, not their values
                said = said.replace(repr(error.instance), json.dumps(written))
            said = Mask(secrets)(said)
            raise ConfigError(f'{self.path}: "{where}": {said}', hint="as the connector's spec has it")


def load_sources(project_dir: Path) -> tuple[list[Source], dict[Path, ConfigError]]:
    """Every source, by name, and what is wrong with the files that name none."""
    sources, errors = [], {}
    for path in source_files(project_dir):
        try:
            sources.append(load_source(path))
        except ConfigError as error:
            errors[path] = error
    return sources, errors


def source_files(project_dir: Path) -> list[Path]:
    return sorted((project_dir / "sources").glob("*.yml"))


def load_source(path: Path) -> Source:
    """Raises ConfigError naming the file, the key and the remedy."""
    if not NAME.fullmatch(path.stem):
        raise ConfigError(
            f'{path}: "{path.stem}" cannot name a source',
            hint="use lower-case letters, digits and single underscores, as in shopify",
        )
    try:
        values = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a safe loader, without dates
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError, yaml.YAMLError) as error:
        # PyYAML's constructors raise any of these for a value that does not fit its own tag.
        raise ConfigError(f"{path}: not YAML: {_what_is_wrong(error)}", hint="mend that line") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: names no connector", hint="connector: airbyte-source-faker==7.2.1")
    known = list(SourceConfig.model_fields)
    for key in values:
        if key not in known:
            raise unknown_key(str(key), known, where=str(path))
    try:
        return Source(path.stem, path, SourceConfig(**values))
    except ValidationError as error:
        raise validation_error(error, where=str(path), hidden=("config",)) from None


def find_source(project_dir: Path, name: str) -> Source:
    """Raises ConfigError that lists the known ones, or says what is wrong with its file."""
    path = project_dir / "sources" / f"{name}.yml"
    if path in source_files(project_dir):
        return load_source(path)
    known = ", ".join(each.stem for each in source_files(project_dir)) or "none"
    raise ConfigError(f'no source "{name}": no {path}', hint=f"known sources: {known}")


def selected(streams: Sequence[Stream], source: Source) -> list[Stream]:
    """The source's streams that are to be synced."""
    return [stream for stream in streams if stream.source == source.name and stream.config.selected]


def no_sources(project_dir: Path) -> ConfigError:
    return ConfigError(
        f"the lake has no sources: no {project_dir}/sources/*.yml", hint="docs/adding-a-source.md has one"
    )


def _what_is_wrong(error: Exception) -> str:
    """Without the line itself, nor any word of it: it may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
        return f"{error.problem}{where}"
    if isinstance(error, yaml.reader.ReaderError | UnicodeDecodeError):
        return "a character that no such file may have"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return f"a value that does not fit its tag, or no value at all{where}"


class _Loader(yaml.SafeLoader):
    """A date stays the text it was written as: a connector's configuration is JSON, which has no dates."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _secrets(schema: Any, value: JsonValue, where: str) -> Iterator[tuple[str, JsonValue]]:
    """Where the spec says `airbyte_secret`, in whichever of its options, and what the file has there."""
    if not isinstance(schema, Mapping):
        return
    if schema.get("airbyte_secret"):
        yield where, value
    for options in (schema.get("oneOf"), schema.get("anyOf"), schema.get("allOf")):
        for option in options or ():
            yield from _secrets(option, value, where)
    if isinstance(value, list):
        for inner in value:
            yield from _secrets(schema.get("items"), inner, where)
    if isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                yield from _secrets(inner, value[key], f"{where}.{key}")
