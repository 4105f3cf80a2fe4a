"""The fake Airbyte is as treacherous as its notes say: one fact a test, told by the rule's number."""

from __future__ import annotations

import base64
import http.client
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.fakes.airbyte_server import Discovered, FakeAirbyte

Json = dict[str, Any]
ORDERS, EVENTS = Discovered("orders"), Discovered("events", key=(), cursor_is_fixed=False, cursor=())
S3 = {
    "destinationType": "s3",
    "s3_bucket_name": "lake",
    "s3_bucket_path": "raw",
    "s3_bucket_region": "eu-west-1",
    "access_key_id": "id",
    "secret_access_key": "secret",
    "format": {"format_type": "Parquet", "compression_codec": "ZSTD"},
}


class Refused(Exception):
    def __init__(self, status: int, body: Any, headers: Any) -> None:
        super().__init__(status, body)
        self.status, self.body, self.headers = status, body, headers

    @property
    def message(self) -> str:
        return str(self.body["data"]["message"])


def call(
    server: FakeAirbyte, line: str, body: Json | None = None, *, auth: str = "basic", timeout: float = 10
) -> Any:
    """One request of its own connection: 'GET /sources?limit=1'."""
    method, path = line.split(" ", 1)
    if auth == "basic":
        auth = "Basic " + base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rsplit(":", 1)[1]), timeout=timeout)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, "/api/public/v1" + path, sent, {"Authorization": auth})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    found = json.loads(text) if text.startswith(("{", "[")) else text
    if answer.status >= 400:
        raise Refused(answer.status, found, answer.headers)
    return found


def refused(server: FakeAirbyte, line: str, body: Json | None = None, *, auth: str = "basic") -> Refused:
    with pytest.raises(Refused) as caught:
        call(server, line, body, auth=auth)
    return caught.value


@pytest.fixture
def server() -> Iterator[FakeAirbyte]:
    with FakeAirbyte() as fake:
        fake.catalogs["shop"] = [ORDERS, EVENTS]
        shop = {"sourceType": "klaviyo", "api_key": "pk"}
        fake.sources.create({"name": "shop", "workspaceId": fake.workspace_id, "configuration": shop})
        fake.destinations.create({"name": "lake", "workspaceId": fake.workspace_id, "configuration": S3})
        yield fake


def ends(server: FakeAirbyte) -> Json:
    return {"sourceId": next(iter(server.sources)), "destinationId": next(iter(server.destinations))}


def streams(*asked: Json) -> Json:
    return {"configurations": {"streams": list(asked)}}


def connect(server: FakeAirbyte, *asked: Json, **more: Any) -> str:
    body = ends(server) | streams(*asked or [{"name": "orders", "syncMode": "incremental_append"}]) | more
    return str(call(server, "POST /connections", body)["connectionId"])


@pytest.mark.parametrize("asked", [{}, {"configurations": {}}, {"configurations": {"streams": []}}])
def test_rule_1_a_connection_without_streams_overwrites_every_one(server: FakeAirbyte, asked: Json) -> None:
    made = call(server, "POST /connections", ends(server) | asked)["connectionId"]
    assert server.modes(made) == {"orders": "full_refresh_overwrite", "events": "full_refresh_overwrite"}


def test_rule_1_the_last_stream_cannot_be_patched_away(server: FakeAirbyte) -> None:
    made = connect(server)
    call(server, f"PATCH /connections/{made}", streams() | {"status": "inactive"})
    assert server.modes(made) == {"orders": "incremental_append"}
    assert server.connections[made]["status"] == "inactive"


def test_rule_2_a_stream_without_a_mode_is_overwritten(server: FakeAirbyte) -> None:
    assert server.modes(connect(server, {"name": "orders"})) == {"orders": "full_refresh_overwrite"}


def test_rule_2_a_misspelt_mode_is_refused_here_and_overwrites_there(server: FakeAirbyte) -> None:
    asked = ends(server) | streams({"name": "orders", "sync_mode": "incremental_append"})
    assert "sync_mode" in refused(server, "POST /connections", asked).message
    server.lenient = True
    made = call(server, "POST /connections", asked)["connectionId"]
    assert server.modes(made) == {"orders": "full_refresh_overwrite"}


