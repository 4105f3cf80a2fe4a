"""What can be wrong with a lake's files, found without server or data.

Each rule is a function whose docstring says what it holds; a finding says what, where, why and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lakeward.discovery import discovered, discovered_file
from lakeward.errors import LakewardError
from lakeward.manifest import packaged_macros
from lakeward.sources import load_sources
from lakeward.streams import load_stream, load_streams, stream_files

if TYPE_CHECKING:
    from lakeward.manifest import Manifest, Model

_WINDOW = re.compile(r"over\s*\((?:[^()]|\([^()]*\))*\)", re.IGNORECASE)
_QUALIFY = re.compile(r"\bqualify\b[^;]*?\border\s+by\b([^()]*)\)", re.IGNORECASE)
_NAME = re.compile(r"^int_(?P<source>[a-z0-9_]+?)__(?P<stream>[a-z0-9_]+)$")


@dataclass(frozen=True)
class Finding:
    """`level` is error (check exits 2) or warning."""

    rule: str
    level: str
    where: str
    what: str
    why: str
    remedy: str


def check(project_dir: Path, manifest: Manifest | None, parse_error: str | None) -> list[Finding]:
    """All findings, in file order. Reads files only; the manifest's rules are left out when there is none."""
    found = [*_streams_load(project_dir), *_sources_load(project_dir), *_sources_offer(project_dir)]
    found += [*_macros_are_current(project_dir), *_parses(parse_error)]
    if manifest is not None:
        tags = {f"{path.parent.name}__{path.stem}" for path in stream_files(project_dir)}
        for model in manifest.models:
            found += [finding for rule in _MODEL_RULES for finding in rule(model, tags)]
        found += _streams_have_models(project_dir, manifest)
        found += _can_be_replaced(project_dir, manifest)
    return sorted(found, key=lambda finding: (finding.where, finding.rule))


def _streams_load(project_dir: Path) -> Iterator[Finding]:
    """Every stream file can be read and holds only known keys."""
    for path in stream_files(project_dir):
        try:
            load_stream(path)
        except LakewardError as error:
            yield Finding(
                "stream_file", "error", _short(path, project_dir), error.message,
                "a stream whose file cannot be read is not fed", error.hint or "mend the file",
            )  # fmt: skip


def _sources_load(project_dir: Path) -> Iterator[Finding]:
    """Every source file can be read and holds only known keys."""
    for path, error in load_sources(project_dir)[1].items():
        yield Finding(
            "source_file", "error", _short(path, project_dir), error.message,
            "a source whose file cannot be read is not synced", error.hint or "mend the file",
        )  # fmt: skip


def _sources_offer(project_dir: Path) -> Iterator[Finding]:
    """Every stream, and every field that it names, is among what its source was last discovered to have."""
    streams, _ = load_streams(project_dir)
    for source in {stream.source for stream in streams}:
        remedy = f"mend the stream file, or lakeward airbyte discover {source} again"
        try:
            offers = discovered(project_dir, source)
        except LakewardError as error:
            where = _short(discovered_file(project_dir, source), project_dir)
            yield Finding("source_offers", "error", where, error.message, "nothing can be compared", remedy)
            continue
        for stream in streams:
            if offers is None or stream.source != source or not stream.config.selected:
                continue
            offer = offers.get(stream.name)
            if offer is None:
                what = f"the source has no stream {stream.name}; it has: {', '.join(offers)}"
            elif unknown := [name for name in stream.config.fields or {} if name not in offer["fields"]]:
                what = f"the source has no field {', '.join(unknown)}"
            else:
                continue
            where = _short(stream.path, project_dir)
            yield Finding("source_offers", "error", where, what, "a sync of it fails", remedy)


def _macros_are_current(project_dir: Path) -> Iterator[Finding]:
    """macros/lakeward.sql is the one of the installed lakeward."""
    packaged = packaged_macros()
    own = project_dir / "macros" / "lakeward.sql"
    if not own.is_file() or own.read_text() != packaged.read_text():
        yield Finding(
            "macros_current", "error", "macros/lakeward.sql", "is not the installed lakeward's",
            "the fence and the ledger are written by these macros: another version's may not match",
            f"cp {packaged} {own}",
        )  # fmt: skip


def _parses(parse_error: str | None) -> Iterator[Finding]:
    """dbt can parse the project."""
    if parse_error is not None:
        yield Finding(
            "project_parses", "error", "dag/", parse_error,
            "dbt needs every model to parse; the streams run on the last good manifest meanwhile",
            "mend the file that dbt names, then dbt parse",
        )  # fmt: skip


def _streams_have_models(project_dir: Path, manifest: Manifest) -> Iterator[Finding]:
    """Every stream has a model with its tag."""
    for path in stream_files(project_dir):
        source, stream = path.parent.name, path.stem
        if not manifest.of_stream(f"{source}__{stream}"):
            yield Finding(
                "stream_has_model", "error", _short(path, project_dir),
                f"no model carries the tag {source}__{stream}",
                "the feeder runs dbt --select by that tag: the stream's files would stay pending for ever",
                f"add dag/processed/{source}/int_{source}__{stream}.sql "
                f"with tags=['processed', '{source}__{stream}']",
            )  # fmt: skip


def _can_be_replaced(project_dir: Path, manifest: Manifest) -> Iterator[Finding]:
    """A model of a stream whose older generations go says which file a row came from."""
    for stream in load_streams(project_dir)[0]:
        for model in manifest.of_stream(stream.tag) if stream.config.on_refresh == "replace" else ():
            if "_source_file" not in model.raw_code:
                yield _finding(
                    "can_be_replaced", model, "does not select filename as _source_file",
                    "on_refresh finds the rows of older generations by it: the feed fails after a refresh",
                    "select filename as _source_file",
                )  # fmt: skip


