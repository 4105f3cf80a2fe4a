"""`lakeward airbyte`: the fake server (tests/fakes/airbyte_server.py) is made to match the repository."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from lakeward.airbyte import client, jobs
from lakeward.errors import AirbyteError
from lakeward.settings import load_settings
from tests.fakes.airbyte_server import Discovered, FakeAirbyte
from tests.scratch import ScratchLake, launcher

SOURCE = """
connector: airbyte-source-shopify==4.3.0
schedule: 15 * * * *
config:
  shop: acme
  start_date: 2026-11-01
  credentials: {auth_method: api_password, api_password: "${SHOPIFY_PASSWORD}"}
"""
KLAVIYO = "connector: airbyte-source-klaviyo==2.13.1\nconfig: {api_key: '${KEY}'}"
ORDERS, CUSTOMERS = Discovered("orders"), Discovered("customers")


class Server:
    """A lake, and the fake server that its settings name."""

    def __init__(self, lake: ScratchLake, fake: FakeAirbyte) -> None:
        self.lake = lake
        self.fake = fake
        self.environment = {
            "LAKEWARD_AIRBYTE_URL": fake.url,
            "LAKEWARD_AIRBYTE_CLIENT_ID": fake.client_id,
            "LAKEWARD_AIRBYTE_CLIENT_SECRET": fake.client_secret,
            "LAKEWARD_LANDING_URL": "s3://acme-landing/lake",
            "AWS_ACCESS_KEY_ID": "landing-key",
            "AWS_SECRET_ACCESS_KEY": "landing-secret",
            "SHOPIFY_PASSWORD": "shop-secret",
        }
        lake.write("sources/shopify.yml", SOURCE)
        lake.write("dag/streams/shopify/orders.json", "{}")
        fake.catalogs["shopify"] = [ORDERS, CUSTOMERS, Discovered("products")]

    def run(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.environment, **changed}
        running = launcher().start("lakeward", "airbyte", *arguments, cwd=self.lake.root, env=env)
        return running.wait()

    def apply(self, *arguments: str) -> str:
        """Until there is nothing left to do: that is, once."""
        done = self.run("apply", *arguments)
        assert done.returncode == 0, done.stderr
        again = self.run("plan", "--detailed-exitcode", *arguments)
        assert (again.returncode, again.stderr) == (0, ""), again.stdout
        assert "nothing to change" in again.stdout
        return done.stdout

    def changes(self) -> list[str]:
        """Requests that would have changed something."""
        return [
            f"{each.method} {each.path.rpartition('/')[0] or each.path}"
            for each in self.fake.requests
            if each.method != "GET" and not each.path.startswith("/applications")
        ]

    @property
    def connection(self) -> dict[str, Any]:
        (found,) = self.fake.connections.values()
        return self.fake.connections.view(found)

    @property
    def modes(self) -> dict[str, str]:
        return self.fake.modes(self.connection["connectionId"])


@pytest.fixture
def server(lake: ScratchLake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with FakeAirbyte() as fake:
        yield Server(lake, fake)


def test_a_plan_is_read_at_a_glance_and_changes_nothing(server: Server) -> None:
    seen = server.run("plan")
    assert seen.returncode == 0
    assert [line for line in seen.stdout.splitlines() if not line.startswith(" ")] == [
        "+ destination lakeward",
        "+ source shopify",
        "+ connection shopify to lakeward",
        "plan: 3 to create, 0 to change, 0 to delete",
    ]
    assert "stream orders: as the source offers it" in seen.stdout
    assert server.run("plan", "--detailed-exitcode").returncode == 2
    assert server.changes() == []
    told = json.loads(server.run("plan", "--json").stdout)
    assert [(each["sign"], each["kind"]) for each in told["changes"]] == [
        ("+", "destination"), ("+", "source"), ("+", "connection"),
    ]  # fmt: skip


def test_applied_once_there_is_nothing_to_do(server: Server) -> None:
    server.apply()
    assert server.changes() == ["POST /destinations", "POST /sources", "POST /connections"]
    assert server.modes == {"orders": "incremental_append"}
    assert server.connection["namespaceFormat"] == "shopify"
    assert server.connection["schedule"]["cronExpression"] == "0 15 * * * ? UTC"
    (destination,) = server.fake.destinations.values()
    kept = destination["configuration"]
    assert (kept["s3_bucket_name"], kept["s3_bucket_path"]) == ("acme-landing", "lake/raw")
    assert kept["s3_path_format"] == "${NAMESPACE}/${STREAM_NAME}/year=${YEAR}/month=${MONTH}/day=${DAY}/"
    assert {"{sync_id}", "{part_number}"} <= {
        f"{{{part.split('}')[0]}}}" for part in kept["file_name_pattern"].split("{")
    }
    assert kept["secret_access_key"] == "landing-secret"


def test_the_server_lands_with_an_account_of_its_own_where_there_is_one(server: Server) -> None:
    server.environment |= {
        "LAKEWARD_AIRBYTE_S3_ACCESS_KEY_ID": "their-key",
        "LAKEWARD_AIRBYTE_S3_SECRET_ACCESS_KEY": "their-secret",
    }
    told = server.apply()
    assert "their-secret" not in told
    assert "landing-secret" not in told
    (destination,) = server.fake.destinations.values()
    kept = destination["configuration"]
    assert (kept["access_key_id"], kept["secret_access_key"]) == ("their-key", "their-secret")


def test_streams_come_and_go_with_their_files_and_others_stay(server: Server) -> None:
    server.apply()
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    assert "stream + customers: incremental_append" in server.apply()
    assert server.modes == {"orders": "incremental_append", "customers": "incremental_append"}
    (server.lake.project_dir / "dag/streams/shopify/orders.json").unlink()
    assert "stream - orders" in server.apply()
    assert server.modes == {"customers": "incremental_append"}


def test_the_last_stream_cannot_be_taken_out_so_the_connection_rests(server: Server) -> None:
    server.apply()
    server.lake.write("dag/streams/shopify/orders.json", '{"selected": false}')
    assert "status: active -> inactive" in server.apply()
    assert server.connection["status"] == "inactive"
    server.lake.write("dag/streams/shopify/orders.json", "{}")
    server.apply()
    assert server.connection["status"] == "active"
    assert server.modes == {"orders": "incremental_append"}


def test_a_source_without_streams_is_never_connected_to_all_of_them(server: Server) -> None:
    (server.lake.project_dir / "dag/streams/shopify/orders.json").unlink()
    server.lake.write("sources/klaviyo.yml", KLAVIYO)
    server.environment["KEY"] = "klaviyo-secret"
    for stream in ("events", "ghosts"):
        server.lake.write(f"dag/streams/klaviyo/{stream}.json", "{}")
    server.fake.catalogs["klaviyo"] = [Discovered("events")]
    failed = server.run("apply")
    assert failed.returncode == 1
    assert "shopify has no streams to connect" in failed.stderr
    assert "ghosts.json: the source has no stream ghosts" in failed.stderr
    assert server.connection["name"] == "klaviyo to lakeward"
    assert server.modes == {"events": "incremental_append"}


def test_what_the_stream_file_says_reaches_the_connection(server: Server) -> None:
    server.fake.catalogs["shopify"] = [
        Discovered("orders", fields=("id", "moment", "note"), cursor=("id",), cursor_is_fixed=False, key=()),
        Discovered("customers", modes=("full_refresh",)),
    ]
    stream = {
        "cursor_field": ["moment"],
        "primary_key": [["id"]],
        "fields": {"id": "integer", "moment": "string"},
    }
    server.lake.write("dag/streams/shopify/orders.json", json.dumps(stream))
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    server.run("apply")
    orders = next(each for each in server.connection["configurations"]["streams"] if each["name"] == "orders")
    assert (orders["cursorField"], orders["primaryKey"]) == (["moment"], [["id"]])
    assert {each["fieldPath"][0] for each in orders["selectedFields"]} == {"id", "moment"}
    assert server.modes["customers"] == "full_refresh_append"
    assert "shopify/customers: the source cannot read it incremental" in server.run("plan").stdout
    assert server.run("plan", "--detailed-exitcode").returncode == 0

    server.lake.write("dag/streams/shopify/orders.json", json.dumps(stream | {"primary_key": [["note"]]}))
    assert "stream ~ orders: primaryKey: id -> note" in server.apply()
    server.lake.write("dag/streams/shopify/orders.json", '{"cursor_field": ["moment"]}')
    assert "stream ~ orders: fields: id, moment -> all" in server.apply()


def test_a_stream_that_was_not_there_at_the_last_discovery_is_looked_for_again(server: Server) -> None:
    server.apply()
    server.fake.catalogs["shopify"].append(Discovered("order_refunds"))
    server.lake.write("dag/streams/shopify/order_refunds.json", "{}")
    server.apply()
    assert set(server.modes) == {"orders", "order_refunds"}


def test_a_stream_the_source_does_not_have_stops_itself_only(server: Server) -> None:
    server.apply()
    server.lake.write("dag/streams/shopify/ghosts.json", "{}")
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    told = server.run("apply")
    assert told.returncode == 1
    assert (
        "ghosts.json: the source has no stream ghosts\n  it has: customers, orders, products" in told.stderr
    )
    assert set(server.modes) == {"orders", "customers"}


def test_a_rotated_secret_is_noticed_and_never_shown(server: Server) -> None:
    server.apply()
    server.environment["SHOPIFY_PASSWORD"] = "shop-secret-2"
    seen = server.run("plan")
    assert "~ source shopify\n    config: a secret, or a key that was taken out" in seen.stdout
    server.apply()
    (source,) = server.fake.sources.values()
    assert source["configuration"]["credentials"]["api_password"] == "shop-secret-2"
    said = "".join(server.run(*arguments).stdout for arguments in (["plan"], ["plan", "--json"]))
    said += seen.stdout + seen.stderr + str(server.lake.query("from meta.airbyte_log"))
    for secret in ("shop-secret", "landing-secret", server.fake.client_secret):
        assert secret not in said


def test_a_changed_value_is_shown_and_a_key_taken_out_goes(server: Server) -> None:
    server.apply()
    server.lake.write(
        "sources/shopify.yml", SOURCE.replace("2026-11-01", "2026-10-01").replace("15 *", "20 *")
    )
    told = server.apply()
    assert 'config.start_date: "2026-11-01" -> "2026-10-01"' in told
    assert "schedule: 0 15 * * * ? -> 0 20 * * * ?" in told
    server.lake.write("sources/shopify.yml", SOURCE.replace("  start_date: 2026-11-01\n", ""))
    server.apply()
    (source,) = server.fake.sources.values()
    assert "start_date" not in source["configuration"]


def test_what_others_made_is_adopted_by_name_and_otherwise_left_alone(server: Server) -> None:
    fake = server.fake
    fake.catalogs["other"] = [ORDERS]
    made = {
        name: fake.sources.create(
            {"name": name, "workspaceId": fake.workspace_id,
             "configuration": {"sourceType": "shopify", "shop": "acme"}}
        )["sourceId"]
        for name in ("shopify", "other")
    }  # fmt: skip
    before = dict(fake.sources[made["other"]])
    server.apply()
    assert len(fake.sources) == 2
    assert fake.sources[made["other"]] == before
    assert server.connection["sourceId"] == made["shopify"]

    mapper = [{"type": "hashing", "mapperConfiguration": {}}]
    (record,) = fake.connections.values()
    record["_streams"][0]["mappers"] = mapper
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    server.apply()
    orders = next(each for each in server.connection["configurations"]["streams"] if each["name"] == "orders")
    assert orders["mappers"] == mapper


def test_a_name_that_is_there_twice_is_refused(server: Server) -> None:
    for _ in range(2):
        server.fake.sources.create(
            {"name": "shopify", "workspaceId": server.fake.workspace_id,
             "configuration": {"sourceType": "shopify", "shop": "acme"}}
        )  # fmt: skip
    told = server.run("apply")
    assert told.returncode == 2
    assert "Airbyte has 2 sources called shopify" in told.stderr
    assert server.changes() == []


def test_a_source_of_another_connector_is_not_made_over(server: Server) -> None:
    server.fake.sources.create(
        {"name": "shopify", "workspaceId": server.fake.workspace_id, "configuration": {"sourceType": "faker"}}
    )
    told = server.run("apply")
    assert told.returncode == 1
    assert "source shopify is a faker, not shopify" in told.stderr
    (source,) = server.fake.sources.values()
    assert source["configuration"] == {}


def test_nothing_is_deleted_but_what_lakeward_made_and_was_told_to(server: Server) -> None:
    server.lake.write(
        "sources/klaviyo.yml", "connector: airbyte-source-klaviyo==2.13.1\nconfig: {api_key: '${KEY}'}"
    )
    server.lake.write("dag/streams/klaviyo/events.json", "{}")
    server.fake.catalogs["klaviyo"] = [Discovered("events")]
    server.environment["KEY"] = "klaviyo-secret"
    server.apply()
    server.lake.write("sources/klaviyo.yml", "connector: [broken")
    assert "--prune" not in server.run("plan").stdout
    assert "delete" not in server.run("plan", "--prune").stdout.replace("0 to delete", "")

    (server.lake.project_dir / "sources/klaviyo.yml").unlink()
    kept = server.run("apply")
    assert "klaviyo to lakeward is no longer in the repository" in kept.stdout
    assert {each["status"] for each in server.fake.connections.values()} == {"active"}
    assert "- connection klaviyo to lakeward" in server.apply("--prune")
    status = {each["name"]: each["status"] for each in server.fake.connections.values()}
    assert status == {"shopify to lakeward": "active", "klaviyo to lakeward": "deprecated"}


def test_a_second_connection_of_the_same_data_is_told(server: Server) -> None:
    server.apply()
    made = server.connection
    server.fake.connections.create(
        {"name": "by hand", "sourceId": made["sourceId"], "destinationId": made["destinationId"]}
    )
    assert "by hand also brings shopify to lakeward" in server.run("plan").stdout


def test_it_stops_at_the_first_error_and_says_what_was_done(server: Server) -> None:
    server.fake.fail_next(422, on="POST /sources", body={"status": 422, "data": {"message": "no such shop"}})
    failed = server.run("apply")
    assert failed.returncode == 1
    assert "+ source shopify: Airbyte answered 422 to POST /sources: no such shop" in failed.stderr
    assert (
        "1 of 3 changes were made; not made: + source shopify, + connection shopify to lakeward"
        in failed.stderr
    )
    server.apply()


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_asked_again(server: Server, status: int) -> None:
    server.fake.fail_next(status, 2)
    server.fake.fail_next(status, on="POST /sources")
    server.apply()
    assert len(server.fake.sources) == 1


def test_an_answer_that_was_lost_makes_nothing_twice(server: Server) -> None:
    server.fake.drop_next(on="GET /sources")
    server.fake.drop_next(performed=True, on="POST /sources")
    lost = server.run("apply")
    assert lost.returncode == 1
    assert "whether it was done is not known: lakeward airbyte plan tells" in lost.stderr
    server.apply()
    assert (len(server.fake.sources), len(server.fake.destinations)) == (1, 1)


def test_a_token_that_has_run_out_is_fetched_again(server: Server) -> None:
    server.fake.token_seconds = 0.2
    server.apply()


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"LAKEWARD_AIRBYTE_CLIENT_SECRET": "wrong"}, 1, "refused airbyte_client_id"),
        ({"LAKEWARD_AIRBYTE_URL": "http://127.0.0.1:9"}, 1, "no answer from http://127.0.0.1:9"),
        ({"LAKEWARD_LANDING_URL": "landing"}, 2, "set landing_url to s3://bucket/prefix"),
        ({"SHOPIFY_PASSWORD": ""}, 1, "${SHOPIFY_PASSWORD}, which is not set"),
    ],
)
def test_a_setting_that_is_wrong_is_named(
    server: Server, changed: dict[str, str], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server.lake.root / "landing").mkdir()
    told = server.run("plan", **changed)
    assert (told.returncode, "Traceback" in told.stderr) == (code, False)
    assert said in told.stderr


@pytest.mark.parametrize("status", [401, 403, 404, 409, 500])
def test_the_servers_own_words_are_told(server: Server, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_SECONDS", 0)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.fake.fail_next(status, 8, body={"data": {"message": "as the server says", "connectionId": "c-1"}})
    with (
        client.open_airbyte(load_settings(server.lake.project_dir)) as airbyte,
        pytest.raises(AirbyteError, match=rf"{status} .*as the server says \(connectionId: c-1\)"),
    ):
        airbyte.all("sources")


def test_two_workspaces_are_one_too_many(server: Server) -> None:
    server.fake.add_workspace("another")
    told = server.run("plan")
    assert told.returncode == 2
    assert "set airbyte_workspace_id" in told.stderr
    assert server.run("plan", LAKEWARD_AIRBYTE_WORKSPACE_ID=server.fake.workspace_id).returncode == 0


def test_more_than_a_page_of_sources_is_read_to_the_end(server: Server) -> None:
    for number in range(120):
        server.fake.sources.create(
            {
                "name": f"s{number}",
                "workspaceId": server.fake.workspace_id,
                "configuration": {"sourceType": "faker"},
            }
        )
    server.apply()
    assert "+ source shopify" not in server.run("plan").stdout


def test_a_user_name_and_a_password_will_do(server: Server) -> None:
    del server.environment["LAKEWARD_AIRBYTE_CLIENT_ID"]
    server.environment["LAKEWARD_AIRBYTE_USERNAME"] = server.fake.username
    server.environment["LAKEWARD_AIRBYTE_PASSWORD"] = server.fake.password
    server.apply()


def test_a_sync_is_followed_to_its_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.apply()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jobs, "_LOOK_SECONDS", 0)
    with client.open_airbyte(load_settings(server.lake.project_dir)) as airbyte:
        seen: list[str] = []
        job = jobs.sync(server.connection, airbyte, lambda told: seen.append(told["status"]))
        assert (seen, job["rowsSynced"]) == (["pending", "running", "succeeded"], 100)

        server.fake.jobs.create({"connectionId": server.connection["connectionId"], "jobType": "sync"})
        jobs.sync(server.connection, airbyte, lambda _: None)  # the one that was running
        assert len(server.fake.jobs) == 2

        server.fake.next_job("running", "failed")
        with pytest.raises(AirbyteError, match="job 3 of shopify to lakeward failed"):
            jobs.sync(server.connection, airbyte, lambda _: None)


def test_what_the_server_says_it_sent_is_compared_with_what_landed(server: Server) -> None:
    server.apply()
    lake, today = server.lake, datetime.now(UTC)
    local = {"LAKEWARD_LANDING_URL": str(lake.landing)}

    def job_lands(number: int, rows: int, sent: int | None = 100) -> subprocess.CompletedProcess[str]:
        folder = lake.landing / f"raw/shopify/orders/year={today:%Y}/month={today:%m}/day={today:%d}"
        folder.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as con:
            con.execute(f"copy (select 1 as id from range({rows})) to '{folder}/{number}_1_part_0.parquet'")
        server.fake.next_job("succeeded", rows=sent)
        return server.run("sync", "shopify", **local)

    assert job_lands(1, 100).returncode == 0
    short = job_lands(2, 99)
    assert short.returncode == 1
    assert "shopify: the server says it sent 100 records; 99 landed" in short.stderr
    server.fake.next_job("succeeded", rows=100)
    assert json.loads(server.run("sync", "shopify", "--json", **local).stdout)["rowsLanded"] is None
    untold = job_lands(4, 100, sent=None)
    assert (untold.returncode, untold.stderr) == (0, "")


def streams_stay(server: Server, said: str) -> None:
    """Nothing is taken out of the connection, and everybody is told why."""
    before = server.modes
    told = server.run("apply")
    assert told.returncode == 1
    assert said in told.stderr
    assert "the streams of shopify to lakeward stay as they are until that is mended" in told.stdout
    assert (server.modes, server.connection["status"]) == (before, "active")


def test_a_stream_file_with_a_mistake_takes_nothing_out(server: Server) -> None:
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    server.apply()
    for text, said in (
        ("{", "customers.json: not JSON"),
        ('{"fields": {"colour": "string"}}', '"fields" has colour, which the source does not'),
    ):
        server.lake.write("dag/streams/shopify/customers.json", text)
        streams_stay(server, said)


def test_a_stream_that_discovery_misses_is_not_taken_out(server: Server) -> None:
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    server.apply()
    server.fake.catalogs["shopify"] = [ORDERS]
    (source,) = server.fake.sources.values()
    server.fake.discover(source, ignore_cache=True)
    streams_stay(server, "customers.json: the source has no stream customers")
    server.fake.catalogs["shopify"] = []
    server.fake.discover(source, ignore_cache=True)
    streams_stay(server, "orders.json: the source has no stream orders\n  it has: none")


def test_what_was_renamed_on_the_server_is_still_known(server: Server) -> None:
    server.apply()
    (source,) = server.fake.sources.values()
    (connection,) = server.fake.connections.values()
    source["name"], connection["name"] = "shopify EU", "by somebody"
    server.fake.catalogs["shopify EU"] = server.fake.catalogs["shopify"]
    told = server.apply()
    assert "name: shopify EU -> shopify" in told
    assert "name: by somebody -> shopify to lakeward" in told
    connection["name"] = "by somebody again"
    server.fake.next_job("succeeded")
    assert server.run("sync", "shopify", LAKEWARD_LANDING_URL=str(server.lake.landing)).returncode == 0
    assert (len(server.fake.sources), len(server.fake.connections)) == (1, 1)


def test_a_connection_between_others_is_not_made_over(server: Server) -> None:
    server.apply()
    other = server.fake.sources.create(
        {"name": "other", "workspaceId": server.fake.workspace_id,
         "configuration": {"sourceType": "shopify", "shop": "acme"}}
    )  # fmt: skip
    (connection,) = server.fake.connections.values()
    connection["sourceId"] = other["sourceId"]
    told = server.run("apply")
    assert told.returncode == 1
    assert "does not go from the source shopify to the destination lakeward" in told.stderr
    assert connection["sourceId"] == other["sourceId"]


def test_what_somebody_else_made_is_never_deleted(server: Server) -> None:
    fake = server.fake
    fake.catalogs["shopify"] = [ORDERS]
    source = fake.sources.create(
        {"name": "shopify", "workspaceId": fake.workspace_id,
         "configuration": {"sourceType": "shopify", "shop": "acme"}}
    )  # fmt: skip
    landing = {"s3_bucket_name": "b", "s3_bucket_path": "p", "s3_bucket_region": "r", "format": {}}
    destination = fake.destinations.create(
        {"name": "lakeward", "workspaceId": fake.workspace_id,
         "configuration": {"destinationType": "s3"} | landing}
    )  # fmt: skip
    ends = {"sourceId": source["sourceId"], "destinationId": destination["destinationId"]}
    fake.connections.create({"name": "shopify to lakeward"} | ends)
    server.apply()
    (server.lake.project_dir / "sources/shopify.yml").unlink()
    server.lake.write("sources/klaviyo.yml", KLAVIYO)
    server.lake.write("dag/streams/klaviyo/events.json", "{}")
    fake.catalogs["klaviyo"] = [Discovered("events")]
    server.environment["KEY"] = "klaviyo-secret"
    told = server.run("plan", "--prune").stdout
    assert "lakeward did not make it, so it stays" in told
    assert "0 to delete" in told


def test_a_source_without_its_destination_is_planned_as_it_is_applied(server: Server) -> None:
    server.fake.sources.create(
        {"name": "shopify", "workspaceId": server.fake.workspace_id,
         "configuration": {"sourceType": "shopify", "shop": "acme"}}
    )  # fmt: skip
    server.fake.catalogs["shopify"] = [Discovered("orders", modes=("full_refresh",))]
    assert "stream orders: as the source offers it" in server.run("plan").stdout
    server.apply()
    assert server.modes == {"orders": "full_refresh_append"}


def test_a_secret_of_any_form_stays_out_of_a_plan(server: Server) -> None:
    server.environment["SHOPIFY_PASSWORD"] = "-----BEGIN KEY-----\nMIIEabc\n-----END KEY-----"
    server.fake.fail_next(422, on="POST /sources", body={"data": {"message": "no: MIIEabc, said the shop"}})
    said = [server.run(*arguments) for arguments in (["plan"], ["plan", "--json"], ["apply"])]
    assert "MIIEabc" not in "".join(each.stdout + each.stderr for each in said)
    server.apply()
    server.lake.write("sources/shopify.yml", SOURCE.replace("shop: acme", "shop: ${PIN}"))
    server.environment["PIN"] = "pin"
    assert 'config.shop: ... -> "${PIN}"' in server.run("plan").stdout


def test_a_key_that_the_source_defines_is_not_sent(server: Server) -> None:
    server.fake.refuses_any_key = True
    server.lake.write(
        "dag/streams/shopify/orders.json", '{"primary_key": [["id"]], "cursor_field": ["created_at"]}'
    )
    server.apply()
    (orders,) = server.connection["configurations"]["streams"]
    assert (orders["primaryKey"], orders["cursorField"]) == ([["id"]], ["updated_at"])


def test_a_connection_that_is_locked_is_said_so(server: Server) -> None:
    server.apply()
    (connection,) = server.fake.connections.values()
    connection["status"] = "locked"
    server.lake.write("dag/streams/shopify/customers.json", "{}")
    failed = server.run("apply")
    assert failed.returncode == 1
    assert "409 to PATCH" in failed.stderr
    assert f"connectionId: {server.connection['connectionId']}" in failed.stderr


def test_a_server_that_never_answers_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(client, "_SECONDS", 0.2)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.fake.hang_next(10)
    with (
        client.open_airbyte(load_settings(server.lake.project_dir)) as airbyte,
        pytest.raises(AirbyteError, match=r"no answer from .*timed out\n.*nothing was changed"),
    ):
        airbyte.all("sources")
