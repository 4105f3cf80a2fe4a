"""What has landed.

Nothing is written here but what `lakeward sync` lands: whole files, under names of their own, never again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError

from lakeward.errors import ConfigError, LandingError
from lakeward.partitions import is_landed_name
from lakeward.stores import open_store

if TYPE_CHECKING:
    from lakeward.settings import Settings
    from lakeward.stores import LandedFile, Probe, Store
    from lakeward.streams import Stream


class Landing:
    """The landing zone of one lake. Safe to keep; opens no connection until asked."""

    def __init__(self, store: Store, url: str) -> None:
        self._store = store
        self._url = url
        self.requests = 0

    def url(self, path: str) -> str:
        """The landed file as DuckDB opens it, and as `_source_file` shows it."""
        return f"{self._url}/{path}"

    def relative(self, url: str) -> str | None:
        """The inverse of `url`; None outside the landing root. Relative paths pass unchanged."""
        if url.startswith(f"{self._url}/"):
            return url[len(self._url) + 1 :]
        return None if "://" in url or url.startswith("/") else url

    def list(self, stream: Stream, since: date | None = None) -> Iterator[LandedFile]:
        """The stream's landed files, in no promised order; empty when nothing has landed.

        since None: everything, one request per 1,000 objects. Otherwise the partitions from that day on, and
        what else a store finds on the way: one request per 1,000 of those in an object store, one per year,
        month and day folder that can hold them in a folder, whatever the history.
        Raises LandingError, for what cannot be listed, after what could be.
        """
        for file in self._all(stream.root, since):
            if since is None or file.partition is None or file.partition >= since:
                yield file

    def list_partition(self, folder: str) -> Iterator[LandedFile]:
        """The landed files below one folder. One request per 1,000 objects."""
        return self._all(f"{folder}/", None)

    def head(self, path: str) -> LandedFile | None:
        """One file as it is now; None when it is not there. One request."""
        with _translated(self._url):
            self.requests += 1
            return self._store.head(path)

    def stage(self, file: Path, path: str) -> None:
        """Make a local file durable in the store, outside `raw/`, where nothing is fed."""
        with _translated(self._url, "write to"):
            self._store.put(file, path)

    def publish(self, staged: str, path: str) -> None:
        """Land a staged file. May be repeated, after a kill too: it lands once, under one identity."""
        with _translated(self._url, "write to"):
            self._store.move(staged, path)

    def discard_staged(self, prefix: str) -> None:
        """Delete what is staged below the prefix and will never land."""
        if prefix.startswith("raw/"):
            raise ValueError(f"{prefix}: what has landed is never deleted")
        with _translated(self._url, "write to"):
            for page in self._store.pages(prefix, None):
                for file in page:
                    self._store.delete(file.path)

    def _all(self, prefix: str, since: date | None) -> Iterator[LandedFile]:
        with _translated(self._url):
            self.requests += 1
            for number, page in enumerate(self._store.pages(prefix, since)):
                self.requests += number > 0
                yield from (file for file in page if is_landed_name(file.path))


def open_landing(settings: Settings) -> Landing:
    """Raises ConfigError for a URL no store understands; touches nothing."""
    url = settings.landing_url
    path = Path(url)
    if "://" not in url and not path.is_dir() and not path.is_relative_to(settings.state_dir):
        raise ConfigError(
            f"landing_url {path}: no such folder", hint="create it, or set landing_url to where files land"
        )
    with _translated(url):
        return Landing(open_store(settings, url), url)


def probe_data(settings: Settings) -> Probe:
    """May data be written? Leaves nothing behind. Raises LandingError."""
    with _translated(settings.data_url, "write to", "data_url"):
        return open_store(settings, settings.data_url).probe()


def list_data(settings: Settings) -> dict[str, int]:
    """Size in bytes of every Parquet file under `data_url`, by its URL. One request per 1,000."""
    url = settings.data_url
    with _translated(url, place="data_url"):
        return {
            f"{url}/{file.path}": file.size
            for page in open_store(settings, url).pages("", None)
            for file in page
        }


def _words(error: str) -> str:
    """obstore's first line, and the cause that only its long form names."""
    first = " ".join(error.partition("\n\nDebug source")[0].split())
    cause = re.search(r'InvalidCertificate\(\s*(\w+)|message: "([^"]+)"', error)
    if cause is None:
        return first
    told = cause[2] or f"its certificate is not trusted: {cause[1]}; AWS_CA_BUNDLE names what is"
    return f"{first} ({told})"


@contextmanager
def _translated(url: str, verb: str = "read", place: str = "the landing zone") -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise LandingError(
            f"cannot {verb} {place} {url}: {_words(str(error))}",
            hint="check the address, the credentials (AWS_* or AZURE_*) and the network; "
            "nothing was marked as done",
        ) from error
    except OSError as error:
        raise LandingError(
            f"cannot {verb} {place} {url}: {error}", hint=f"let this user {verb} it"
        ) from error
