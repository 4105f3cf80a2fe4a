"""What has landed: the only module that talks to the object store. It reads; it never writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from lakeward.errors import ConfigError, LandingError
from lakeward.partitions import is_landed_name, partition_date, partition_number

if TYPE_CHECKING:
    from obstore import ObjectMeta

    from lakeward.settings import Settings
    from lakeward.streams import Stream

_PAGE = 1000  # keys of one S3 list response
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LandedFile:
    """Identity is (path, etag): the same name with other bytes is another file.

    path: relative to the landing root. etag: the store's; on a local folder size and modification
    time, never the inode, so a moved or restored lake feeds nothing again.
    """

    path: str
    etag: str
    size: int
    partition: date | None


class Landing:
    """The landing zone of one lake. Safe to keep; opens no connection until asked."""

    def __init__(self, store: ObjectStore, url: str) -> None:
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

        since None: everything, one request per 1,000 objects. Otherwise only partitions from that day
        on: one request for the root and one per year, month and day folder that can hold them, whatever
        the history. Partition by partition because string order is not date order (`month=10` sorts
        before `month=9`).
        """
        with _translated(self._url):
            metas = self._all(stream.root) if since is None else self._since(stream.root, since)
            for meta in metas:
                if is_landed_name(meta["path"]):
                    yield self._landed(meta)

    def head(self, path: str) -> LandedFile | None:
        """One file as it is now; None when it is not there. One request."""
        with _translated(self._url):
            try:
                self.requests += 1
                return self._landed(self._store.head(path))
            except FileNotFoundError:
                return None

    def _all(self, prefix: str) -> Iterator[ObjectMeta]:
        self.requests += 1
        for number, page in enumerate(self._store.list(prefix, chunk_size=_PAGE)):
            self.requests += number > 0
            yield from page

    def _since(self, prefix: str, since: date) -> Iterator[ObjectMeta]:
        for year_prefix, year in self._folders(prefix):
            if year < since.year:
                continue
            for month_prefix, month in self._folders(year_prefix):
                if (year, month) < (since.year, since.month):
                    continue
                for day_prefix, day in self._folders(month_prefix):
                    if (year, month, day) >= (since.year, since.month, since.day):
                        yield from self._all(day_prefix)

    def _folders(self, prefix: str) -> Iterator[tuple[str, int]]:
        self.requests += 1
        for folder in self._store.list_with_delimiter(prefix)["common_prefixes"]:
            number = partition_number(folder.rstrip("/").rsplit("/", 1)[-1])
            if number is not None:
                yield f"{folder.rstrip('/')}/", number

    def _landed(self, meta: ObjectMeta) -> LandedFile:
        if isinstance(self._store, LocalStore):
            modified_us = meta["last_modified"] - _EPOCH
            etag = f"{meta['size']:x}-{modified_us // timedelta(microseconds=1):x}"
        else:
            etag = (meta["e_tag"] or "").strip('"')
        return LandedFile(meta["path"], etag, meta["size"], partition_date(meta["path"]))


def open_landing(settings: Settings) -> Landing:
    """Raises ConfigError for a URL no store understands; touches nothing."""
    url = settings.landing_url
    if "://" not in url:
        return Landing(_folder(Path(url), settings), url)
    s3 = settings.s3
    options: dict[str, Any] = {}
    if url.startswith("s3://"):
        options = {
            "access_key_id": s3.access_key_id,
            "secret_access_key": s3.secret_access_key and s3.secret_access_key.get_secret_value(),
            "session_token": s3.session_token and s3.session_token.get_secret_value(),
            "region": s3.region,
            "endpoint": s3.endpoint_url,
            "virtual_hosted_style_request": False if s3.endpoint_url else None,
            "client_options": {"allow_http": True} if (s3.endpoint_url or "").startswith("http://") else None,
        }
    try:
        store = from_url(url, **{k: v for k, v in options.items() if v is not None})
    except (BaseError, ValueError) as error:
        raise ConfigError(f"landing_url {url}: {error}", hint="use a folder or s3://bucket/prefix") from error
    return Landing(store, url)


def _folder(path: Path, settings: Settings) -> ObjectStore:
    if path.is_dir():
        return LocalStore(path)
    if path.is_relative_to(settings.state_dir):
        return MemoryStore()  # a new lake: nothing has ever landed, and reading creates nothing
    raise ConfigError(
        f"landing_url {path}: no such folder", hint="create it, or set landing_url to where files land"
    )


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise LandingError(
            f"cannot read the landing zone {url}: {str(error).splitlines()[0]}",
            hint="check the address, the credentials (AWS_*) and the network; nothing was marked as done",
        ) from error
    except PermissionError as error:
        raise LandingError(
            f"cannot read the landing zone {url}: {error}", hint="let this user read the folder"
        ) from error
