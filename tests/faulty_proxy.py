"""An HTTP proxy before an S3 server that answers some requests as a store in trouble does.

A plan says which. Requests are passed on as they came, Host and all, so their signatures stay valid.
"""

from __future__ import annotations

import http.client
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

Plan = Callable[[str], str | None]  # from `GET /lake/key?query` to the fault that it meets; None: none

REFUSALS = {  # what the client gets instead of an answer; the request is not passed on
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
# drop: the connection closes before anything is done. lost: after all is done. cut: after half of the body.
# slow, hang: the answer takes so many SECONDS. lag: a list leaves out the newest LAG keys.
FAULTS = (*REFUSALS, "drop", "lost", "cut", "slow", "lag")
SECONDS = {"slow": 0.2, "hang": 40.0}
LAG = 2

_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")
_ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_LISTING = re.compile(r"GET /[^/?]+/?\?(?!.*uploads)")


def healthy(_: str) -> str | None:
    return None


def always(fault: str, wanted: str = "") -> Plan:
    """wanted: a pattern that the requests match which meet it."""
    return lambda line: fault if re.search(wanted, line) else None


def after(passed: int, fault: str, wanted: str = "") -> Plan:
    """All is well until so many requests have matched."""
    numbers = count()
    return lambda line: fault if re.search(wanted, line) and next(numbers) >= passed else None


def first(times: int, fault: str, wanted: str = "") -> Plan:
    numbers = count()
    return lambda line: fault if re.search(wanted, line) and next(numbers) < times else None


def each(*plans: Plan) -> Plan:
    """The first of them that has a fault for the request."""
    return lambda line: next((fault for plan in plans if (fault := plan(line)) is not None), None)


def seeded(seed: int, share: float, faults: Sequence[str]) -> Plan:
    """One request in so many meets one of the faults; the same draws for the same seed."""
    draw = random.Random(seed)
    return lambda _: draw.choice(faults) if draw.random() < share else None


class FaultyProxy:
    """Runs until closed. `plan` may be changed at any time; `met` counts the faults by name."""

    def __init__(self, upstream: str) -> None:
        """upstream: `host:port`."""
        self.plan: Plan = healthy
        self.met: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy, self._server.upstream = self, upstream
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def heal(self) -> None:
        self.plan = healthy
        self.met.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    proxy: FaultyProxy
    upstream: str

    def handle_error(self, request: object, client_address: object) -> None:
        """A client, or the server behind, that goes away is part of the game."""
        if not isinstance(sys.exception(), OSError | http.client.HTTPException):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{self.command} {self.path}"
        proxy = self.server.proxy
        fault = proxy.plan(line)
        if fault == "lag" and not _LISTING.match(line):
            fault = None
        if fault is not None:
            proxy.met[fault] += 1
        if fault in REFUSALS:
            self._refuse(*REFUSALS[fault])
        elif fault == "drop":
            self.close_connection = True
        else:
            self._pass_on(body, fault)

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], text.encode())

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            with upstream.getresponse() as response:
                content = response.read()
                headers = response.getheaders()
        finally:
            upstream.close()
        if fault == "lost":
            self.close_connection = True
            return
        time.sleep(SECONDS.get(fault or "", 0.0))
        if fault == "lag":
            content = _without_newest(content)
        size = response.headers.get("Content-Length", "0") if self.command == "HEAD" else None
        kept = [(name, value) for name, value in headers if name.lower() not in _HOP]
        self._answer(response.status, kept, content, size=size, is_cut=fault == "cut")

    def _answer(
        self,
        status: int,
        headers: Sequence[tuple[str, str]],
        content: bytes,
        *,
        size: str | None = None,
        is_cut: bool = False,
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", size or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()


def _without_newest(listing: bytes) -> bytes:
    """The list without the entries that changed last."""

    def changed(entry: bytes) -> tuple[bytes, ...]:
        return tuple(re.findall(rb"<(?:LastModified|Key)>(.*?)<", entry)[::-1])

    for entry in sorted(_ENTRY.findall(listing), key=changed)[-LAG:]:
        listing = listing.replace(entry, b"")
    return listing