def test_rule_3_a_patch_replaces_the_catalog(server: FakeAirbyte) -> None:
    made = connect(server)
    added = {"name": "events", "syncMode": "full_refresh_append"}
    call(server, f"PATCH /connections/{made}", streams(added))
    assert server.modes(made) == {"events": "full_refresh_append"}


def test_rule_3_a_stream_is_unknown_until_discovery_ignores_its_cache(server: FakeAirbyte) -> None:
    made, source = connect(server), ends(server)["sourceId"]
    server.catalogs["shop"].append(Discovered("refunds"))
    more = streams({"name": "orders", "syncMode": "incremental_append"}, {"name": "refunds"})
    assert "No streams found" in refused(server, f"PATCH /connections/{made}", more).message
    call(server, f"GET /streams?sourceId={source}")
    assert server.discoveries == ["shop"]
    call(server, f"GET /streams?sourceId={source}&ignoreCache=true")
    assert server.discoveries == ["shop", "shop"]
    call(server, f"PATCH /connections/{made}", more)
    assert set(server.modes(made)) == {"orders", "refunds"}


def test_rule_3_another_configuration_is_discovered_anew(server: FakeAirbyte) -> None:
    made, source = connect(server), ends(server)["sourceId"]
    server.catalogs["shop"].append(Discovered("refunds"))
    call(server, f"PATCH /sources/{source}", {"configuration": {"api_key": "other"}})
    call(server, f"PATCH /connections/{made}", streams({"name": "refunds"}))
    assert server.discoveries == ["shop", "shop"]


def test_a_change_of_the_mode_loses_the_streams_state(server: FakeAirbyte) -> None:
    made = connect(server)
    call(server, f"PATCH /connections/{made}", streams({"name": "orders"}))
    assert server.forgotten == [(made, "orders")]


def test_rule_4_a_key_goes_unnoticed_where_none_is_needed_and_older_servers_refuse_any(
    server: FakeAirbyte,
) -> None:
    keyed = {"name": "orders", "syncMode": "incremental_append", "primaryKey": [["name"]]}
    made = connect(server, keyed)
    [shown] = call(server, f"GET /connections/{made}")["configurations"]["streams"]
    assert shown["primaryKey"] == [["id"]]
    server.refuses_any_key = True
    own = keyed | {"primaryKey": [["id"]]}
    assert "pre-defined" in refused(server, f"PATCH /connections/{made}", streams(own)).message


def test_rule_4_where_a_key_is_needed_it_must_be_the_sources_own(server: FakeAirbyte) -> None:
    server.custom_definitions[custom := str(uuid.uuid4())] = ""
    body = {"name": "db", "workspaceId": server.workspace_id, "definitionId": custom, "configuration": {}}
    database = call(server, "POST /destinations", body)
    keyed = {"name": "orders", "syncMode": "incremental_deduped_history", "primaryKey": [["name"]]}
    to = ends(server) | {"destinationId": database["destinationId"]}
    assert "pre-defined" in refused(server, "POST /connections", to | streams(keyed)).message
    call(server, "POST /connections", to | streams(keyed | {"primaryKey": [["id"]]}))
    assert "Valid: " in refused(server, "POST /connections", ends(server) | streams(keyed)).message


def test_rule_4_a_cursor_is_the_sources_own_or_must_be_named(server: FakeAirbyte) -> None:
    for asked in (
        {"name": "orders", "cursorField": ["id"]},
        {"name": "events"},
        {"name": "events", "cursorField": ["nope"]},
    ):
        wanted = ends(server) | streams({**asked, "syncMode": "incremental_append"})
        assert refused(server, "POST /connections", wanted).status == 400
    made = connect(server, {"name": "events", "syncMode": "incremental_append", "cursorField": ["id"]})
    assert server.modes(made) == {"events": "incremental_append"}


