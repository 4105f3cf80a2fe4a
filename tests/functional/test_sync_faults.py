"""Syncs that a connector, the machine or we ourselves break off: nothing is lost, doubled or silent."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import Any

import pytest

from lakeward.errors import WriterConflict
from lakeward.lake import open_lake
from lakeward.protocol import Decoder
from lakeward.synclog import Part, SyncLog
from tests.scratch import launcher
from tests.shop import CONNECTOR, LOG, Shop, struck_at, wait_for


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
