"""Vendors' HTTP APIs as a connector from PyPI sees them, so that it can be run unmodified and offline.

The connector asks for its vendor's own host. `environment` sends it through a proxy on 127.0.0.1 that ends
TLS with a certificate made at start and answers from `records`; every other host is refused.
"""

from __future__ import annotations

import contextlib
import json
import random
import ssl
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, urlsplit

Record = dict[str, Any]

UNUSUAL = {
    "text": "Zoë “Ω” 東京 🛍️ مرحبا\u2028\ttab \"quoted\" 'single' \\back",
    "long": "0123456789" * 2_000,
    "empty": "",
    "number_as_text": "0042",
    "key with spaces": [None, {"deep": [1, 2.5, True]}],
}


@dataclass(frozen=True)
class Request:
    """One GET, its query without repeated keys."""

    path: str
    query: Mapping[str, str]
    headers: Message

    @property
    def subject(self) -> str:
        """What is asked for: `orders` of `/admin/api/2026-10/orders.json`."""
        return self.path.rstrip("/").rpartition("/")[2].removesuffix(".json")


@dataclass(frozen=True)
class Answer:
    body: Record
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Standin(ABC):
    """An API that serves `records`: the record of each id, by stream. Change them between syncs.

    `requests` counts by subject, failures included. `refused` names other hosts that the connector wanted.
    `too_old` is the id, by stream, of a record dated before `start`: no sync may bring it.
    """

    host: ClassVar[str]
    program: ClassVar[str]
    streams: ClassVar[tuple[str, ...]]
    secret = "stand-in-key"

    def __init__(self, *, page_size: int) -> None:
        self.page_size = page_size
        self.records: dict[str, dict[Any, Record]] = {}
        self.requests: Counter[str] = Counter()
        self.refused: list[str] = []
        self.too_old: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.start = (self.now - timedelta(days=10)).replace(hour=0, minute=0, second=0)
        self._failures: list[tuple[str | None, int]] = []
        self._lock = threading.Lock()

    @property
    @abstractmethod
    def config(self) -> Record:
        """What the connector is given as --config."""

    @abstractmethod
    def answer(self, request: Request) -> Answer: ...

    @abstractmethod
    def failure(self, status: int) -> Answer:
        """The vendor's words for a status of 400 or more."""

    @abstractmethod
    def add(self, stream: str, *, at: datetime | None = None) -> Any:
        """Put in a new record, made up, dated now; its id."""

    @abstractmethod
    def touch(self, stream: str, identity: Any, **changes: Any) -> None:
        """Change a record, and date it now."""

    def command(self, venv: Path) -> list[str]:
        """The start of the connector's command line, from the environment it is installed in."""
        return [str(venv / "bin" / self.program)]

    def fail_next(self, count: int, status: int, *, subject: str | None = None) -> None:
        """Answer the next requests with the status: those for the subject, or any."""
        with self._lock:
            self._failures += [(subject, status)] * count

    def handle(self, request: Request) -> Answer:
        with self._lock:
            self.requests[request.subject] += 1
            for planned in self._failures:
                if planned[0] in {None, request.subject}:
                    self._failures.remove(planned)
                    return self.failure(planned[1])
        return self.answer(request)

    def populate(self, stream: str, count: int) -> None:
        """One record from before `start`, the others spread over the days since, oldest first."""
        self.too_old[stream] = self.add(stream, at=self.start - timedelta(days=20))
        for n in range(1, count):
            self.add(stream, at=self.start + (self.now - self.start) * n / count)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        with tempfile.TemporaryDirectory(prefix="standin-") as directory:
            certificate = _certificate(Path(directory), self.host)
            _trust(Path(directory), certificate)
            with _Proxy(self, certificate) as proxy:
                thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
                thread.start()
                url = f"http://127.0.0.1:{proxy.server_port}"
                self.environment = {
                    # Both cases: the lower one wins, and would win from the environment of the tests too.
                    **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), url),
                    **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
                    "REQUESTS_CA_BUNDLE": str(certificate),
                    "PYTHONPATH": directory,
                }
                try:
                    yield self
                finally:
                    proxy.shutdown()
                    thread.join()


def id_maker(seed: str) -> Iterator[int]:
    """Numbers that do not count up, the same ones every time."""
    chance = random.Random(seed)
    while True:
        yield chance.randrange(10**12, 10**13)


class _Proxy(ThreadingHTTPServer):
    """Takes CONNECT for the one host, and is then that host."""

    daemon_threads = True

    def __init__(self, api: Standin, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.api = api
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent about broken connections: a connector that is killed leaves them."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0]
        if not _matches(host, self.server.api.host):
            self.server.api.refused.append(host)
            self.send_error(502)
            return
        self.close_connection = False  # whatever version of HTTP CONNECT was in
        self.send_response_only(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        answer = self.server.api.handle(Request(url.path, query, self.headers))
        body = json.dumps(answer.body, ensure_ascii=False).encode()
        self.send_response_only(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        with self.connection:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: stderr belongs to the tests."""


def _matches(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.partition(".")[2] == pattern[2:])


def _certificate(directory: Path, host: str) -> Path:
    """Key and certificate in one file, made by the openssl program."""
    path = directory / "certificate.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]
    name = ["-subj", "/CN=stand-in", "-addext", f"subjectAltName=DNS:{host}"]
    made = subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", *key, *name], check=True, capture_output=True
    )
    with path.open("ab") as file:
        file.write(made.stdout)
    return path


def _trust(directory: Path, certificate: Path) -> None:
    """A certifi that knows the certificate only: connectors on airbyte-cdk 6 ignore REQUESTS_CA_BUNDLE."""
    (directory / "certifi.py").write_text(f"def where():\n    return {str(certificate)!r}\n")
