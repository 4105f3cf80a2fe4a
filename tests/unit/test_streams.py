from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from lakeward.errors import ConfigError
from lakeward.streams import find_stream, load_stream, load_streams


def stream_file(tmp_path: Path, text: str, name: str = "shop/orders") -> Path:
    path = tmp_path / "dag" / "streams" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_an_empty_object_is_a_complete_stream(tmp_path: Path) -> None:
    stream_file(tmp_path, "{}")
    (stream,), errors = load_streams(tmp_path)
    assert not errors
    assert (stream.id, stream.tag, stream.root) == ("shop/orders", "shop__orders", "raw/shop/orders/")
    assert stream.columns is None


def test_fields_become_the_types_that_airbyte_lands(tmp_path: Path) -> None:
    fields = {
        "price": "number",
        "set": {"shop_money": {"amount": "string"}},
        "lines": [{"id": "integer"}],
        "raw": "object",
    }
    columns = load_stream(stream_file(tmp_path, json.dumps({"fields": fields}))).columns
    assert columns is not None
    assert columns["price"] == "DOUBLE"
    assert columns["set"] == 'STRUCT("shop_money" STRUCT("amount" VARCHAR))'
    assert columns["lines"] == 'STRUCT("id" BIGINT)[]'
    assert columns["raw"] == "VARCHAR"
    assert columns["_airbyte_extracted_at"] == "TIMESTAMP WITH TIME ZONE"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"cursor_feild": ["a"]}', 'did you mean "cursor_field"'),
        ('{"sync_mode": "sometimes"}', "sync_mode"),
        ('{"fields": {"id": "int"}}', 'unknown type "int"'),
        ('{"target_lag": "soon"}', "target_lag"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_stream(stream_file(tmp_path, text))
    assert said in str(caught.value)
    assert "orders.json" in str(caught.value)


@pytest.mark.parametrize("name", ["shop/Orders", "shop/or-ders", "shop/a__b", "sh'op/orders", "shop/_a"])
def test_names_that_could_not_be_told_apart_as_tags_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a source or stream"):
        load_stream(stream_file(tmp_path, "{}", name))


def test_target_lag_is_a_duration(tmp_path: Path) -> None:
    stream = load_stream(stream_file(tmp_path, '{"target_lag": "90m"}'))
    assert stream.config.target_lag == timedelta(minutes=90)


def test_an_unknown_stream_lists_the_known(tmp_path: Path) -> None:
    stream_file(tmp_path, "{}")
    with pytest.raises(ConfigError, match="no stream") as caught:
        find_stream(tmp_path, load_streams(tmp_path)[0], "shop/nothing")
    assert "shop/orders" in str(caught.value)
