"""What a lake is made of: `orchestration/lakeward.toml`, the environment, and nothing else.

The only module that reads the environment (ruff TID251 holds it to that).
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from lakeward.errors import ConfigError

LAKE = "lakehouse"
CATALOG_SECRET = "lakeward"  # noqa: S105 - a name, not a secret
_PREFIX = "LAKEWARD_"
_PROJECT_FILE = "dbt_project.yml"
_AIRBYTE_SECRETS = ("airbyte_client_secret", "airbyte_password", "airbyte_s3_secret_access_key")
_SECRETS = ("catalog_url", *_AIRBYTE_SECRETS)
_CENTURY = 36_500  # days
_LONGEST = 200  # characters of a wrong value that are worth showing
# A prefix that nobody reads as another one: obstore decodes `%61` and resolves `..`, DuckDB expands `*` and
# takes what follows a `?` for settings.
# In az:// DuckDB takes a name with a dot for a host; a container's has none.
_OBJECTS = re.compile(
    r"((s3|gs)://[a-z0-9][a-z0-9._-]*|az://[a-z0-9][a-z0-9-]*)"
    r"(/(?!\.{1,2}(/|$))[^/?#%*\[\]\\\s\x00-\x1f\x7f]+)*",
    re.ASCII,
)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
# A path is an emulator's; keys in it would be shown.
_BLOB_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(:(?P<port>[0-9]{1,5}))?(/[a-z0-9]+)?", re.ASCII)


class S3(BaseModel):
    """The usual `AWS_*` variables. What is not here, botocore may know (credentials.py)."""

    model_config = ConfigDict(frozen=True)

    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    region: str | None = None
    endpoint_url: str | None = None
    ca_bundle: str | None = None


class Azure(BaseModel):
    """The usual `AZURE_STORAGE_*` variables. Without key and token, who we are is looked up in use."""

    model_config = ConfigDict(frozen=True)

    account_name: str = ""
    account_key: SecretStr | None = None
    sas_token: SecretStr | None = None
    endpoint_url: str = ""


class Settings(BaseModel):
    """One lake. Every key has a default; a relative path is relative to the lake's root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_dir: Annotated[Path, Field(description="Set by lakeward: the dbt project.", exclude=True)]
    landing_url: str = Field(
        default=".lake/landing",
        description="Landing root: a folder, `s3://bucket/prefix`, `gs://bucket/prefix` or "
        "`az://container/prefix`. Streams lie in `raw/` below it.",
    )
    data_url: str = Field(
        default=".lake/data",
        description="DuckLake's DATA_PATH: a folder, `s3://bucket/prefix`, `gs://bucket/prefix` or "
        "`az://container/prefix`. "
        "It and the landing root may not contain one another.",
    )
    s3_path_style: bool | None = Field(
        default=None,
        description="Buckets in the path (`https://host/bucket/key`), not in the host name. "
        "Default: where an endpoint is set (`AWS_ENDPOINT_URL`).",
    )
    catalog_url: SecretStr | None = Field(
        default=None,
        description="`postgresql://user:password@host:port/database` of the DuckLake catalog, with whatever "
        "libpq takes in a URL: `?sslmode=verify-full&sslrootcert=/path`, several hosts. "
        "Empty: a Postgres of the lake's own, under `.lake/catalog`, started on demand.",
    )
    lookback_days: int = Field(
        default=3,
        ge=0,
        le=_CENTURY,
        description="Days before the newest applied partition that every listing still covers.",
    )
    reconcile_after_hours: float = Field(
        default=24,
        gt=0,
        le=_CENTURY * 24,
        description="Hours after which a stream too large to list each time is listed in full again.",
    )
    batch_max_bytes: int = Field(
        default=1024**3,
        gt=0,
        description="Bytes of landed Parquet that one dbt invocation is given at most "
        "(a single larger file goes alone).",
    )
    batch_max_files: int = Field(
        default=1000, ge=10, description="Files that one dbt invocation is given at most."
    )
    sync_silence_minutes: float = Field(
        default=60,
        gt=0,
        le=_CENTURY,
        description="Minutes without a word from a connector after which `lakeward sync` takes it for hung.",
    )
    workers: int = Field(
        default_factory=lambda: min(4, os.cpu_count() or 1),
        ge=1,
        description="Streams fed at the same time, a process each. Default: the number of cores, at most 4.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="DuckDB threads of one process. Default: all cores."
    )
    memory_limit: str | None = Field(
        default=None,
        description="DuckDB memory of one process, as DuckDB writes it (`4GB`). Default: DuckDB's own, "
        "80 % of the machine, shared between the workers.",
    )
    airbyte_url: str | None = Field(
        default=None,
        description="The Airbyte server's address, as in `https://airbyte.acme.example`. Empty: no server.",
    )
    airbyte_client_id: str | None = Field(
        default=None, description="Of an application, as Airbyte's settings make one."
    )
    airbyte_client_secret: SecretStr | None = Field(
        default=None, description="The application's secret; from the environment only."
    )
    airbyte_username: str | None = Field(
        default=None, description="Of a server with basic authentication, instead of an application."
    )
    airbyte_password: SecretStr | None = Field(
        default=None, description="Its password; from the environment only."
    )
    airbyte_workspace_id: str | None = Field(
        default=None, description="Default: the only workspace there is."
    )
    airbyte_s3_access_key_id: str | None = Field(
        default=None,
        description="Of the account that the server's S3 destination writes with. Default: the `AWS_*` one.",
    )
    airbyte_s3_secret_access_key: SecretStr | None = Field(
        default=None, description="Its secret; from the environment only."
    )
    s3: S3 = Field(default_factory=S3, exclude=True)
    azure: Azure = Field(default_factory=Azure, exclude=True)

    @field_validator("airbyte_url")
    @classmethod
    def _holds_no_password(cls, url: str | None) -> str | None:
        if url is not None and "@" in url:
            raise ValueError("write user and password as airbyte_username and airbyte_password")
        return url

    @property
    def root(self) -> Path:
        """The lake's root: `orchestration/` and `.lake/` lie in it."""
        return self.project_dir.parent

    @property
    def state_dir(self) -> Path:
        """All local state of the lake; git-ignored."""
        return self.root / ".lake"