@pytest.mark.parametrize(
    "asked",
    [
        [{"name": "orders"}, {"name": "orders", "namespace": "other"}],
        [{"name": "orders", "selectedFields": []}],
        [{"name": "orders", "selectedFields": [{"fieldPath": ["nope"]}]}],
        [{"name": "orders", "selectedFields": [{"fieldPath": ["id"]}], "syncMode": "incremental_append"}],
        [{"name": "nope"}],
    ],
)
def test_rule_5_doubles_and_strange_fields_are_refused(server: FakeAirbyte, asked: list[Json]) -> None:
    assert refused(server, "POST /connections", ends(server) | streams(*asked)).status == 400
    assert not server.connections


def test_rule_5_what_a_get_answers_cannot_be_sent_back(server: FakeAirbyte) -> None:
    made = connect(server)
    answered = call(server, f"GET /connections/{made}")["configurations"]
    assert answered["streams"][0]["selectedFields"] == []
    assert refused(server, f"PATCH /connections/{made}", {"configurations": answered}).status == 400


def cron(expression: str) -> Json:
    return {"schedule": {"scheduleType": "cron", "cronExpression": expression}}


@pytest.mark.parametrize(
    "expression", ["* 0 * * * ?", "0 */20 * * * ? *", "0 0,20,40 * * * ? *", "0 * * * *"]
)
def test_rule_6_seconds_and_minutes_are_single_numbers(server: FakeAirbyte, expression: str) -> None:
    assert refused(server, "POST /connections", ends(server) | cron(expression)).message


def test_rule_6_six_fields_are_refused_without_a_message(server: FakeAirbyte) -> None:
    body = refused(server, "POST /connections", ends(server) | cron("0 0/15 * * * ?")).body
    assert body["type"] == "error:cron-validation/under-one-hour-not-allowed"
    assert "message" not in body["data"]
    server.allows_sub_hourly = True
    call(server, "POST /connections", ends(server) | cron("0 0/15 * * * ?"))


def test_rule_7_a_schedule_comes_back_with_its_zone(server: FakeAirbyte) -> None:
    made = connect(server, **cron("0 0 12 * * ?"))
    answered = call(server, f"GET /connections/{made}")["schedule"]
    assert answered["cronExpression"] == "0 0 12 * * ? UTC"
    again = call(server, f"PATCH /connections/{made}", {"schedule": answered})["schedule"]
    assert again == answered


def test_rule_8_a_locked_connection_refuses_and_says_so_by_its_type(server: FakeAirbyte) -> None:
    made = connect(server)
    server.connections[made]["status"] = "locked"
    answer = refused(server, f"PATCH /connections/{made}", {"name": "other"})
    assert (answer.status, answer.body["type"]) == (409, "error:connection/locked")
    assert answer.body["data"]["connectionId"] == made


def test_rule_9_secrets_are_masked_and_a_patch_with_the_mask_loses_them(server: FakeAirbyte) -> None:
    key = ends(server)["destinationId"]
    shown = call(server, f"GET /destinations/{key}")["configuration"]
    assert shown["secret_access_key"] == "**********"
    assert "destinationType" not in shown
    call(server, f"PUT /destinations/{key}", {"name": "lake", "configuration": shown})
    assert server.destinations[key]["configuration"]["secret_access_key"] == "secret"
    call(server, f"PATCH /destinations/{key}", {"configuration": shown})
    assert server.destinations[key]["configuration"]["secret_access_key"] == "**********"


def test_a_patched_configuration_is_merged_and_a_put_one_replaces(server: FakeAirbyte) -> None:
    key = ends(server)["destinationId"]
    call(server, f"PATCH /destinations/{key}", {"configuration": {"format": {"page_size_kb": 8}}})
    assert server.destinations[key]["configuration"]["format"]["compression_codec"] == "ZSTD"
    call(server, f"PUT /destinations/{key}", {"name": "l", "configuration": S3 | {"format": {}}})
    assert server.destinations[key]["configuration"]["format"] == {}


def test_rule_10_nothing_comes_back_in_the_order_it_was_sent(server: FakeAirbyte) -> None:
    fields = [{"fieldPath": ["updated_at"]}, {"fieldPath": ["id"]}]
    made = connect(server, {"name": "orders", "selectedFields": fields}, {"name": "events"})
    shown = call(server, f"GET /connections/{made}")["configurations"]["streams"]
    assert [stream["name"] for stream in shown] == ["events", "orders"]
    assert shown[1]["selectedFields"] == fields[::-1]


