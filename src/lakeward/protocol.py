"""Airbyte's protocol: a JSON message per line, and what of a message can be relied on.

docs.airbyte.com/platform/understanding-airbyte/airbyte-protocol. Records are looked at by hand: there are
many. Everything else is checked by pydantic.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import orjson
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, Strict, ValidationError

Message = dict[str, Any]


_Count = Annotated[float, Strict(), AllowInfNan(False)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Descriptor(_Loose):
    name: str


class _StreamState(_Loose):
    stream_descriptor: _Descriptor


class _Stats(_Loose):
    recordCount: _Count | None = None  # noqa: N815 - the protocol's spelling


class _State(_Loose):
    type: Literal["STREAM", "GLOBAL", "LEGACY"] | None = None
    stream: _StreamState | None = None
    sourceStats: _Stats | None = None  # noqa: N815


class _Status(_Loose):
    stream_descriptor: _Descriptor
    status: str


class _Error(_Loose):
    message: str | None = None
    internal_message: str | None = None
    stream_descriptor: _Descriptor | None = None


class _Estimate(_Loose):
    name: str | None = None
    row_estimate: _Count | None = None


class _Trace(_Loose):
    type: str
    stream_status: _Status | None = None
    error: _Error | None = None
    estimate: _Estimate | None = None


class _Log(_Loose):
    level: str = "INFO"
    message: str = ""


class _Stream(_Loose):
    name: str
    json_schema: dict[str, Any]
    supported_sync_modes: list[str] | None = None
    source_defined_cursor: bool | None = None
    default_cursor_field: list[str] | None = None
    source_defined_primary_key: list[list[str]] | None = None


class _Catalog(_Loose):
    streams: list[_Stream]


class _Spec(_Loose):
    connection_specification: dict[str, Any] = Field(alias="connectionSpecification")


_CHECKED: dict[str, tuple[str, type[_Loose]]] = {
    "STATE": ("state", _State),
    "TRACE": ("trace", _Trace),
    "LOG": ("log", _Log),
    "CATALOG": ("catalog", _Catalog),
    "SPEC": ("spec", _Spec),
}


class Decoder:
    """Lines to messages. What is strict JSON goes through orjson.

    The rest as Python's own writer may have made it: NaN and Infinity, which become text, halves of surrogate
    pairs, anything nested deeply.
    """

    def __init__(self) -> None:
        self._loosely = json.JSONDecoder(parse_constant=lambda name: name).decode
        self.is_clean = True  # was the last line strict JSON?

    def __call__(self, line: bytes) -> Message | None:
        """None for what is no message: some connectors and their libraries print as they like.

        Raises ValueError, saying what is wrong, for one that is broken.
        """
        try:
            message = orjson.loads(line)
            self.is_clean = True
        except ValueError:
            self.is_clean = False
            try:
                message = self._loosely(line.decode())
            except (ValueError, RecursionError) as error:
                if b'"RECORD"' in line or b'"STATE"' in line:
                    raise ValueError(f"a message that is not JSON: {error}") from error
                return None
        if type(message) is not dict or type(message.get("type")) is not str:
            return None
        _check(message)
        return message


def complaint(message: Message) -> tuple[str | None, str] | None:
    """Of a TRACE that is an error: whose, where it says so, and its words."""
    error = message["trace"].get("error") if message["type"] == "TRACE" else None
    if message["type"] != "TRACE" or message["trace"]["type"] != "ERROR" or error is None:
        return None
    words = dict.fromkeys(word for word in (error.get("message"), error.get("internal_message")) if word)
    descriptor = error.get("stream_descriptor") or {}
    return descriptor.get("name"), ": ".join(words) or "an error without a message"


def _check(message: Message) -> None:
    if message["type"] == "RECORD":
        record = message.get("record")
        if type(record) is not dict or type(record.get("stream")) is not str:
            raise ValueError("a record without a stream")
        if type(record.get("data")) is not dict:
            raise ValueError(f"a record of {record['stream']} whose data are no object")
        emitted_at = record.get("emitted_at")
        if type(emitted_at) is not int and not (type(emitted_at) is float and math.isfinite(emitted_at)):
            raise ValueError(f"a record of {record['stream']} without emitted_at")
    elif message["type"] in _CHECKED:
        key, model = _CHECKED[message["type"]]
        try:
            model.model_validate(message.get(key))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([key, *map(str, first["loc"])])
            raise ValueError(f"a {message['type']} message whose {where} is wrong: {first['msg']}") from None
