"""Airbyte's public API, `{host}/api/public/v1`: the only module that speaks HTTP to it.

reference.airbyte.com; behaviour as read in airbyte-platform at 310e6cb6.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from lakeward.errors import AirbyteError, ConfigError
from lakeward.masking import Mask

if TYPE_CHECKING:
    from lakeward.settings import Settings

Json = dict[str, Any]

_ROOT = "/api/public/v1"
_PAGE = 100
_SECONDS, _DISCOVER_SECONDS = 30.0, 900.0
_ATTEMPTS, _PAUSE_SECONDS, _PAUSE_SECONDS_AT_MOST = 4, 1.0, 30.0
_REFUSED_FOR_NOW = {429, 503}  # nothing was done
_PERHAPS_DONE = {500, 502, 504}


class Airbyte:
    """One server and one workspace. Use `open_airbyte`.

    mask: hides words in what the server says; add what it is sent.
    """

    def __init__(self, http: httpx.Client, settings: Settings) -> None:
        self.mask = Mask(
            secret.get_secret_value()
            for secret in (settings.airbyte_client_secret, settings.airbyte_password)
            if secret is not None
        )
        self._http = http
        self._settings = settings
        self._token: str | None = None
        self._workspace: str | None = settings.airbyte_workspace_id

    @property
    def workspace(self) -> str:
        """Its id: the one that is set, or the only one there is."""
        if self._workspace is None:
            found = list(self._pages("/workspaces"))
            if len(found) != 1:
                names = ", ".join(f"{each['name']} ({each['workspaceId']})" for each in found) or "none"
                raise ConfigError(
                    f"{self._settings.airbyte_url} has {len(found)} workspaces: {names}",
                    hint="set airbyte_workspace_id to one of them",
                )
            self._workspace = found[0]["workspaceId"]
        return self._workspace

    def all(self, noun: str, **query: str) -> list[Json]:
        """Everything of a kind in the workspace: `sources`, `destinations`, `connections`. A call per 100."""
        return list(self._pages(f"/{noun}", workspaceIds=self.workspace, **query))

    def streams(self, source: str, destination: str, *, look: bool = False) -> dict[str, Json]:
        """A source's streams by name, as last discovered; `look`: discover again, which takes minutes."""
        query = {"sourceId": source, "destinationId": destination}
        if look:
            query["ignoreCache"] = "true"
        found = self.call("GET", "/streams", query=query, seconds=_DISCOVER_SECONDS)
        return {stream["streamName"]: stream for stream in found}

    def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> Any:
        """The answer's JSON; None where there is none.

        Tries again what may be repeated, and what the server refused for now. Raises AirbyteError in the
        server's own words.
        """
        for attempt in range(_ATTEMPTS):
            is_last = attempt == _ATTEMPTS - 1
            pause = min(_PAUSE_SECONDS * 2**attempt, _PAUSE_SECONDS_AT_MOST)
            try:
                answer = self._send(method, path, body, query, seconds or _SECONDS)
            except httpx.TransportError as error:
                was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if is_last or (was_sent and method == "POST"):
                    raise self._silent(method, path, error, was_sent=was_sent) from error
                time.sleep(pause)
                continue
            again = answer.status_code in _REFUSED_FOR_NOW or (
                answer.status_code in _PERHAPS_DONE and method != "POST"
            )
            if again and not is_last:
                time.sleep(_told_pause(answer) or pause)
                continue
            return self._understood(method, path, answer)
        raise AssertionError("the last attempt returns or raises")

    def _send(
        self, method: str, path: str, body: Json | None, query: dict[str, str] | None, seconds: float
    ) -> httpx.Response:
        answer = self._http.request(
            method, _ROOT + path, json=body, params=query, headers=self._authorization(), timeout=seconds
        )
        if answer.status_code == 401 and self._token is not None:  # it has run out
            self._token = None
            answer = self._http.request(
                method, _ROOT + path, json=body, params=query, headers=self._authorization(), timeout=seconds
            )
        return answer

    def _authorization(self) -> dict[str, str]:
        settings = self._settings
        if settings.airbyte_client_id is None:
            return {}  # the client has the name and password, or there are none
        if self._token is None:
            assert settings.airbyte_client_secret is not None
            asked = {
                "client_id": settings.airbyte_client_id,
                "client_secret": settings.airbyte_client_secret.get_secret_value(),
                "grant_type": "client_credentials",
                "grant-type": "client_credentials",  # as the API's description spells it, by mistake
            }
            answer = self._http.post(f"{_ROOT}/applications/token", json=asked)
            if answer.status_code >= 400:
                raise AirbyteError(
                    f"{self._settings.airbyte_url} refused airbyte_client_id: {self._said(answer)}",
                    hint="make an application in Airbyte's settings, and set its id and secret",
                )
            self._token = self._understood("POST", "/applications/token", answer)["access_token"]
        return {"Authorization": f"Bearer {self._token}"}

    def _pages(self, path: str, **query: str) -> Iterator[Json]:
        """By offset: the links in the answers name a host inside the server's cluster."""
        offset = 0
        while True:
            asked = query | {"limit": str(_PAGE), "offset": str(offset)}
            data = self.call("GET", path, query=asked)["data"]
            yield from data
            if len(data) < _PAGE:
                return
            offset += len(data)

    def _understood(self, method: str, path: str, answer: httpx.Response) -> Any:
        if answer.status_code >= 400:
            hint = {
                401: "check airbyte_client_id and airbyte_client_secret (or the user name and password)",
                403: "the application or user may not do this in this workspace",
            }.get(answer.status_code)
            raise AirbyteError(
                f"Airbyte answered {answer.status_code} to {method} {path}: {self._said(answer)}",
                hint=hint,
            )
        if answer.status_code == 204 or not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise AirbyteError(
                f"Airbyte answered {method} {path} with no JSON: {self.mask(answer.text)[:200]}",
                hint="is airbyte_url the server's own address, without a path?",
            ) from error

    def _said(self, answer: httpx.Response) -> str:
        return self.mask(_words(answer))[:500]

    def _silent(self, method: str, path: str, error: Exception, *, was_sent: bool) -> AirbyteError:
        if was_sent and method == "POST":
            hint = "whether it was done is not known: lakeward airbyte plan tells"
        else:
            hint = "check airbyte_url and the network; nothing was changed"
        words = str(error) or type(error).__name__
        return AirbyteError(
            f"no answer from {self._settings.airbyte_url} to {method} {path}: {words}", hint=hint
        )


