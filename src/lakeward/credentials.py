"""The object store's address and keys, as AWS's own tools find them: the only module that talks to botocore.

docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html: the environment, profile files (with
single sign-on and assumed roles), a web identity, a container's role, an instance's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakeward.errors import ConfigError, LandingError
from lakeward.settings import aws_environment

if TYPE_CHECKING:
    from lakeward.settings import S3, Settings

_GOOGLE = "https://storage.googleapis.com"
_ENDPOINT = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?/?", re.ASCII)
_REMEDY = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role is given"


@dataclass(frozen=True)
class Keys:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


@dataclass(frozen=True)
class Access:
    """How one store is reached. endpoint_url: None for Amazon's own."""

    region: str
    endpoint_url: str | None
    ca_bundle: str | None
    path_style: bool
    _fixed: Keys | None

    @property
    def keys(self) -> Keys:
        """As they are to be used now: temporary ones are fetched anew ten minutes before they end.

        Raises ConfigError when there are none, LandingError when they cannot be fetched.
        """
        return self._fixed or _chain().keys()

    def keys_below(self, bucket: str, prefix: str, after: str | None) -> Iterator[list[tuple[str, str, int]]]:
        """Key, etag and size of every object below the prefix and after that key, a request per 1,000.

        By botocore, which is slower than obstore, and lists keys that obstore has no path for. Raises
        LandingError.
        """
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        keys = self.keys
        first = {} if after is None else {"StartAfter": after}
        try:
            client = _chain().session.create_client(
                "s3",
                region_name=self.region,
                endpoint_url=self.endpoint_url,
                verify=self.ca_bundle,
                aws_access_key_id=keys.access_key_id,
                aws_secret_access_key=keys.secret_access_key,
                aws_session_token=keys.session_token,
                config=Config(s3={"addressing_style": "path" if self.path_style else "virtual"}),
            )
            pages = client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, **first):
                yield [(each["Key"], each["ETag"], each["Size"]) for each in page.get("Contents", [])]
        except (BotoCoreError, ClientError) as error:
            raise LandingError(
                f"cannot list s3://{bucket}/{prefix}: {error}", hint="nothing was marked as done"
            ) from error

    @property
    def is_temporary(self) -> bool:
        """May they change while we run? All may but those of the environment: a file may be written again."""
        return self._fixed is None


def access(settings: Settings, url: str) -> Access:
    """Of a store's URL that settings let pass. Costs the import of botocore where no variable has keys."""
    s3 = settings.s3
    fixed = _of_variables(s3)
    profile = _chain().profile if fixed is None else {}  # keys in variables go before any profile
    endpoint = s3.endpoint_url or profile.get("endpoint_url")
    if url.startswith("gs://"):
        endpoint = endpoint or _GOOGLE
    # Host and port alone: a path DuckDB would leave out, and keys in it would be shown.
    if endpoint is not None and not _is_host_and_port(endpoint):
        raise ConfigError(
            "the store's endpoint is not a host and a port", hint="write AWS_ENDPOINT_URL=https://host:port"
        )
    return Access(
        region=s3.region or profile.get("region") or "us-east-1",
        endpoint_url=endpoint,
        ca_bundle=s3.ca_bundle or profile.get("ca_bundle"),
        path_style=settings.s3_path_style if settings.s3_path_style is not None else endpoint is not None,
        _fixed=fixed,
    )


def _is_host_and_port(endpoint: str) -> bool:
    found = _ENDPOINT.fullmatch(endpoint)
    return found is not None and int(found["port"] or 0) < 2**16


def _of_variables(s3: S3) -> Keys | None:
    secret, token = s3.secret_access_key, s3.session_token
    if not s3.access_key_id or secret is None:
        return None
    return Keys(s3.access_key_id, secret.get_secret_value(), token.get_secret_value() if token else None)


class _Chain:
    @cached_property
    def profile(self) -> dict[str, Any]:
        with _translated():
            return dict(self.session.get_scoped_config())

    def keys(self) -> Keys:
        with _translated():
            frozen = self._found.get_frozen_credentials()
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    @cached_property
    def session(self) -> Any:
        import botocore.session  # 0.1 s

        return botocore.session.Session()

    @cached_property
    def _found(self) -> Any:
        with _translated():
            found = self.session.get_credentials()
        if found is None:
            raise ConfigError("no credentials for the object store were found", hint=_REMEDY)
        return found


def _chain() -> _Chain:
    """One for all that this process does, until a profile's file changes: what a role gave is kept."""
    environment = aws_environment()
    named, written = dict(environment), []
    for variable, name in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        with suppress(OSError, RuntimeError):  # neither a file nor a home is needed
            written.append(Path(named.get(variable, f"~/.aws/{name}")).expanduser().stat().st_mtime_ns)
    return _chain_of(environment, tuple(written))


@lru_cache(maxsize=8)
def _chain_of(environment: frozenset[tuple[str, str]], written: tuple[int, ...]) -> _Chain:
    return _Chain()


@contextmanager
def _translated() -> Iterator[None]:
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        CredentialRetrievalError,
        HTTPClientError,
        MetadataRetrievalError,
    )

    try:
        yield
    except (CredentialRetrievalError, MetadataRetrievalError, ConnectionError, HTTPClientError) as error:
        raise LandingError(
            f"credentials for the object store cannot be fetched: {error}",
            hint="nothing was marked as done; the next run asks again",
        ) from error
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: a process that told no JSON
        raise ConfigError(f"credentials for the object store: {error}", hint=_REMEDY) from error
