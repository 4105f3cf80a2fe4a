"""DuckDB with the lake attached: the only module that opens a DuckDB connection.

The dbt plugin prepares dbt's connection with the same `prepare`, so a person at `lakeward sql`, the
feeder and plain dbt all see one lake, configured in one place.
"""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb

from lakeward.embedded import DATABASE, USER, EmbeddedCatalog
from lakeward.errors import CatalogUnavailable, ConfigError, LakeError, LakewardError, WriterConflict
from lakeward.settings import CATALOG_SECRET, LAKE, Settings
from lakeward.sql import quote_literal

# DuckDB and its extensions must be the same version to the digit, and the wheels stop at 1.5.5
# (pyproject.toml pins all four together).
_EXTENSIONS = ("ducklake", "postgres_scanner")

_KIND = re.compile(r"((?:[A-Za-z]+ )*Error|\w+Exception): ")
_AWAY = re.compile(r"[Cc]onnect|server closed|terminating|starting up|shutting down|recovery mode")

_REFUSED = re.compile(r"ERROR:  (cannot execute \w+ in a read-only transaction|permission denied for)")

_QUOTED = re.compile(r'Failed to execute query ".*": (?=ERROR)', re.DOTALL)

_SETUP = 7_202_611  # our advisory lock's number in the catalog database

_setting_up = threading.Lock()  # dbt's threads share one DuckDB, and so the name of what is attached below

Row = tuple[Any, ...]
Connection = duckdb.DuckDBPyConnection


def prepare(con: Connection, settings: Settings, *, read_only: bool = False) -> EmbeddedCatalog | None:
    """Configure the connection and attach the lake as `lakehouse`.

    Extensions are loaded from their installed wheels by path, never downloaded; DuckDB checks their
    signature. Starts or joins the embedded catalog and returns it: close it after the connection.
    """
    con.execute("set autoinstall_known_extensions = false")
    con.execute("set autoload_known_extensions = false")
    # A cast of a time to a date must not depend on the machine that happened to run it.
    con.execute("set timezone = 'UTC'")
    con.execute(f"set temp_directory = {quote_literal(str(settings.state_dir / 'spill'))}")
    if settings.threads is not None:
        con.execute(f"set threads = {settings.threads}")
    if settings.memory_limit is not None:
        try:
            con.execute(f"set memory_limit = {quote_literal(settings.memory_limit)}")
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
        for statement in _connecting(settings, catalog):
            con.execute(statement)
        if _is_remote(settings):
            for name in ("s3_secret_access_key", "s3_session_token"):
                con.execute(f"set {name} = ''")  # httpfs takes them from the environment, for all to see
        # Commits of other streams bump the snapshot number under ours: DuckLake retries, it does not fail.
        con.execute("set ducklake_max_retry_count = 100")
        _attach(con, read_only=read_only)
    except duckdb.Error as error:
        if catalog is not None:
            catalog.close()
        if "DATA_PATH parameter" in str(error):
            said = first_line(str(error))
            raise ConfigError(
                f"data_url is {settings.data_url}, but this lake was made with another: {said}",
                hint="set data_url back, or name another catalog for a new lake",
            ) from error
        raise
    return catalog


def attach_statements(settings: Settings) -> list[str]:
    """What a person pastes into any DuckDB of our version; holds the secrets it needs.

    The embedded catalog answers only while some lakeward process keeps it running.
    """
    with running_catalog(settings) as catalog:
        statements = list(_connecting(settings, catalog))
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


def _connecting(settings: Settings, catalog: EmbeddedCatalog | None) -> Iterator[str]:
    """Extensions and secrets, in the order DuckDB needs them."""
    remote = _is_remote(settings)
    for extension in (*_EXTENSIONS, *(("httpfs",) if remote else ())):
        yield f"load {quote_literal(_extension_path(extension))}"
    if remote:
        yield _s3_secret(settings)
    if catalog is not None:
        parameters = {"host": catalog.host, "database": DATABASE, "user": USER}
    else:
        assert settings.catalog_url is not None
        parameters = _postgres_parameters(settings.catalog_url.get_secret_value())
    yield _create_secret("lakeward_catalog", {"type": "postgres"} | parameters)
    yield (
        f"create or replace secret {CATALOG_SECRET} (type ducklake, metadata_path '', "
        f"data_path {quote_literal(settings.data_url + '/')}, "
        "metadata_parameters map {'TYPE': 'postgres', 'SECRET': 'lakeward_catalog'})"
    )


def _is_remote(settings: Settings) -> bool:
    return "://" in settings.landing_url or "://" in settings.data_url


def _attach(con: Connection, *, read_only: bool) -> None:
    attach = f"attach if not exists 'ducklake:{CATALOG_SECRET}' as {LAKE}"
    existing = "read_only, create_if_not_exists false" if read_only else "create_if_not_exists false"
    try:
        con.execute(f"{attach} ({existing})")
    except duckdb.Error as error:
        if read_only or not _is_absent(error):
            raise
        with _setup_lock(con):
            con.execute(attach)


@contextmanager
def _setup_lock(con: Connection) -> Iterator[None]:
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


def _is_absent(error: duckdb.Error) -> bool:
    return "does not exist" in str(error)