def test_rule_11_two_creates_make_two(server: FakeAirbyte) -> None:
    assert connect(server, name="shop") != connect(server, name="shop")
    for _ in range(2):
        call(server, "POST /sources", _faker(server))
    assert [source["name"] for source in server.sources.values()] == ["shop", "faker", "faker"]


def _faker(server: FakeAirbyte) -> Json:
    return {"name": "faker", "workspaceId": server.workspace_id, "configuration": {"sourceType": "faker"}}


def test_streams_are_a_bare_list_and_know_modes_only_with_a_destination(server: FakeAirbyte) -> None:
    source, to = ends(server).values()
    server.catalogs["shop"] = [Discovered("orders", namespace="public")]
    [alone] = call(server, f"GET /streams?sourceId={source}")
    assert alone["streamnamespace"] == "public"
    assert "syncModes" not in alone
    [shown] = call(server, f"GET /streams?sourceId={source}&destinationId={to}")
    assert shown["syncModes"] == ["full_refresh_append", "full_refresh_overwrite", "incremental_append"]


def test_pages_go_on_until_an_empty_one_and_their_links_lead_nowhere(server: FakeAirbyte) -> None:
    made = [connect(server) for _ in range(3)]
    full, rest, none = (call(server, f"GET /connections?limit=2&offset={at}") for at in (0, 2, 4))
    assert [row["connectionId"] for row in full["data"] + rest["data"]] == made
    assert rest["next"].startswith("http://localhost:8001/")
    assert (none["data"], none["next"]) == ([], "")
    assert refused(server, "GET /connections?limit=101").status == 400


def test_the_deleted_are_listed_on_request_only(server: FakeAirbyte) -> None:
    made, source = connect(server), ends(server)["sourceId"]
    assert call(server, f"DELETE /sources/{source}") == ""
    for noun in ("sources", "connections"):
        assert call(server, f"GET /{noun}")["data"] == []
        assert len(call(server, f"GET /{noun}?includeDeleted=true")["data"]) == 1
    assert call(server, f"GET /connections/{made}")["status"] == "deprecated"
    assert call(server, f"GET /sources/{source}")["configuration"] == {}


def test_definitions_are_found_by_type_or_by_id(server: FakeAirbyte) -> None:
    server.custom_definitions[own := str(uuid.uuid4())] = ""
    plain = _faker(server) | {"configuration": {}}
    assert call(server, "POST /sources", plain | {"definitionId": own})["sourceType"] == ""
    assert refused(server, "POST /sources", plain).status == 422
    assert refused(server, "POST /sources", plain | {"definitionId": str(uuid.uuid4())}).status == 404
    assert refused(server, "POST /sources", plain | {"configuration": {"sourceType": "nope"}}).status == 400
    assert (
        "api_key"
        in refused(server, "POST /sources", plain | {"configuration": {"sourceType": "klaviyo"}}).message
    )


def test_tags_are_whole_objects_and_their_names_are_taken_once(server: FakeAirbyte) -> None:
    tag = {"name": "lakeward", "color": "FF5733", "workspaceId": server.workspace_id}
    made = call(server, "POST /tags", tag)
    assert refused(server, "POST /tags", tag).body["type"] == "error:tag-already-exists"
    assert refused(server, "POST /tags", tag | {"color": "#FF573"}).status == 400
    assert call(server, "GET /tags") == {"data": [made]}
    tagged = connect(server, tags=[made])
    connect(server)
    [found] = call(server, f"GET /connections?tagIds={made['tagId']}")["data"]
    assert (found["connectionId"], found["tags"]) == (tagged, [made])
    assert refused(server, f"PATCH /connections/{tagged}", {"tags": [{"tagId": made["tagId"]}]}).status == 400


