"""Loading applied files once more: the one way in which a file is applied twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from lakeward.errors import ConfigError, NothingSelected

if TYPE_CHECKING:
    from lakeward.ledger import Ledger
    from lakeward.manifest import Model
    from lakeward.streams import Stream


def replay(stream: Stream, models: Sequence[Model], since: date, ledger: Ledger) -> int:
    """Make files applied from that partition on pending again; returns how many. The next feed loads them.

    Their rows take the place of the same version of a row, never of a newer one. Raises ConfigError for a
    model without a unique key, whose rows would be doubled, and NothingSelected when there is no such file.
    """
    doubled = [model.name for model in models if not model.unique_key]
    if doubled:
        raise ConfigError(
            f"{', '.join(doubled)} has no unique_key: a replay would double its rows",
            hint=f"lakeward refresh {stream.id} rebuilds it from everything landed",
        )
    paths = ledger.replay(stream, [model.name for model in models], since)
    if not paths:
        raise NothingSelected(
            f"{stream.id} has applied no file since {since}", hint=f"lakeward files {stream.id}"
        )
    return len(paths)
