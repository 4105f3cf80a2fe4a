"""What a source file and its stream files ask for, and that a secret in them is shown nowhere."""

from __future__ import annotations

import json
import os
from urllib.parse import quote, quote_plus

import duckdb
import pytest

from lakeward.masking import Mask
from tests.scratch import launcher
from tests.shop import CONNECTOR, LOG, Shop, wait_for


def test_the_stream_file_chooses_fields_and_says_so_when_there_is_none(shop: Shop) -> None:
    shop.says(schema={"word": {"type": "string"}}, extra={"word": "a"})
    shop.lake.write("dag/streams/shop/items.json", json.dumps({"fields": {"id": "integer"}}))
    assert shop.sync("shop/items").returncode == 0
    (file,) = (shop.lake.landing / "raw" / "shop" / "items").rglob("*.parquet")
    with duckdb.connect() as con:
        names = [
            name
            for name, *_ in con.execute(
                f"describe from read_parquet('{file}', hive_partitioning=false)"
            ).fetchall()
        ]
    assert names == [
        "_airbyte_raw_id", "_airbyte_extracted_at", "_airbyte_meta", "_airbyte_generation_id", "id",
    ]  # fmt: skip

    shop.lake.write("dag/streams/shop/items.json", json.dumps({"fields": {"colour": "string"}}))
    wrong = shop.sync("shop/items")
    assert wrong.returncode == 2
    assert "items.json" in wrong.stderr
    assert "colour" in wrong.stderr


def test_a_stream_the_source_does_not_have_is_named(shop: Shop) -> None:
    shop.lake.add_stream("shop/ghosts", model=LOG)
    wrong = shop.sync()
    assert wrong.returncode == 1
    assert "shop/ghosts: " in wrong.stderr
    assert "ghosts.json: the source has no stream ghosts" in wrong.stderr
    assert "it has: items, notes" in wrong.stderr
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(25)), list(range(5)))
    assert shop.sync("shop/ghosts").returncode == 2
    status = shop.lake.cli("status", check=False).stdout
    assert "shop/ghosts: its last sync failed" in status


def test_secrets_come_from_the_environment_and_reach_nothing_but_the_connector(shop: Shop) -> None:
    shop.says(token="typed-secret")
    typed = shop.sync()
    assert typed.returncode == 2
    assert '"config.token" is a secret, typed into the file' in typed.stderr
    assert "typed-secret" not in typed.stderr

    shop.says(token="${SHOP_TOKEN}")
    unset = shop.sync()
    assert unset.returncode == 2
    assert "${SHOP_TOKEN}, which is not set" in unset.stderr

    shop.says(noise="my token is ${SHOP_TOKEN}", show_environment=True)
    kept = {"SHOP_TOKEN": "tok-very-secret", "HTTPS_PROXY": "http://proxy", "AWS_SECRET_ACCESS_KEY": "other"}
    done = shop.sync(env=kept)
    assert done.returncode == 0, done.stderr
    assert "my token is ****" in shop.said()
    given = json.loads(next(line for line in shop.said().splitlines() if line.startswith("{")))
    assert given["HTTPS_PROXY"] == "http://proxy"
    assert given["argv"][1:] in (["spec"], ["discover", "--config", given["argv"][-1]])
    assert not {"SHOP_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(given)
    shop.lake.feed()
    for path in shop.lake.root.rglob("*"):
        if path.is_file():
            assert b"tok-very-secret" not in path.read_bytes(), path
    events = str(shop.lake.query("from meta.sync_log"))
    assert "tok-very-secret" not in events + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("connector: airbyte-source-faker", "airbyte-source-faker==7.2.1"),
        ("connector: ./nowhere/source-x", "cannot be run: No such file or directory"),
        ("connector: [", "not YAML"),
        ("connectr: x", 'did you mean "connector"?'),
        ("just text", "names no connector"),
        (f"connector: {CONNECTOR}\nconfig: {{streams: {{items: many}}}}", "'many' is not of type 'integer'"),
    ],
)
def test_a_source_file_that_is_wrong_is_named_with_the_remedy(shop: Shop, source: str, said: str) -> None:
    shop.lake.write("sources/shop.yml", source)
    wrong = shop.sync()
    assert wrong.returncode == 2, wrong.stderr
    assert said in wrong.stderr