@contextmanager
def open_airbyte(settings: Settings) -> Iterator[Airbyte]:
    """Connects when first asked. Raises ConfigError when the settings name no server or no credentials."""
    if settings.airbyte_url is None:
        raise ConfigError(
            "airbyte_url is not set",
            hint="set it to the server's address, as in https://airbyte.acme.example",
        )
    if settings.airbyte_client_id is not None and settings.airbyte_client_secret is None:
        raise ConfigError(
            "airbyte_client_secret is not set", hint="export LAKEWARD_AIRBYTE_CLIENT_SECRET=..."
        )
    basic = None
    if settings.airbyte_username is not None and settings.airbyte_password is not None:
        basic = httpx.BasicAuth(settings.airbyte_username, settings.airbyte_password.get_secret_value())
    with httpx.Client(base_url=settings.airbyte_url, auth=basic, timeout=_SECONDS) as http:
        yield Airbyte(http, settings)


def _told_pause(answer: httpx.Response) -> float | None:
    told = answer.headers.get("Retry-After", "")
    return min(float(told), _PAUSE_SECONDS_AT_MOST) if told.isdigit() else None


def _words(answer: httpx.Response) -> str:
    """The server's own: which of its keys has them differs from problem to problem (api-problems.yaml)."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text.strip() or answer.reason_phrase
    if not isinstance(body, dict):
        return str(body)
    data = body.get("data")
    inner = data if isinstance(data, dict) else {}
    found = [inner.get("message"), body.get("message"), body.get("detail")]
    words = next((str(each) for each in found if each), answer.reason_phrase)
    rest = {key: value for key, value in inner.items() if key != "message" and value is not None}
    told = ", ".join(f"{key}: {value}" for key, value in rest.items())
    return f"{words} ({told})" if told else words
