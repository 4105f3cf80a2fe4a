"""What a source offers, kept beside its file: for `lakeward check`, and to copy `fields` from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakeward.errors import ConfigError
from lakeward.shapes import shape

if TYPE_CHECKING:
    from lakeward.connector import Connector

Json = dict[str, Any]


def offered(connector: Connector) -> Json:
    """By stream: can it be read incrementally, its cursor, its key, its fields in a stream file's words."""
    return {
        stream["name"]: {
            "incremental": "incremental" in (stream.get("supported_sync_modes") or []),
            "cursor_field": stream.get("default_cursor_field") or None,
            "primary_key": stream.get("source_defined_primary_key") or None,
            "fields": shape(stream.get("json_schema") or {}).words,
        }
        for stream in sorted(connector.discover(), key=lambda stream: str(stream["name"]))
    }


def discovered_file(project_dir: Path, source: str) -> Path:
    return project_dir / "sources" / f"{source}.streams.json"


def discovered(project_dir: Path, source: str) -> Json | None:
    """What was last discovered; None where nothing was. Raises ConfigError for a file that is no JSON."""
    path = discovered_file(project_dir, source)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not all(
            isinstance(offer, dict) and isinstance(offer.get("fields"), dict) for offer in found.values()
        ):
            raise ValueError("not what discover writes")
        return found
    except (ValueError, UnicodeDecodeError) as error:
        hint = f"lakeward airbyte discover {source} writes it again"
        raise ConfigError(f"{path}: {error}", hint=hint) from error