def inherited() -> dict[str, str]:
    """The environment as it is, for a program we start."""
    return dict(os.environ)


def aws_environment() -> frozenset[tuple[str, str]]:
    """What AWS's own tools read of the environment."""
    return frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))


def find_project(start: Path) -> Path:
    """The dbt project of the lake that `start` lies in: works from the lake's root and from inside it."""
    for folder in (start, *start.parents):
        for candidate in (folder, folder / "orchestration"):
            if (candidate / _PROJECT_FILE).is_file() and (candidate / "dag").is_dir():
                return candidate
    raise ConfigError(
        f"no lake found in {start} or above it",
        hint=f"go to a folder that holds orchestration/{_PROJECT_FILE} and orchestration/dag/",
    )


def load_settings(project_dir: Path, environ: dict[str, str] | None = None) -> Settings:
    """Read `lakeward.toml`, then `LAKEWARD_*` over it.

    Raises ConfigError for an unknown key, a wrong type, az:// without an account, or a landing root and
    DATA_PATH that contain one another (DuckLake's orphan cleanup would delete the landed files).
    """
    env = dict(os.environ) if environ is None else environ
    path = project_dir / "lakeward.toml"
    from_file, from_env = _from_toml(path), _from_environment(env)
    known = [name for name in Settings.model_fields if name not in ("project_dir", "s3", "azure")]
    for key in (*from_file, *from_env):
        if key not in known:
            raise unknown_key(key, known, where=str(path) if key in from_file else _PREFIX + key.upper())
    typed = [key for key in _AIRBYTE_SECRETS if key in from_file]
    catalog_url = unquote(str(from_file.get("catalog_url", "")))
    if re.search(r"//[^/?]*:[^/?]*@|[?&](ssl)?password=", catalog_url):
        typed.append("catalog_url")
    for key in typed:
        raise ConfigError(
            f'{path}: "{key}" is a secret, typed into the file',
            hint=f"export {_PREFIX}{key.upper()}=..., or {_PREFIX}{key.upper()}_FILE=/path, instead; "
            "what was pushed once is known: change it",
        )
    values = from_file | from_env
    if values.get("catalog_url") == "":  # as Compose passes what is not set
        del values["catalog_url"]
    try:
        settings = Settings(project_dir=project_dir.resolve(), s3=_s3(env), azure=_azure(env), **values)
    except ValidationError as error:
        hidden = (*_SECRETS, "airbyte_url")
        raise validation_error(error, where=f"{path} or {_PREFIX}*", hidden=hidden) from None
    settings = settings.model_copy(
        update={
            key: _absolute(key, getattr(settings, key), settings.root) for key in ("landing_url", "data_url")
        }
    )
    _refuse_overlap(settings)
    if any(url.startswith("az://") for url in (settings.landing_url, settings.data_url)):
        _expect_account(settings.azure)
    return settings


def unknown_key(key: str, known: list[str], *, where: str, kind: str = "key") -> ConfigError:
    """An error that names the nearest known key and lists them all."""
    near = difflib.get_close_matches(key, known, n=1)
    meant = f'did you mean "{near[0]}"? ' if near else ""
    return ConfigError(
        f'{where}: unknown {kind} "{key}"', hint=f"{meant}known {kind}s: {', '.join(sorted(known))}"
    )


def validation_error(error: ValidationError, *, where: str, hidden: tuple[str, ...] = ()) -> ConfigError:
    """hidden: keys whose values may be, or hold, a secret."""
    first = error.errors()[0]
    wanted = first["msg"].removeprefix("Value error, ").lower()
    if first["loc"][0] in hidden:
        field, value = first["loc"][0], "not what it has to be"
    else:
        field, value = ".".join(str(part) for part in first["loc"]), _shown(first["input"])
    return ConfigError(f'{where}: "{field}" is {value}', hint=f"{wanted}; edit that key")


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "too large a number"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _from_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error}", hint="let this user read it") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}", hint="mend that line") from error


