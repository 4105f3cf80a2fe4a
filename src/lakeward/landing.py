"""What has landed: the only module that talks to the object store.

It writes nothing but what `lakeward sync` lands: whole files, under names of their own, never again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from lakeward.credentials import access
from lakeward.errors import ConfigError, LandingError
from lakeward.partitions import is_landed_name, partition_date, partition_folder, partition_number

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, S3Config, S3Credential

    from lakeward.credentials import Access
    from lakeward.settings import Settings
    from lakeward.streams import Stream

_PAGE = 1000  # keys of one S3 list response


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

    def probe(self) -> Probe:
        """Write an object of its own, try to write it once more, and delete it."""


@dataclass(frozen=True)
class Probe:
    """written_at: by the store's clock. is_conditional: was the second write refused? None: of a folder."""

    written_at: datetime | None
    is_conditional: bool | None


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
        for page in self._store.list(prefix, offset=first, chunk_size=_PAGE):
            yield [self._landed(meta) for meta in page]

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

    def probe(self) -> Probe:
        path = f"lakeward-doctor-{uuid4()}"
        self._store.put(path, b"", mode="create")
        try:
            self._store.put(path, b"", mode="create")
            is_conditional = False
        except AlreadyExistsError:
            is_conditional = True
        written_at = self._store.head(path)["last_modified"]
        self._store.delete(path)
        return Probe(written_at, is_conditional)

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

    def probe(self) -> Probe:
        there = next(folder for folder in (self._root, *self._root.parents) if folder.exists())
        path = there / f"lakeward-doctor-{uuid4()}"
        path.touch()
        path.unlink()
        return Probe(None, None)

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
    path = Path(url)
    if "://" not in url and not path.is_dir() and not path.is_relative_to(settings.state_dir):
        raise ConfigError(
            f"landing_url {path}: no such folder", hint="create it, or set landing_url to where files land"
        )
    return Landing(_store(settings, url), url)


def probe_data(settings: Settings) -> Probe:
    """May data be written? Leaves nothing behind. Raises LandingError."""
    with _translated(settings.data_url, "write to", "data_url"):
        return _store(settings, settings.data_url).probe()


def list_data(settings: Settings) -> dict[str, int]:
    """Size in bytes of every Parquet file under `data_url`, by its URL. One request per 1,000."""
    url = settings.data_url
    with _translated(url, place="data_url"):
        return {
            f"{url}/{file.path}": file.size for page in _store(settings, url).pages("", None) for file in page
        }


def _store(settings: Settings, url: str) -> Store:
    return Objects(_bucket(url, access(settings, url))) if "://" in url else Folder(Path(url))


def _bucket(url: str, access: Access) -> S3Store:
    address = urlsplit(url)
    client: ClientConfig = {}
    if (access.endpoint_url or "").startswith("http://"):
        client["allow_http"] = True
    if access.ca_bundle is not None:
        try:
            client["root_certificate"] = Path(access.ca_bundle).read_bytes()
        except OSError as error:
            raise ConfigError(f"AWS_CA_BUNDLE: {error}", hint="name a file of certificates") from error
    config: S3Config = {"region": access.region, "virtual_hosted_style_request": not access.path_style}
    if access.endpoint_url is not None:
        config["endpoint"] = access.endpoint_url
    return S3Store(
        address.netloc,
        prefix=address.path.strip("/"),
        config=config,
        client_options=client,
        credential_provider=_Provider(access),
    )


class _Provider:
    """Access as obstore asks for it: each time where keys are temporary, once where they are not."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def __call__(self) -> S3Credential:
        keys = self._access.keys
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token,
            "expires_at": datetime.now(UTC) if self._access.is_temporary else None,
        }


def _words(error: str) -> str:
    """obstore's first line, and the cause that only its long form names."""
    first = error.splitlines()[0]
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
            hint="check the address, the credentials (AWS_*) and the network; nothing was marked as done",
        ) from error
    except OSError as error:
        raise LandingError(
            f"cannot {verb} {place} {url}: {error}", hint=f"let this user {verb} it"
        ) from error