class Lake:
    """One connection to the lake. Use `open_lake`."""

    def __init__(self, con: Connection) -> None:
        self.con = con

    def query(self, sql: str, parameters: Sequence[object] | dict[str, object] = ()) -> list[Row]:
        with translated():
            return self.con.execute(sql, parameters).fetchall()

    def records(self, sql: str) -> tuple[list[str], list[Row]]:
        """Column names and rows of a statement a person typed. Raises ConfigError with DuckDB's words."""
        try:
            result = self.con.execute(sql)
            if self.con.description is None:
                raise ConfigError("no statement was given", hint='lakeward sql "select 1"')
            return [column[0] for column in result.description], result.fetchall()
        except duckdb.Error as error:
            raise ConfigError(str(error), hint="mend the statement") from error

    @contextmanager
    def setup(self) -> Iterator[None]:
        """Hold every other process back from setting up the same lake."""
        with translated(), _setup_lock(self.con):
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside see one snapshot and commit together, or not at all."""
        with translated():
            self.con.execute("begin")
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # the catalog may be what went away
                self.con.execute("rollback")
            raise
        with translated():
            self.con.execute("commit")


@contextmanager
def open_lake(settings: Settings, *, read_only: bool = False) -> Iterator[Lake | None]:
    """The lake, attached as `lakehouse` and in use. Costs about 0.3 s.

    read_only: creates nothing; yields None when the lake does not exist yet.
    """
    if read_only and _certainly_absent(settings):
        yield None
        return
    con = duckdb.connect()
    catalog = None
    try:
        with translated():
            try:
                catalog = prepare(con, settings, read_only=read_only)
            except duckdb.Error as error:
                if read_only and _is_absent(error):
                    con.close()
                    yield None
                    return
                raise
            con.execute(f"use {LAKE}")
        yield Lake(con)
    finally:
        con.close()
        if catalog is not None:
            catalog.close()


@contextmanager
def open_writer(settings: Settings) -> Iterator[Lake]:
    """DuckDB without the lake, on one thread: what it writes row by row takes little memory that way."""
    with duckdb.connect() as con, translated():
        for setting in ("threads = 1", "timezone = 'UTC'"):
            con.execute(f"set {setting}")
        con.execute(f"set temp_directory = {quote_literal(str(settings.state_dir / 'spill'))}")
        yield Lake(con)


@contextmanager
def translated() -> Iterator[None]:
    """DuckDB's errors as ours: a lost race is a WriterConflict, everything else a LakeError."""
    try:
        yield
    except duckdb.Error as error:
        raise as_lakeward_error(str(error)) from error


def as_lakeward_error(message: str) -> LakewardError:
    line = first_line(message)
    if is_conflict(message):
        return WriterConflict(line)
    if error_kind(message) in ("IO Error", "TransactionContext Error") and _AWAY.search(line):
        return CatalogUnavailable(line, hint="is its Postgres up? nothing was marked as done")
    if _REFUSED.search(line):
        return LakeError(line, hint="the role in catalog_url may only read: see deploy/roles.sql")
    return LakeError(line)


def error_kind(message: str) -> str:
    """`Conversion Error`: how DuckDB begins a message. Empty when it does not; never words of the data."""
    found = _KIND.match(message.lstrip())
    return found[1] if found else ""


def is_conflict(message: str) -> bool:
    """Did another writer commit first? DuckLake's wording, or our fence's (macros/lakeward.sql)."""
    kind = error_kind(message)
    lost = kind == "TransactionContext Error" and "Transaction conflict" in message
    return lost or (kind in ("Invalid Input Error", "") and "lakeward: fence moved" in message)


def first_line(message: str) -> str:
    """DuckDB's words, without the statements it quotes; of a commit that failed also why it did."""
    lines = without_statements(message).strip().splitlines() or [message]
    return " ".join(lines[:2]) if lines[0].endswith("DuckLake transaction.") else lines[0]


def without_statements(message: str) -> str:
    """DuckLake quotes all that it was about to tell Postgres, which may be pages."""
    return _QUOTED.sub("", message)


def _certainly_absent(settings: Settings) -> bool:
    return settings.catalog_url is None and not (settings.state_dir / "catalog").exists()


def _extension_path(name: str) -> str:
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


def _s3_secret(settings: Settings) -> str:
    s3 = settings.s3
    options: dict[str, str] = {"type": "s3", "region": s3.region}
    if s3.access_key_id and s3.secret_access_key:
        options |= {"key_id": s3.access_key_id, "secret": s3.secret_access_key.get_secret_value()}
    if s3.session_token:
        options["session_token"] = s3.session_token.get_secret_value()
    if s3.endpoint_url:
        address = urlsplit(s3.endpoint_url)
        options |= {
            "endpoint": address.netloc,
            "use_ssl": str(address.scheme == "https").lower(),
            "url_style": "path",
        }
    return _create_secret("lakeward_store", options)


def _create_secret(name: str, options: dict[str, str]) -> str:
    body = ", ".join(f"{key} {quote_literal(value)}" for key, value in options.items())
    return f"create or replace secret {name} ({body})"


def _postgres_parameters(url: str) -> dict[str, str]:
    wrong = ConfigError(
        "catalog_url is not a Postgres URL",
        hint="write postgresql://user:password@host:port/database; "
        "in user and password, percent-encode what is neither letter nor digit",
    )
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:  # its words hold a part of the password
        raise wrong from None
    if not re.match(r"^postgres(ql)?$", parts.scheme) or not parts.path.strip("/"):
        raise wrong
    found = {
        "host": parts.hostname,
        "port": str(port),
        "database": parts.path.strip("/"),
        "user": parts.username,
        "password": parts.password,
    }
    return {key: unquote(value) for key, value in found.items() if value}