def _from_environment(env: dict[str, str]) -> dict[str, Any]:
    """A secret may lie in a file, as Docker and Kubernetes mount them: `LAKEWARD_CATALOG_URL_FILE`."""
    found = {
        name.removeprefix(_PREFIX).lower(): value for name, value in env.items() if name.startswith(_PREFIX)
    }
    for key in _SECRETS:
        if (path := found.pop(f"{key}_file", None)) is not None:
            if found.get(key):
                name = _PREFIX + key.upper()
                raise ConfigError(f"{name} and {name}_FILE are both set", hint="unset one of them")
            try:
                found[key] = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{_PREFIX}{key.upper()}_FILE is {path}: {error}", hint="name a file that can be read"
                ) from error
    return found


def _s3(env: dict[str, str]) -> S3:
    return S3(
        access_key_id=env.get("AWS_ACCESS_KEY_ID"),
        secret_access_key=_secret(env.get("AWS_SECRET_ACCESS_KEY")),
        session_token=_secret(env.get("AWS_SESSION_TOKEN")),
        region=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"),
        endpoint_url=env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"),
        ca_bundle=env.get("AWS_CA_BUNDLE"),
    )


def _azure(env: dict[str, str]) -> Azure:
    """Of a connection string; of the other variables what it leaves out."""
    pairs = env.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
    told = {key.strip(): value.strip() for key, _, value in (pair.partition("=") for pair in pairs)}
    account = told.get("AccountName") or env.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    suffix = told.get("EndpointSuffix", "core.windows.net")
    key, token = told.get("AccountKey"), told.get("SharedAccessSignature")
    if not key and not token:
        key, token = env.get("AZURE_STORAGE_ACCOUNT_KEY"), env.get("AZURE_STORAGE_SAS_TOKEN")
    return Azure(
        account_name=account,
        account_key=_secret(key),
        sas_token=_secret(token),
        endpoint_url=told.get("BlobEndpoint", f"https://{account}.blob.{suffix}").rstrip("/"),
    )


def _expect_account(azure: Azure) -> None:
    if not _ACCOUNT.fullmatch(azure.account_name):
        raise ConfigError(
            "az:// lies in a storage account, and no variable has a valid name of one",
            hint="set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME",
        )
    endpoint = _BLOB_ENDPOINT.fullmatch(azure.endpoint_url)
    if endpoint is None or int(endpoint["port"] or 0) >= 2**16:
        raise ConfigError(
            "the BlobEndpoint in AZURE_STORAGE_CONNECTION_STRING is not a host and a port",
            hint="write BlobEndpoint=https://host:port, and keys as AccountKey= or SharedAccessSignature=",
        )
    host = f"https://{azure.account_name}."
    if not (azure.account_key or azure.sas_token or azure.endpoint_url.startswith(host)):
        raise ConfigError(
            f"an identity is asked for at {host}… alone, and BlobEndpoint is another",
            hint="set a key or a token, or leave out BlobEndpoint",
        )


def _secret(value: str | None) -> SecretStr | None:
    return None if value is None else SecretStr(value)


def _absolute(key: str, url: str, root: Path) -> str:
    """`.lake/data` and `file:///data` become absolute paths, URLs of objects stay; none ends with a slash.

    Raises ConfigError for anything else: two spellings of one prefix would hide that one contains the other.
    """
    if url.startswith("file://"):
        host, _, path = url.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(
                f"{key} names a folder of another machine", hint="write file:///path, or the path alone"
            )
        url = unquote(f"/{path}")
    if "://" not in url:
        try:
            return str((root / url).resolve())
        except (ValueError, OSError, RuntimeError) as error:
            raise ConfigError(f"{key} {url!r}: {error}", hint="use a folder or s3://bucket/prefix") from error
    url = url.rstrip("/")
    if "@" in url:
        raise ConfigError(
            f"{key} holds a key or a password", hint="keys are for the AWS_* or AZURE_* variables"
        )
    scheme = url.partition("://")[0]
    if scheme not in ("s3", "gs", "az"):
        raise ConfigError(
            f"{key} {url!r}: lakeward knows no store of {scheme}://",
            hint="use a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        )
    if not _OBJECTS.fullmatch(url):
        raise ConfigError(
            f"{key} {url!r} is not written plainly",
            hint="use a folder, s3://bucket/prefix or az://container/prefix, "
            "without .. and any of % ? # * [ ]",
        )
    return url


def _refuse_overlap(settings: Settings) -> None:
    # Whatever they are called by, buckets of one name may be one bucket: a server may speak for both.
    landing, data = (
        f"{re.sub('^(s3|gs):', 'bucket:', url.rstrip('/'))}/"
        for url in (settings.landing_url, settings.data_url)
    )
    if landing.startswith(data) or data.startswith(landing):
        raise ConfigError(
            f"landing_url {settings.landing_url} and data_url {settings.data_url} contain one another",
            hint="give them separate prefixes: DuckLake's cleanup deletes files under data_url that its "
            "catalog does not know, which would be the landed ones",
        )
