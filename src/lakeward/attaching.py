"""How a DuckDB connection becomes one with the lake attached: extensions, secrets, catalog.

The dbt plugin prepares dbt's connection with the same `prepare`, so a person at `lakeward sql`, the
feeder and plain dbt all see one lake, configured in one place.
"""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import duckdb

from lakeward.complaints import first_line
from lakeward.credentials import access
from lakeward.embedded import DATABASE, USER, EmbeddedCatalog
from lakeward.errors import ConfigError, LakeError, LakewardError
from lakeward.settings import CATALOG_SECRET, LAKE, Settings
from lakeward.sql import escape_glob, quote_literal

if TYPE_CHECKING:
    from lakeward.credentials import Access, Keys
    from lakeward.settings import Azure

# DuckDB and its extensions must be the same version to the digit, and the wheels stop at 1.5.5
# (pyproject.toml pins all five together).
_EXTENSIONS = ("ducklake", "postgres_scanner")
_STORE_EXTENSIONS = {"s3": "httpfs", "gs": "httpfs", "az": "azure"}
CATALOG_FORMAT = "1.0"  # that this ducklake extension makes

# As patient with a store that is busy as obstore is, some seconds: DuckDB gives up after half of one.
_PATIENCE = ("http_retries = 5", "http_retry_wait_ms = 200", "http_retry_backoff = 2")

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^:,\[\]\s]*)(:\d{1,5})?"
_HOSTS = re.compile(f"{_HOST}(,{_HOST})*", re.ASCII)
_UNDECODABLE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00|[\x00-\x20\x7f]")

_SETUP = 7_202_611  # our advisory lock's number in the catalog database

_setting_up = threading.Lock()  # dbt's threads share one DuckDB, and so the name of what is attached below

Connection = duckdb.DuckDBPyConnection


def prepare(con: Connection, settings: Settings, *, read_only: bool = False) -> EmbeddedCatalog | None:
    """Configure the connection and attach the lake as `lakehouse`.

    Extensions are loaded from their installed wheels by path, never downloaded; DuckDB checks their
    signature. Starts or joins the embedded catalog and returns it: close it after the connection.
    """
    con.execute("set autoinstall_known_extensions = false")
    con.execute("set autoload_known_extensions = false")
    # Global: dbt works with cursors, which have settings of their own.
    # A cast of a time to a date must not depend on the machine that happened to run it.
    con.execute("set global timezone = 'UTC'")
    con.execute("set enable_progress_bar = false")  # it would go to stdout, into --json
    con.execute(f"set global temp_directory = {quote_literal(str(settings.state_dir / 'spill'))}")
    if settings.threads is not None:
        con.execute(f"set global threads = {settings.threads}")
    if settings.memory_limit is not None:
        try:
            con.execute(f"set global memory_limit = {quote_literal(settings.memory_limit)}")
        except duckdb.Error as error:
            raise ConfigError(
                f"memory_limit {settings.memory_limit!r}: {error}", hint="write it as in 4GB"
            ) from error
    if "://" not in settings.data_url and not read_only:
        Path(settings.data_url).mkdir(parents=True, exist_ok=True)
    catalog = None
    if settings.catalog_url is None:
        catalog = EmbeddedCatalog(settings.state_dir).open()
    try:
        for statement in connecting(settings, catalog):
            con.execute(statement)
        # Commits of other streams bump the snapshot number under ours: DuckLake retries, it does not fail.
        con.execute("set global ducklake_max_retry_count = 100")
        _attach(con, settings.data_url, read_only=read_only)
    except (duckdb.Error, LakewardError) as error:
        if catalog is not None:
            catalog.close()
        if "DATA_PATH parameter" in str(error):
            said = first_line(str(error))
            raise ConfigError(
                f"data_url is {settings.data_url}, but this lake was made with another: {said}",
                hint="set data_url back, or move the lake back; or name another catalog for a new lake",
            ) from error
        raise
    return catalog


def attach_statements(settings: Settings) -> list[str]:
    """What a person pastes into any DuckDB of our version; holds the secrets it needs.

    The embedded catalog answers only while some lakeward process keeps it running.
    """
    with running_catalog(settings) as catalog:
        statements = list(connecting(settings, catalog))
    return [*statements, f"attach 'ducklake:{CATALOG_SECRET}' as {LAKE} (read_only)", f"use {LAKE}"]