def test_a_job_goes_on_with_every_read(server: FakeAirbyte) -> None:
    server.next_job("pending", "running", "failed", rows=10, size=100)
    server.now = lambda: datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
    asked = {"connectionId": connect(server), "jobType": "sync"}
    job = call(server, "POST /jobs", asked)
    assert (job["jobId"], job["status"], job["startTime"]) == (1, "pending", "2026-11-25T10:00Z")
    assert "rowsSynced" not in job
    assert "already running" in refused(server, "POST /jobs", asked).message
    seen = [call(server, "GET /jobs/1") for _ in range(3)]
    assert [job["status"] for job in seen] == ["running", "failed", "failed"]
    assert (seen[1]["rowsSynced"], seen[1]["bytesSynced"]) == (5, 50)
    assert refused(server, "DELETE /jobs/1").status == 409


def test_jobs_are_listed_oldest_first_and_move_only_when_read(server: FakeAirbyte) -> None:
    asked = {"connectionId": connect(server), "jobType": "sync"}
    call(server, "POST /jobs", asked)
    assert call(server, "DELETE /jobs/1")["status"] == "cancelled"
    call(server, "POST /jobs", asked)
    assert [job["jobId"] for job in call(server, "GET /jobs")["data"]] == [1, 2]
    assert [job["jobId"] for job in call(server, "GET /jobs?orderBy=createdAt%7CDESC")["data"]] == [2, 1]
    assert [job["jobId"] for job in call(server, "GET /jobs?status=pending")["data"]] == [2]


def test_only_an_active_connection_syncs_and_refreshes_are_not_for_this_api(server: FakeAirbyte) -> None:
    made = connect(server, status="inactive")
    assert refused(server, "POST /jobs", {"connectionId": made, "jobType": "sync"}).status == 409
    assert refused(server, "POST /jobs", {"connectionId": made, "jobType": "refresh"}).status == 422
    assert call(server, "POST /jobs", {"connectionId": made, "jobType": "clear"})["jobType"] == "reset"


def test_a_token_is_needed_and_does_not_last(server: FakeAirbyte) -> None:
    asked = {"client_id": server.client_id, "client_secret": server.client_secret}
    assert "grant_type" in refused(server, "POST /applications/token", asked, auth="").message
    asked["grant_type"] = "client_credentials"
    wrong = refused(server, "POST /applications/token", asked | {"client_secret": "x"}, auth="")
    assert (wrong.status, list(wrong.body)) == (401, ["errorId"])
    token = call(server, "POST /applications/token", asked, auth="")
    bearer = f"Bearer {token['access_token']}"
    assert token["expires_in"] == 900
    assert call(server, "GET /workspaces", auth=bearer)["data"][0]["workspaceId"] == server.workspace_id
    server.expire_tokens()
    for unknown in (bearer, "", "Basic eDp5"):
        assert refused(server, "GET /workspaces", auth=unknown).status == 401
    server.token_seconds = 0
    token = call(server, "POST /applications/token", asked, auth="")
    assert refused(server, "GET /tags", auth=f"Bearer {token['access_token']}").status == 401
    assert call(server, "GET /health", auth="") == "Successful operation"


def test_faults_come_as_often_and_where_they_were_asked_for(server: FakeAirbyte) -> None:
    server.fail_next(429, times=2, on="GET /sources", retry_after=3)
    server.fail_next(502, body="<html>Bad Gateway</html>")
    assert refused(server, "GET /tags").body == "<html>Bad Gateway</html>"
    assert refused(server, "GET /sources").headers["Retry-After"] == "3"
    assert refused(server, "GET /sources").status == 429
    assert len(call(server, "GET /sources")["data"]) == 1


def test_an_answer_can_be_lost_before_or_after_the_deed(server: FakeAirbyte) -> None:
    server.drop_next()
    server.drop_next(performed=True)
    for made in (1, 2):
        with pytest.raises(http.client.RemoteDisconnected):
            call(server, "POST /sources", _faker(server))
        assert len(server.sources) == made
    server.hang_next()
    with pytest.raises(TimeoutError):
        call(server, "GET /sources", timeout=0.1)
    assert [request.method for request in server.requests] == ["POST", "POST", "GET"]


def test_what_came_can_be_read(server: FakeAirbyte) -> None:
    call(server, "GET /connections?workspaceIds=a&workspaceIds=b")
    [request] = server.requests
    assert (request.path, request.query) == ("/connections", {"workspaceIds": "a,b"})
    assert request.headers["authorization"].startswith("Basic ")
