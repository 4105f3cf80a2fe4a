"""Where objects lie: a bucket, or a folder. The only module that talks to the object store."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError
from obstore.store import AzureStore, S3Store

from lakeward.credentials import access
from lakeward.errors import ConfigError, LandingError
from lakeward.partitions import is_landed_name, partition_date, partition_folder, partition_number

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, ObjectStore, S3Config, S3Credential

    from lakeward.credentials import Access
    from lakeward.settings import Azure, Settings

_PAGE = 1000  # keys of one S3 list response
_TRIES = 5
_PATH = re.compile(r"(?!\.{1,2}(/|$))[^/\x00-\x1f\x7f]+(/(?!\.{1,2}(/|$))[^/\x00-\x1f\x7f]+)*")  # for obstore
_SHOWN = 5


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


class Objects:
    """An object store, through obstore; one that speaks S3 also through botocore."""

    def __init__(self, store: ObjectStore, url: str = "", s3: Access | None = None) -> None:
        self._store = store
        self._bucket, _, root = url.partition("://")[2].partition("/")
        self._root = f"{root}/" if root else ""
        self._s3 = s3

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
            except InvalidPathError:
                if self._s3 is None:
                    raise
                yield from self._pages_of_any_key(self._s3, prefix, first)
                return
            except BaseError as error:  # obstore asks again for every answer but a list that was cut
                if not left or "list response body" not in str(error):
                    raise

    def _pages_of_any_key(self, s3: Access, prefix: str, first: str | None) -> Iterator[list[LandedFile]]:
        """obstore lists nothing of a page with a key it has no path for: those are named after the rest."""
        troubles = []
        after = None if first is None else f"{self._root}{first}"
        for objects in s3.keys_below(self._bucket, f"{self._root}{prefix}", after):
            page = []
            for key, etag, size in objects:
                path = key.removeprefix(self._root)
                if _PATH.fullmatch(path):
                    page.append(_landed_file(path, etag, size))
                elif is_landed_name(path):
                    troubles.append(f"{path!r} has a name that is no path: rename it")
            yield page
        if troubles:
            raise OSError("; ".join(troubles[:_SHOWN]))

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
            self._copy(path, to)
        with suppress(FileNotFoundError):
            self._store.delete(path)

    def delete(self, path: str) -> None:
        self._store.delete(path)

    def probe(self) -> Probe:
        path = f"lakeward-doctor-{uuid4()}"
        self._store.put(path, b"")
        try:
            written_at = self._store.head(path)["last_modified"]
            try:
                self._store.put(path, b"", mode="create")
                is_conditional = False
            except AlreadyExistsError:
                is_conditional = True
            except BaseError:  # one that knows no conditions
                is_conditional = False
        finally:
            self._store.delete(path)
        return Probe(written_at, is_conditional)

    def _copy(self, path: str, to: str) -> None:
        self._store.copy(path, to)

    def _landed(self, meta: ObjectMeta) -> LandedFile:
        return _landed_file(meta["path"], meta["e_tag"] or "", meta["size"])


def _landed_file(path: str, etag: str, size: int) -> LandedFile:
    return LandedFile(path, etag.strip('"'), size, partition_date(path))


class Blobs(Objects):
    """Azure's."""

    def _copy(self, path: str, to: str) -> None:
        """Through this machine: Azure may answer before its own copy is made, and obstore does not wait.

        learn.microsoft.com/rest/api/storageservices/copy-blob: x-ms-copy-status.
        """
        with tempfile.TemporaryFile() as local:
            for chunk in self._store.get(path):
                local.write(chunk)
            local.seek(0)
            self._store.put(to, local)


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


def open_store(settings: Settings, url: str) -> Store:
    if "://" not in url:
        return Folder(Path(url))
    if url.startswith("az://"):
        return Blobs(_container(url, settings.azure))
    found = access(settings, url)
    return Objects(_bucket(url, found), url, found)


def _container(url: str, azure: Azure) -> AzureStore:
    """Without a key or a token obstore asks for those of an application, a workload or the machine."""
    address = urlsplit(url)
    config: AzureConfig = {"account_name": azure.account_name, "endpoint": azure.endpoint_url}
    if azure.account_key:
        config |= {"account_key": azure.account_key.get_secret_value(), "credential_type": "access_key"}
    elif azure.sas_token:
        config |= {"sas_key": azure.sas_token.get_secret_value(), "credential_type": "sas_token"}
    client: ClientConfig = {"allow_http": azure.endpoint_url.startswith("http://")}
    prefix = address.path.strip("/")
    return AzureStore(address.netloc, prefix=prefix, config=config, client_options=client)


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
        endpoint = urlsplit(access.endpoint_url)
        if not access.path_style:  # obstore takes an endpoint as it is then, and puts no bucket before it
            endpoint = endpoint._replace(netloc=f"{address.netloc}.{endpoint.netloc}")
        config["endpoint"] = endpoint.geturl()
    try:
        return S3Store(
            address.netloc,
            prefix=address.path.strip("/"),
            config=config,
            client_options=client,
            credential_provider=_Provider(access),
        )
    except ValueError as error:
        raise ConfigError(f"AWS_CA_BUNDLE: {error}", hint="name a file of certificates in PEM") from error


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