def _one_stream_tag(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A processed model carries exactly one stream tag, of a stream that exists."""
    if not _is_processed(model):
        return
    known = [tag for tag in model.stream_tags if tag in tags]
    if len(model.stream_tags) != 1:
        yield _finding(
            "one_stream_tag", model, f"carries the stream tags {list(model.stream_tags)}",
            "one model belongs to one stream, whose files and ledger it has",
            "tags=['processed', '{source}__{stream}']",
        )  # fmt: skip
    elif not known:
        yield _finding(
            "stream_exists", model, f"carries the tag {model.stream_tags[0]}, but there is no such stream",
            "a model without a stream file is never fed",
            f"add dag/streams/{model.stream_tags[0].replace('__', '/', 1)}.json with {{}}, or mend the tag "
            f"(streams: {', '.join(sorted(tags))})",
        )  # fmt: skip


def _name_and_folder(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A processed model lies in dag/processed/{source}/ and is named int_{source}__{stream}[_{grain}]."""
    if not _is_processed(model) or len(model.stream_tags) != 1:
        return
    source, _, stream = model.stream_tags[0].partition("__")
    found = _NAME.match(model.name)
    named = model.name == f"int_{source}__{stream}" or model.name.startswith(f"int_{source}__{stream}_")
    if found is None or not named or not model.path.startswith(f"dag/processed/{source}/"):
        yield _finding(
            "name_and_folder", model, f"is {model.name} in {Path(model.path).parent}",
            "names and folders say layer and origin; people and ref() find models by them",
            f"name it dag/processed/{source}/int_{source}__{stream}.sql",
        )  # fmt: skip


def _reads_files(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A processed model reads var("files")."""
    if _is_processed(model) and not re.search(r"var\(\s*['\"]files['\"]", model.raw_code):
        yield _finding(
            "reads_files", model, 'does not read {{ var("files") }}',
            "the feeder hands each batch to the model through that variable",
            'from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)',
        )  # fmt: skip


def _has_key(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A processed model has a unique key, or appends on purpose."""
    if _is_processed(model) and not model.unique_key and model.strategy != "append":
        yield _finding(
            "has_key", model, "has no unique_key",
            "without one a newer version of a row stands beside the older",
            "unique_key='{id_column}', or incremental_strategy='append' for events that never change",
        )  # fmt: skip


def _can_be_guarded(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A processed model with a key selects _airbyte_extracted_at, and uses delete+insert."""
    if not _is_processed(model) or not model.unique_key:
        return
    if "_airbyte_extracted_at" not in _WINDOW.sub("", model.raw_code):
        yield _finding(
            "guardable", model, "does not select _airbyte_extracted_at",
            "without it nothing tells an older version of a row from a newer one that landed before it",
            "select _airbyte_extracted_at", level="warning",
        )  # fmt: skip
    elif model.strategy != "delete+insert":
        yield _finding(
            "guardable", model, f"uses incremental_strategy={model.strategy!r}",
            "only delete+insert keeps the newest version whatever the order of arrival",
            "incremental_strategy='delete+insert'", level="warning",
        )  # fmt: skip


def _breaks_ties(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A processed model with a key says which of two versions of one moment it keeps."""
    order = _QUALIFY.search(model.raw_code)
    if _is_processed(model) and model.unique_key and order is not None and "," not in order[1]:
        yield _finding(
            "breaks_ties", model, f"orders the versions of a row by {order[1].strip()} alone",
            "of two versions of one moment in one batch any may stay; across batches the greater file wins",
            "order by _airbyte_extracted_at desc, filename desc", level="warning",
        )  # fmt: skip


def _in_main(model: Model, tags: set[str]) -> Iterator[Finding]:
    """Tables are made in lakehouse.main."""
    if model.schema != "main":
        yield _finding(
            "in_main", model, f"goes to the schema {model.schema}",
            "the ledger looks for every table in lakehouse.main: elsewhere it would seem to be missing",
            "remove the schema config",
        )  # fmt: skip


def _can_be_fed(model: Model, tags: set[str]) -> Iterator[Finding]:
    """A model with a stream's tag is incremental, has lakeward's hooks and no full_refresh=true."""
    if model.unfit is not None and (_is_processed(model) or tags.intersection(model.stream_tags)):
        yield _finding("can_be_fed", model, model.unfit.what, model.unfit.why, model.unfit.remedy)


def _enriched_is_a_table(model: Model, tags: set[str]) -> Iterator[Finding]:
    """An enriched model lies in dag/enriched/ and carries the tag enriched."""
    if model.path.startswith("dag/enriched/") and not model.is_enriched:
        yield _finding(
            "enriched_tag", model, "does not carry the tag enriched",
            "marts are selected by that tag: it would never be built", "tags=['enriched']",
        )  # fmt: skip


_MODEL_RULES = (
    _one_stream_tag,
    _name_and_folder,
    _reads_files,
    _has_key,
    _can_be_guarded,
    _breaks_ties,
    _can_be_fed,
    _in_main,
    _enriched_is_a_table,
)


def _finding(rule: str, model: Model, what: str, why: str, remedy: str, *, level: str = "error") -> Finding:
    return Finding(rule, level, model.path, what, why, remedy)


def _is_processed(model: Model) -> bool:
    return model.path.startswith("dag/processed/")


def _short(path: Path, project_dir: Path) -> str:
    return str(path.relative_to(project_dir))