@contextmanager
def running_catalog(settings: Settings) -> Iterator[EmbeddedCatalog | None]:
    """Hold the embedded server open, so that nobody has to start it meanwhile; None where there is none."""
    catalog = EmbeddedCatalog(settings.state_dir).open() if settings.catalog_url is None else None
    try:
        yield catalog
    finally:
        if catalog is not None:
            catalog.close()


def connecting(settings: Settings, catalog: EmbeddedCatalog | None) -> Iterator[str]:
    """Extensions and secrets, in the order DuckDB needs them."""
    stores = StoreSecrets(settings)
    for path in extensions(settings):
        yield f"load {quote_literal(path)}"
    yield from stores.settings()
    yield from stores.statements()
    yield catalog_secret(settings, catalog)
    yield (
        f"create or replace secret {CATALOG_SECRET} (type ducklake, metadata_path '', "
        f"data_path {quote_literal(settings.data_url + '/')}, "
        "metadata_parameters map {'TYPE': 'postgres', 'SECRET': 'lakeward_catalog'})"
    )


def catalog_secret(settings: Settings, catalog: EmbeddedCatalog | None) -> str:
    """Where the catalog's Postgres is, as DuckDB's extension `postgres_scanner` takes it."""
    if catalog is not None:
        parameters = {"host": catalog.host, "database": DATABASE, "user": USER}
    else:
        assert settings.catalog_url is not None
        parameters = {"uri": postgres_uri(settings.catalog_url.get_secret_value())}
    return _create_secret("lakeward_catalog", {"type": "postgres"} | parameters)


def _attach(con: Connection, data_url: str, *, read_only: bool) -> None:
    attach = f"attach if not exists 'ducklake:{CATALOG_SECRET}' as {LAKE}"
    existing = "read_only, create_if_not_exists false" if read_only else "create_if_not_exists false"
    try:
        con.execute(f"{attach} ({existing})")
    except duckdb.Error as error:
        if read_only or not is_absent(error):
            raise
        with setup_lock(con):
            try:
                con.execute(f"{attach} ({existing})")  # another process was faster
            except duckdb.Error as still:
                if not is_absent(still):
                    raise
                _expect_no_data(con, data_url)
                con.execute(attach)


def _expect_no_data(con: Connection, data_url: str) -> None:
    """A second lake over the data of a first: its `maintain` would delete all of them."""
    pattern = f"{escape_glob(data_url)}/**/*.parquet"
    if con.execute("select 1 from glob(?) limit 1", [pattern]).fetchone():
        raise ConfigError(
            f"the catalog holds no lake yet, but data_url {data_url} holds the data of one",
            hint="name that lake's catalog (LAKEWARD_CATALOG_URL), or another data_url for a new lake",
        )


@contextmanager
def setup_lock(con: Connection) -> Iterator[None]:
    """One process at a time, on any machine, sets up a lake: a lock in the catalog's own Postgres.

    Processes that create a catalog or set its options at once get errors, some of them a crash of DuckDB
    (seen with 1.5.5). Waits as long as the other needs; a killed holder lets go.
    """
    with _setting_up, con.cursor() as guard:
        guard.execute("attach if not exists '' as lakeward_setup (type postgres, secret lakeward_catalog)")
        guard.execute("begin")
        try:
            guard.execute(
                f"call postgres_execute('lakeward_setup', 'select pg_advisory_xact_lock({_SETUP})')"
            )
            yield
        finally:
            with suppress(duckdb.Error):
                guard.execute("rollback")
                guard.execute("detach lakeward_setup")


def is_absent(error: duckdb.Error) -> bool:
    return "creating a new DuckLake is explicitly disabled" in str(error)


