"""Syncs without a server: what a connector sends lands once, whatever it or we do half-way.

The connector is one of ours (tests/fakes/source_counting.py); tests/e2e has real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import duckdb
import pytest

from lakeward.errors import WriterConflict
from lakeward.lake import open_lake
from lakeward.masking import Mask
from lakeward.protocol import Decoder
from lakeward.synclog import Part, SyncLog
from tests.fakes import source_counting
from tests.scratch import APPEND, ScratchLake, launcher

CONNECTOR = Path(source_counting.__file__)
LOG = APPEND.replace("id as item_id,", "id as item_id, _airbyte_meta.changes as changes,")
LOG = "\n".join(line for line in LOG.splitlines() if "attributes" not in line)


class Shop:
    """A lake with one source, `shop`, of the streams items and notes; models without a key."""

    def __init__(self, lake: ScratchLake) -> None:
        self.lake = lake
        self.source: dict[str, Any] = {}
        for stream in ("items", "notes"):
            lake.add_stream(f"shop/{stream}", model=LOG)
        self.says(streams={"items": 25, "notes": 5})

    def says(self, **config: Any) -> None:
        """From now on the connector is configured with these too; None takes one away."""
        self.source = {key: value for key, value in (self.source | config).items() if value is not None}
        text = json.dumps({"connector": str(CONNECTOR), "config": self.source})
        self.lake.write("sources/shop.yml", text)

    def sync(
        self, *arguments: str, env: dict[str, str] | None = None, **hook: Any
    ) -> subprocess.CompletedProcess[str]:
        return (
            launcher()
            .start(
                "lakeward", "sync", *(arguments or ("shop",)),
                cwd=self.lake.root, env={**os.environ, **(env or {})}, **hook,
            )
            .wait()
        )  # fmt: skip

    def landed(self, stream: str = "items") -> list[int]:
        """The ids in the landed files, as often as they are there."""
        files = [str(path) for path in (self.lake.landing / "raw" / "shop" / stream).rglob("*.parquet")]
        if not files:
            return []
        with duckdb.connect() as con:
            return [
                n for (n,) in con.execute("select id from read_parquet(?) order by id", [files]).fetchall()
            ]

    def has_fallen_silent(self) -> bool:
        """Has a connector that hangs said all that it will, and was it heard?"""
        log = self.lake.root / ".lake" / "logs" / "sync-shop.log"
        if not log.exists() or "silent from here on" not in log.read_text():
            return False
        time.sleep(1)
        return True

    def said(self) -> str:
        """What the connector said."""
        return (self.lake.root / ".lake" / "logs" / "sync-shop.log").read_text()


@pytest.fixture
def shop(lake: ScratchLake) -> Shop:
    return Shop(lake)


def test_a_sync_lands_what_is_new_and_goes_on_from_there(shop: Shop) -> None:
    first = shop.sync()
    assert first.returncode == 0, first.stderr
    assert "landed 2 files, 30 records" in first.stdout
    assert "nothing new in 2 streams" in shop.sync().stdout

    shop.says(streams={"items": 40, "notes": 5})
    assert "landed 1 file, 15 records" in shop.sync("shop/items").stdout
    assert shop.landed("items") == list(range(40))
    assert shop.landed("notes") == list(range(5))

    shop.lake.feed()
    assert shop.lake.query("select item_id from int_shop__items order by all") == [(n,) for n in range(40)]


def test_the_report_can_be_read_by_a_script(shop: Shop) -> None:
    report = json.loads(shop.sync("--json").stdout)
    (source,) = report["sources"]
    items = source["streams"][0]
    assert (items["stream"], items["mode"]) == ("shop/items", "incremental")
    assert (items["records"], items["sent"], items["files"], items["error"]) == (25, 25, 1, None)


@pytest.mark.parametrize("how", ["exit", "trace"])
def test_a_connector_that_fails_half_way_keeps_what_its_states_speak_of(shop: Shop, how: str) -> None:
    shop.says(die_at=17, die_by=how, token="${SHOP_TOKEN}")
    failed = shop.sync(env={"SHOP_TOKEN": "tok-very-secret"})
    assert failed.returncode == 1
    assert "shop/items: " in failed.stderr
    assert "tok-very-secret" not in failed.stderr + str(shop.lake.query("from meta.sync_log"))
    assert {"exit": "exit code 3", "trace": "no access with ****"}[how] in failed.stderr
    assert shop.landed() == list(range(10))

    shop.says(die_at=None)
    assert shop.sync(env={"SHOP_TOKEN": "tok-very-secret"}).returncode == 0
    assert shop.landed() == list(range(25))
    assert shop.landed("notes") == list(range(5))


def test_a_stream_that_was_complete_lands_though_another_fails(shop: Shop) -> None:
    shop.says(streams={"items": 5, "notes": 25}, die_at=17)
    assert shop.sync().returncode == 1
    assert shop.landed("items") == list(range(5))
    assert shop.landed("notes") == list(range(10))


def test_one_state_for_all_streams_lands_all_or_what_it_speaks_of(shop: Shop) -> None:
    shop.says(scope="GLOBAL", die_at=17)
    assert shop.sync().returncode == 1
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(10)), [])
    shop.says(die_at=None)
    assert shop.sync().returncode == 0
    shop.says(streams={"items": 30, "notes": 6})
    assert shop.sync().returncode == 0
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(30)), list(range(6)))


def test_a_source_that_cannot_go_on_is_landed_whole_each_time_or_not_at_all(shop: Shop) -> None:
    shop.says(modes=["full_refresh"], die_at=17)
    failed = shop.sync("shop/items")
    assert failed.returncode == 1
    assert "all of it is read and landed each time" in failed.stderr
    assert shop.landed() == []
    shop.says(die_at=None)
    for times in (1, 2):
        assert shop.sync("shop/items").returncode == 0
        assert shop.landed() == sorted([*range(25)] * times)


def test_a_connector_that_says_nothing_any_more_is_stopped(shop: Shop) -> None:
    shop.says(die_at=17, die_by="silence")
    failed = shop.sync("shop/items", env={"LAKEWARD_SYNC_SILENCE_MINUTES": "0.03"})
    assert failed.returncode == 1
    assert "it said nothing for 1.8 s" in failed.stderr
    assert shop.landed() == list(range(10))


def test_what_is_no_message_goes_to_the_log_and_a_broken_record_fails_the_sync(shop: Shop) -> None:
    shop.says(say=["hello", '{"half": ', '{"type": "FROM_TOMORROW"}', '["list"]'], noise="to stderr")
    assert shop.sync().returncode == 0
    assert "hello\n" in shop.said()
    assert "to stderr\n" in shop.said()

    shop.says(streams={"items": 30, "notes": 5}, say=['{"type": "RECORD", "record": {"stream": "it'])
    failed = shop.sync()
    assert failed.returncode == 1
    assert "a message that is not JSON" in failed.stderr
    assert shop.landed() == list(range(25))


def test_records_nobody_asked_for_are_dropped_and_told(shop: Shop) -> None:
    stranger = {"type": "RECORD", "record": {"stream": "other", "data": {"id": 1}, "emitted_at": 1}}
    descriptor = {"stream_descriptor": {"name": "ghosts"}, "stream_state": {}}
    state = {"type": "STATE", "state": {"type": "STREAM", "stream": descriptor}}
    shop.says(say=[json.dumps(stranger), json.dumps(state)])
    told = shop.sync()
    assert told.returncode == 1
    assert "not asked for: 1 records of other, a state of ghosts; that was dropped" in told.stderr
    assert shop.landed() == list(range(25))


def test_values_that_do_not_fit_are_null_and_counted(shop: Shop) -> None:
    shop.says(schema={"word": {"type": "string"}, "count": {"type": "integer"}}, extra={"count": "many"})
    told = shop.sync("shop/items")
    assert told.returncode == 0
    assert "25 values did not fit their type" in told.stderr
    shop.lake.feed("shop/items")
    ((field, change),) = shop.lake.query(
        "select distinct changes[1].field, changes[1].change from int_shop__items"
    )
    assert (field, change) == ("count", "NULLED")


def test_a_connector_that_sent_more_than_arrived_is_told(shop: Shop) -> None:
    state = {
        "type": "STREAM", "sourceStats": {"recordCount": 3.0},
        "stream": {"stream_descriptor": {"name": "items"}, "stream_state": {"next": 0}},
    }  # fmt: skip
    shop.says(say=[json.dumps({"type": "STATE", "state": state})])
    told = shop.sync()
    assert told.returncode == 1
    assert "shop/items: the connector says it sent 28 records; 25 have landed" in told.stderr


def test_a_state_that_is_missing_at_the_end_is_told(shop: Shop) -> None:
    shop.says(state_every=0)
    told = shop.sync("shop/items")
    assert told.returncode == 0
    assert "no state after its last 25 records" in told.stderr
    assert shop.landed() == list(range(25))


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


def test_a_source_that_is_broken_does_not_stop_another(shop: Shop) -> None:
    shop.lake.write("sources/broken.yml", "connector: ./nowhere/source-x")
    shop.lake.add_stream("broken/things", model=LOG)
    both = shop.sync("broken", "shop")
    assert both.returncode == 1
    assert "broken: " in both.stderr
    assert shop.landed() == list(range(25))


def test_a_disk_that_is_full_loses_nothing(shop: Shop) -> None:
    shop.says(streams={"items": 20_000, "notes": 5}, state_every=1000)
    full = shop.sync(before="tests.hooks:limit_file_size", options={"size": 500_000})
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "File too large" in full.stderr
    assert shop.sync().returncode == 0
    assert shop.landed() == list(range(20_000))


def test_whoever_began_before_writes_no_more(shop: Shop) -> None:
    settings = shop.lake.project().settings
    with open_lake(settings) as lake:
        assert lake is not None
        older, newer = SyncLog(lake, "shop", 1), SyncLog(lake, "shop", 2)
        older.begin(["items"])
        newer.begin(["items"])
        with pytest.raises(WriterConflict, match="another sync of shop has begun"):
            older.checkpoint([Part("items", {"type": "STREAM"})])
        newer.checkpoint([Part("items", {"type": "STREAM"})])


def struck_at(shop: Shop, step: int, number: int = signal.SIGKILL) -> bool:
    """Does the sync get as far as that step? It gets a signal there, and ends by it."""
    options = {"step": step, "checkpoint_seconds": 0, "number": number}
    struck = shop.sync(before="tests.hooks:strike_sync_at", options=options)
    assert struck.returncode in {0, {9: -9, 2: 130, 15: 143}[number]}
    assert "Traceback" not in struck.stderr
    return struck.returncode != 0


SLOW = [pytest.mark.slow, pytest.mark.timeout(900)]


# Of the quick ones, three steps of each; all two hundred where slow tests run.
FEW, KILLS = range(9, 40, 13), (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "scope", "steps"),
    [
        (signal.SIGKILL, "STREAM", FEW),
        (signal.SIGINT, "GLOBAL", FEW),
        *(
            pytest.param(kill, scope, range(200), marks=SLOW)
            for kill in KILLS
            for scope in ("STREAM", "GLOBAL")
        ),
    ],
)
def test_killed_at_any_step_it_loses_and_doubles_nothing(
    shop: Shop, number: int, scope: str, steps: range
) -> None:
    shop.says(scope=scope)
    until = 0
    for step in steps:
        until += 25
        shop.says(streams={"items": until, "notes": until // 5})
        was_killed = struck_at(shop, step, number)
        assert shop.sync().returncode == 0
        assert shop.landed("items") == list(range(until)), step
        assert shop.landed("notes") == list(range(until // 5)), step
        if not was_killed:
            break
    assert step > 20
    shop.lake.feed()
    counted = "select count(*), count(distinct item_id) from int_shop__items"
    assert shop.lake.query(counted) == [(until, until)]
    assert not [path for path in (shop.lake.landing / "staging").rglob("*") if path.is_file()]


def test_two_syncs_of_a_source_at_once_are_refused(shop: Shop) -> None:
    shop.says(die_at=17, die_by="silence")
    running = launcher().start("lakeward", "sync", "shop", cwd=shop.lake.root)
    wait_for(shop.has_fallen_silent)
    second = shop.sync()
    running.kill(2)
    assert running.wait().returncode == 130
    assert second.returncode == 2
    assert "being synced by another process" in second.stderr
    assert shop.landed() == list(range(10))


def test_status_compares_what_was_sent_landed_and_loaded(shop: Shop) -> None:
    shop.says(schema={"count": {"type": "integer"}}, extra={"count": "many"})
    shop.sync("shop/items")

    def items() -> dict[str, Any]:
        told = json.loads(shop.lake.cli("status", "--json", check=False).stdout)
        return next(each for each in told["streams"] if each["stream"] == "shop/items")

    before = items()["last_sync"]
    assert (before["sent"], before["landed"], before["applied"]) == (25, 25, None)
    shop.lake.feed("shop/items")
    after = items()
    assert (after["last_sync"]["applied"], after["nulled"], after["red"]) == (25, 25, False)

    shop.says(die_at=27, streams={"items": 30, "notes": 5})
    shop.sync("shop/items")
    assert items()["red"]
    notes = shop.lake.cli("status", check=False).stdout
    assert "shop/items: its last sync failed: source_counting.py read ended with exit code 3" in notes
    assert "shop/items: 25 values did not fit their type" in notes


def test_records_that_landed_and_never_reached_the_ledger_are_told(shop: Shop) -> None:
    shop.sync("shop/items")
    (file,) = (shop.lake.landing / "raw" / "shop" / "items").rglob("*.parquet")
    with duckdb.connect() as con:
        con.execute(f"create table kept as from read_parquet('{file}', hive_partitioning=false) limit 20")
        con.execute(f"copy kept to '{file}' (format parquet)")
    shop.lake.feed("shop/items")
    status = shop.lake.cli("status", check=False)
    assert status.returncode == 1
    assert "its last sync landed 25 records, and the ledger knows of 20" in status.stdout


def test_a_run_syncs_feeds_and_builds(shop: Shop) -> None:
    shop.lake.write(
        "dag/enriched/fct_count.sql",
        "{{ config(tags=['enriched'], materialized='table') }} "
        "select count(*) as items from {{ ref('int_shop__items') }}",
    )
    done = shop.lake.cli("run")
    assert "landed 2 files, 30 records" in done.stdout
    assert shop.lake.query("from fct_count") == [(25,)]

    shop.says(streams={"items": 30, "notes": 5}, die_at=27, state_every=1)
    failed = shop.lake.cli("run", check=False)
    assert failed.returncode == 1
    assert shop.lake.query("from fct_count") == [(27,)]


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


MESSAGES = [
    {"type": "RECORD"}, {"type": "RECORD", "record": None}, {"type": "RECORD", "record": {"data": {}}},
    {"type": "RECORD", "record": {"stream": ["items"], "data": {}, "emitted_at": 1}},
    {"type": "RECORD", "record": {"stream": "items", "emitted_at": 1}},
    {"type": "RECORD", "record": {"stream": "items", "data": [1], "emitted_at": 1}},
    {"type": "RECORD", "record": {"stream": "items", "data": {"id": 1}, "emitted_at": "soon"}},
    {"type": "STATE"}, {"type": "STATE", "state": {"stream": {"stream_descriptor": "items"}}},
    {"type": "STATE", "state": {"sourceStats": {"recordCount": "x"}}},
    {"type": "TRACE"}, {"type": "TRACE", "trace": "text"}, {"type": "LOG", "log": "text"},
    {"type": "STATE", "state": {"sourceStats": {"recordCount": float("nan")}}},
    {"type": "RECORD", "record": {"stream": "items", "data": {}, "emitted_at": float("inf")}},
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=[str(number) for number in range(len(MESSAGES))])
def test_a_message_without_what_it_must_have_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a record|a \w+ message"):
        Decoder()(json.dumps(message).encode() + b"\n")


def test_a_message_that_is_broken_fails_the_sync_and_takes_no_other_down(shop: Shop) -> None:
    other = {"connector": str(CONNECTOR), "config": {"streams": {"things": 3}}}
    shop.lake.write("sources/other.yml", json.dumps(other))
    shop.lake.add_stream("other/things", model=LOG)
    shop.says(say=[json.dumps(MESSAGES[4]), '{"type": "RECORD", "record": ' + '{"a":' * 100_000])
    both = shop.sync("shop", "other")
    assert both.returncode == 1
    assert "shop/items: source_counting.py read: a record of items whose data are no object" in both.stderr
    assert "other/things  3 records landed" in both.stderr


def test_a_stream_that_was_not_read_to_its_end_is_told(shop: Shop) -> None:
    status = {"stream_descriptor": {"name": "notes"}, "status": "INCOMPLETE"}
    trace = {"type": "STREAM_STATUS", "emitted_at": 1.0, "stream_status": status}
    shop.says(say=[json.dumps({"type": "TRACE", "trace": trace})], modes=["full_refresh"])
    told = shop.sync()
    assert told.returncode == 1
    assert "shop/notes: the connector could not read all of it" in told.stderr
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(25)), [])


def test_a_state_of_all_streams_is_not_continued_for_some_of_them(shop: Shop) -> None:
    shop.says(scope="GLOBAL")
    assert shop.sync().returncode == 0
    part = shop.sync("shop/items")
    assert part.returncode == 2
    assert "shop keeps one state for all of its streams: they are synced together, notes too" in part.stderr
    for text in ("{", '{"selected": false}'):  # nor where a file leaves one out
        shop.lake.write("dag/streams/shop/notes.json", text)
        left_out = shop.sync()
        assert left_out.returncode in (1, 2)
        assert "notes too" in left_out.stderr
    shop.lake.write("dag/streams/shop/notes.json", "{}")
    assert shop.sync().returncode == 0
    shop.says(scope="STREAM", streams={"items": 30, "notes": 9})
    changed = shop.sync()
    assert changed.returncode == 1
    assert "it told one state for all streams before, and now one of items alone" in changed.stderr
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(25)), list(range(5)))


def test_a_stream_file_that_is_broken_is_told_and_the_others_are_read(shop: Shop) -> None:
    shop.lake.write("dag/streams/shop/notes.json", "{")
    told = shop.sync()
    assert told.returncode == 1
    assert "notes.json: not JSON" in told.stderr
    assert shop.landed("items") == list(range(25))


def test_what_a_connector_leaves_behind_holds_nobody_up(shop: Shop) -> None:
    shop.says(leave_behind=60)
    done = shop.sync(env={"LAKEWARD_SYNC_SILENCE_MINUTES": "5"})
    assert done.returncode == 0, done.stderr
    assert shop.landed() == list(range(25))


def test_a_sync_that_could_not_even_begin_turns_status_red(shop: Shop) -> None:
    shop.sync()
    shop.lake.feed()
    shop.lake.write("sources/shop.yml", json.dumps({"connector": "./gone"}))
    assert shop.sync().returncode == 2
    status = shop.lake.cli("status", check=False)
    assert status.returncode == 1
    assert "shop/items: its last sync failed: " in status.stdout
    assert "gone: cannot be run" in status.stdout


@pytest.mark.slow
def test_a_staged_file_that_is_lost_is_told_and_a_refresh_gets_past_it(shop: Shop) -> None:
    for step in range(9, 60):
        shop.says(streams={"items": 25 * step, "notes": 5})
        struck_at(shop, step)
        staged = list((shop.lake.landing / "staging").rglob("*.parquet"))
        began = shop.lake.query(
            "select coalesce(max(checkpoint), 0) from meta.sync_log where event = 'checkpoint'"
        )
        done = shop.lake.query(
            "select coalesce(max(checkpoint), 0) from meta.sync_log where event = 'published'"
        )
        if staged and began > done:
            break
    for path in staged:
        path.unlink()
    lost = shop.sync()
    assert lost.returncode == 1
    assert "is neither landed nor staged any more" in lost.stderr
    assert shop.sync("shop", "--refresh").returncode == 0


def test_a_record_that_only_duckdb_refuses_is_written_anew(shop: Shop) -> None:
    twice = (
        '{"type": "RECORD", "record": {"stream": "items", "data": {"id": 1000, "id": 1001}, "emitted_at": 1}}'
    )
    far = {"stream": "items", "data": {"id": 1002}, "emitted_at": 10**17}
    shop.says(say=[twice, json.dumps({"type": "RECORD", "record": far})], state_every=0)
    assert shop.sync("shop/items").returncode == 0
    assert shop.landed() == [*range(25), 1001, 1002]


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


def test_a_stop_that_is_interrupted_still_ends_the_connector(shop: Shop) -> None:
    shop.says(die_at=17, die_by="silence", deaf=True)
    running = launcher().start("lakeward", "sync", "shop", cwd=shop.lake.root)
    wait_for(shop.has_fallen_silent)
    running.kill(signal.SIGINT)
    time.sleep(1)
    running.kill(signal.SIGINT)
    running.wait()
    told = subprocess.run(["pgrep", "-f", f"{CONNECTOR} read .*{shop.lake.root}"], check=False)
    assert told.returncode == 1, "the connector is still there"


def test_a_field_that_parquet_names_otherwise_is_chosen_by_its_column(shop: Shop) -> None:
    shop.says(schema={"flow-actions": {"type": "string"}}, extra={"flow-actions": "a"})
    shop.lake.cli("airbyte", "discover", "shop")
    fields = {"id": "integer", "flow_actions": "string"}
    shop.lake.write("dag/streams/shop/items.json", json.dumps({"fields": fields}))
    assert "0 errors" in shop.lake.cli("check").stdout
    assert shop.sync("shop/items").returncode == 0
    files = [str(path) for path in (shop.lake.landing / "raw/shop/items").rglob("*.parquet")]
    with duckdb.connect() as con:
        assert con.execute("select distinct flow_actions from read_parquet(?)", [files]).fetchall() == [
            ("a",)
        ]


def test_digits_of_a_record_that_is_written_anew_are_kept(shop: Shop) -> None:
    number = 123456789012345678901234
    shop.says(
        schema={"text": {"type": "string"}, "count": {"type": "integer"}},
        extra={"text": number, "count": "many"},
    )
    assert shop.sync("shop/items").returncode == 0
    files = [str(path) for path in (shop.lake.landing / "raw/shop/items").rglob("*.parquet")]
    with duckdb.connect() as con:
        assert con.execute("select distinct text from read_parquet(?)", [files]).fetchall() == [
            (str(number),)
        ]


def test_records_after_the_last_state_of_all_streams_are_told(shop: Shop) -> None:
    shop.says(scope="GLOBAL", state_every=10, streams={"items": 25, "notes": 5}, ends_untold=True)
    told = shop.sync()
    assert told.returncode == 0, told.stderr
    assert "shop/items: the connector told no state after its last 5 records" in told.stderr


def test_what_no_state_speaks_of_does_not_land_when_another_stream_fails(shop: Shop) -> None:
    shop.says(scope="GLOBAL", state_every=20, streams={"items": 5, "notes": 19}, die_at=15, ends_untold=True)
    assert shop.sync().returncode == 1  # items is complete, and the first state of all has not been told
    assert (shop.landed("items"), shop.landed("notes")) == ([], [])
    shop.says(die_at=None, ends_untold=None)
    assert shop.sync().returncode == 0
    assert (shop.landed("items"), shop.landed("notes")) == (list(range(5)), list(range(19)))