@pytest.mark.parametrize(
    "schedule", ["15 * * *", "60 * * * *", "* * 0 * *", "@daily", "0 6 * * mon", "*/0 * * * *"]
)
def test_a_schedule_that_is_none_is_refused(shop: Shop, schedule: str) -> None:
    text = json.dumps({"connector": str(CONNECTOR), "config": shop.source, "schedule": schedule})
    shop.lake.write("sources/shop.yml", text)
    wrong = shop.sync()
    assert wrong.returncode == 2
    assert "write five fields" in wrong.stderr


def test_what_a_source_offers_is_written_down_and_checked(shop: Shop) -> None:
    shop.says(
        schema={"at": {"type": "string", "format": "date-time"}, "tags": {"type": "array", "items": {}}}
    )
    told = shop.lake.cli("airbyte", "discover", "shop")
    assert "items" in told.stdout
    offers = json.loads((shop.lake.project_dir / "sources" / "shop.streams.json").read_text())
    fields = {"id": "integer", "at": "timestamp_with_timezone", "tags": "array"}
    assert offers["items"] == {
        "incremental": True,
        "cursor_field": ["id"],
        "primary_key": None,
        "fields": fields,
    }
    shop.lake.write("dag/streams/shop/items.json", json.dumps({"fields": fields}))
    assert "0 errors" in shop.lake.cli("check").stdout

    shop.lake.add_stream("shop/ghosts", model=LOG)
    shop.lake.write("dag/streams/shop/items.json", json.dumps({"fields": {"colour": "string"}}))
    shop.lake.write("sources/broken.yml", "connector: [")
    wrong = shop.lake.cli("check", check=False)
    assert wrong.returncode == 2
    for said in (
        "dag/streams/shop/ghosts.json: the source has no stream ghosts; it has: items, notes",
        "dag/streams/shop/items.json: the source has no field colour",
        "not YAML",
    ):
        assert said in wrong.stdout


SECRET = 'p@ss/w"ord+1\nsecond line of it'


@pytest.mark.parametrize(
    "shown",
    [SECRET, json.dumps(SECRET), repr(SECRET), quote(SECRET), quote_plus(SECRET), "second line of it"],
)
def test_no_form_of_a_secret_is_shown(shop: Shop, shown: str) -> None:
    told = Mask([SECRET])(f"before {shown} after")
    assert "ord" not in told
    assert "second line" not in told
    shop.says(token="${SHOP_TOKEN}", noise="${SHOP_TOKEN}", die_at=3, die_by="trace")
    failed = shop.sync(env={"SHOP_TOKEN": SECRET})
    everything = failed.stdout + failed.stderr + shop.said() + str(shop.lake.query("from meta.sync_log"))
    assert 'w"ord' not in everything
    assert "second line" not in everything


def test_a_secret_that_the_connector_refuses_is_named_and_not_shown(shop: Shop) -> None:
    shop.says(streams="${SHOP_STREAMS}")
    told = shop.sync(env={"SHOP_STREAMS": "pin"})
    assert told.returncode == 2
    assert '"config.streams": "${SHOP_STREAMS}" is not of type \'object\'' in told.stderr


def test_a_stream_file_that_is_broken_is_told_and_the_others_are_read(shop: Shop) -> None:
    shop.lake.write("dag/streams/shop/notes.json", "{")
    told = shop.sync()
    assert told.returncode == 1
    assert "notes.json: not JSON" in told.stderr
    assert shop.landed("items") == list(range(25))


def test_a_killed_sync_leaves_its_secrets_nowhere(shop: Shop) -> None:
    shop.says(token="${SHOP_TOKEN}", die_at=17, die_by="silence")
    env = dict(os.environ, SHOP_TOKEN="tok-very-secret")
    running = launcher().start("lakeward", "sync", "shop", cwd=shop.lake.root, env=env)
    folder = shop.lake.root / ".lake" / "sync" / "shop"
    wait_for(lambda: list(folder.glob("*/catalog.json")))
    running.kill()
    running.wait()
    assert list(folder.glob("*/config.json"))
    shop.says(die_at=None)
    assert shop.sync(env={"SHOP_TOKEN": "tok-very-secret"}).returncode == 0
    assert not list(shop.lake.root.rglob("config.json"))