class StoreSecrets:
    """The object stores' keys as DuckDB's secrets, which do not renew themselves."""

    def __init__(self, settings: Settings) -> None:
        by_scheme = {urlsplit(url).scheme: url for url in _remote(settings)}
        self._azure = settings.azure if by_scheme.pop("az", None) else None
        self._stores = {url: access(settings, url) for url in by_scheme.values()}
        self._known: list[str] = []

    def settings(self) -> Iterator[str]:
        """Certificates are checked: DuckDB's own default does so with one of its two HTTP clients only."""
        if self._stores:
            yield from (f"set global {setting}" for setting in _PATIENCE)
            yield "set global enable_server_cert_verification = true"
            yield "set global enable_curl_server_cert_verification = true"
            for name in ("s3_secret_access_key", "s3_session_token"):
                yield f"set global {name} = ''"  # httpfs takes them from the environment, for all to see
        if self._azure is not None:
            # Its default finds no authorities' certificates on Linux (azure-sdk-for-cpp issue 4983).
            yield "set global azure_transport_option_type = 'curl'"
        for bundle in {store.ca_bundle for store in self._stores.values() if store.ca_bundle}:
            yield f"set global ca_cert_file = {quote_literal(bundle)}"

    def statements(self) -> list[str]:
        buckets = [_store_secret(url, store, store.keys) for url, store in self._stores.items()]
        return buckets if self._azure is None else [*buckets, _azure_secret(self._azure)]

    def renew(self, con: Connection) -> None:
        """Make them anew where keys have changed since. Costs nothing where keys stay."""
        if any(store.is_temporary for store in self._stores.values()):
            statements = self.statements()
            if statements != self._known:
                with con.cursor() as own:
                    for statement in statements:
                        own.execute(statement)
                self._known = statements


def certainly_absent(settings: Settings) -> bool:
    return settings.catalog_url is None and not (settings.state_dir / "catalog").exists()


def extensions(settings: Settings) -> list[str]:
    """The files to load, in that order. Raises LakeError where one is missing or of another version."""
    stores = {_STORE_EXTENSIONS[urlsplit(url).scheme] for url in _remote(settings)}
    return [extension_path(name) for name in (*_EXTENSIONS, *sorted(stores))]


def _remote(settings: Settings) -> list[str]:
    return [url for url in (settings.landing_url, settings.data_url) if "://" in url]


def extension_path(name: str) -> str:
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        raise LakeError(f"duckdb-extension-{name} is not installed", hint="install lakeward again")
    folder = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}"
    path = folder / f"{name}.duckdb_extension"
    if not path.is_file():
        raise LakeError(
            f"duckdb {duckdb.__version__} has no matching {name} extension",
            hint="duckdb and the duckdb-extension-* wheels must be one version: install from the lock file",
        )
    return str(path)


def _store_secret(url: str, store: Access, keys: Keys) -> str:
    scheme = urlsplit(url).scheme
    options = {
        "type": {"gs": "gcs"}.get(scheme, scheme),
        "region": store.region,
        "key_id": keys.access_key_id,
        "secret": keys.secret_access_key,
        "url_style": "path" if store.path_style else "vhost",
    }
    if keys.session_token:
        options["session_token"] = keys.session_token
    if store.endpoint_url:
        address = urlsplit(store.endpoint_url)
        options |= {"endpoint": address.netloc, "use_ssl": str(address.scheme == "https").lower()}
    return _create_secret(f"lakeward_store_{scheme}", options)


def _azure_secret(azure: Azure) -> str:
    """The chain is obstore's, in its order (stores.py); the extension renews what an identity is given."""
    account = f"AccountName={azure.account_name};BlobEndpoint={azure.endpoint_url}"
    if azure.account_key:
        key = azure.account_key.get_secret_value()
        options = {"connection_string": f"{account};AccountKey={key}"}
    elif azure.sas_token:
        token = azure.sas_token.get_secret_value()
        options = {"connection_string": f"{account};SharedAccessSignature={token}"}
    else:
        options = {
            "provider": "credential_chain",
            "chain": "env;workload_identity;managed_identity",
            "account_name": azure.account_name,
            "endpoint": azure.endpoint_url.removeprefix(f"https://{azure.account_name}."),
        }
    return _create_secret("lakeward_store_az", {"type": "azure"} | options)


def _create_secret(name: str, options: dict[str, str]) -> str:
    body = ", ".join(f"{key} {quote_literal(value)}" for key, value in options.items())
    return f"create or replace secret {name} ({body})"


def postgres_uri(url: str) -> str:
    """Raises ConfigError without the URL: it holds a password, which libpq would show in part."""
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        is_one = (
            url.startswith(("postgres://", "postgresql://"))
            and parts.path.strip("/") != ""
            and _HOSTS.fullmatch(hosts) is not None
            and parts.netloc.count("@") <= 1  # libpq takes the first
            and all("=" in part for part in parts.query.split("&") if part)
            and "@" not in parts.path + parts.query + parts.fragment
            and _UNDECODABLE.search(url) is None
        )
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(
            "catalog_url is not a Postgres URL",
            hint="write postgresql://user:password@host:port/database; "
            "in user and password, percent-encode what is neither letter nor digit",
        )
    return url
