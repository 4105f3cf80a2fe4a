"""What has landed: the only module that talks to the object store.

It writes nothing but what `lakeward sync` lands: whole files, under names of their own, never again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from obstore.exceptions import BaseError
from obstore.store import from_url

from lakeward.errors import ConfigError, LandingError
from lakeward.partitions import is_landed_name, partition_date, partition_folder, partition_number

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

    from lakeward.settings import Settings
    from lakeward.streams import Stream

_PAGE = 1000  # keys of one S3 list response
_TRIES = 5


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


class Store(Protocol):
    """Prefixes end with a slash."""

    def pages(self, prefix: str, since: date | None) -> Iterator[list[LandedFile]]:
        """All files below, a request per page; none below what does not exist.

        since: older partitions may be left out.
        """

    def head(self, path: str) -> LandedFile | None: ...

    def put(self, file: Path, path: str) -> None:
        """Durable when it returns; the file may have been moved away."""

    def move(self, path: str, to: str) -> None:
        """Atomic. May be repeated: what is there already stays as it is."""

    def delete(self, path: str) -> None: ...


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


class Objects:
    """An object store, through obstore."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def pages(self, prefix: str, since: date | None) -> Iterator[list[LandedFile]]:
        """By name `month=10` comes before `month=9`. But nothing from a day on comes before that day written
        with both digits; where they are left out, older months are listed as well.

        From the day before: SeaweedFS, told to start after `day=20/`, leaves out what lies in it.
        """
        first = None if since is None else f"{prefix}{partition_folder(since - timedelta(days=1))}"
        for left in reversed(range(_TRIES)):
            try:
                for page in self._store.list(prefix, offset=first, chunk_size=_PAGE):
                    yield [self._landed(meta) for meta in page]
                    first = page[-1]["path"] if page else first
                return
            except BaseError as error:  # obstore asks again for every answer but a list that was cut
                if not left or "list response body" not in str(error):
                    raise

    def head(self, path: str) -> LandedFile | None:
        try:
            return self._landed(self._store.head(path))
        except FileNotFoundError:
            return None

    def put(self, file: Path, path: str) -> None:
        self._store.put(path, file)

    def move(self, path: str, to: str) -> None:
        if self.head(to) is None:
            if self.head(path) is None:
                raise _lost(path, to)
            self._store.copy(path, to)
        with suppress(FileNotFoundError):
            self._store.delete(path)

    def delete(self, path: str) -> None:
        self._store.delete(path)

    def _landed(self, meta: ObjectMeta) -> LandedFile:
        etag = (meta["e_tag"] or "").strip('"')
        return LandedFile(meta["path"], etag, meta["size"], partition_date(meta["path"]))


class Folder:
    """A folder. obstore lists one too, but gives up at a name it does not like, as `a\\nb.parquet`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def pages(self, prefix: str, since: date | None) -> Iterator[list[LandedFile]]:
        first = () if since is None else (since.year, since.month, since.day)
        troubles: list[str] = []
        yield from self._below(prefix, first, (), frozenset(), troubles)
        if troubles:
            raise PermissionError("; ".join(troubles))

    def head(self, path: str) -> LandedFile | None:
        try:
            return self._landed(path, (self._root / path).stat())
        except FileNotFoundError:
            return None

    def put(self, file: Path, path: str) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)
        with target.open("rb") as written:
            os.fsync(written.fileno())
        _sync_folder(target.parent)

    def move(self, path: str, to: str) -> None:
        target = self._root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self._root / path
        if target.exists():
            staged.unlink(missing_ok=True)
        elif staged.exists():
            staged.rename(target)
            _sync_folder(target.parent)
        else:
            raise _lost(path, to)

    def delete(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def _below(
        self,
        prefix: str,
        first: tuple[int, ...],
        numbers: tuple[int, ...],
        above: frozenset[tuple[int, int]],
        troubles: list[str],
    ) -> Iterator[list[LandedFile]]:
        """A page per folder that can be read; the rest is named in `troubles`.

        first: year, month and day of the first partition wanted. numbers: those of the partition at hand.
        Links are followed, but not back to a folder above.
        """
        try:
            here = (self._root / prefix).stat()
            entries = [] if (here.st_dev, here.st_ino) in above else list(os.scandir(self._root / prefix))
        except FileNotFoundError:
            return
        except OSError as error:
            troubles.append(str(error))
            return
        page = []
        for entry in entries:
            path = f"{prefix}{entry.name}"
            try:
                if entry.is_dir():
                    number = partition_number(entry.name)
                    inside = numbers if number is None else (*numbers, number)
                    if inside >= first[: len(inside)]:
                        beyond = above | {(here.st_dev, here.st_ino)}
                        yield from self._below(f"{path}/", first, inside, beyond, troubles)
                elif entry.is_file() and is_landed_name(path):
                    path.encode()
                    page.append(self._landed(path, entry.stat()))
            except FileNotFoundError:
                continue  # vanished between the two looks
            except UnicodeEncodeError:
                troubles.append(f"{path!r} has a name that is not UTF-8: rename it")
            except OSError as error:
                troubles.append(str(error))
        yield page

    def _landed(self, path: str, stat: os.stat_result) -> LandedFile:
        return LandedFile(path, f"{stat.st_size:x}-{stat.st_mtime_ns:x}", stat.st_size, partition_date(path))


def _lost(staged: str, path: str) -> LandingError:
    return LandingError(
        f"{path} is neither landed nor staged any more as {staged}: its records are not in the landing zone",
        hint="lakeward sync --refresh reads its source from the start",
    )


def _sync_folder(folder: Path) -> None:
    """The names in it are on disk when it returns."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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
    return Landing(Objects(store), url)


def _folder(path: Path, settings: Settings) -> Folder:
    """In a new lake nothing has ever landed, and reading creates nothing."""
    if not path.is_dir() and not path.is_relative_to(settings.state_dir):
        raise ConfigError(
            f"landing_url {path}: no such folder", hint="create it, or set landing_url to where files land"
        )
    return Folder(path)


@contextmanager
def _translated(url: str, verb: str = "read") -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        told = " ".join(str(error).partition("\n\nDebug source")[0].split())
        raise LandingError(
            f"cannot {verb} the landing zone {url}: {told}",
            hint="check the address, the credentials (AWS_*) and the network; nothing was marked as done",
        ) from error
    except OSError as error:
        raise LandingError(
            f"cannot {verb} the landing zone {url}: {error}", hint=f"let this user {verb} it"
        ) from error
