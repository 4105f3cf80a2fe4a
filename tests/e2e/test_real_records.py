"""Records that nobody here wrote: Airbyte's source-faker, from PyPI, through the models of examples/faker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from examples.faker.read import ConnectorFailed, Message, discover, land, read
from tests.scratch import REPOSITORY, ScratchLake

REQUIREMENT = "airbyte-source-faker==7.2.1"
DAG = REPOSITORY / "examples" / "faker" / "orchestration" / "dag"
STREAMS = ("users", "products", "purchases")
NIGHTS = [datetime(2026, 11, day, 23, 40, tzinfo=UTC) for day in range(1, 5)]

Row = tuple[Any, ...]
Records = dict[str, dict[int, Message]]  # newest record by id, by stream


@pytest.fixture(scope="session")
def connector() -> Path:
    """The connector's program, installed once per clone: its pins and ours cannot share an environment."""
    home = REPOSITORY / ".lake" / "connectors" / "source-faker-7.2.1"
    program, complete = home / "bin" / "source-faker", home / "complete"
    if complete.exists() and program.exists() and (home / "bin" / "python").exists():
        return program
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv", path=f"{os.environ['PATH']}:{REPOSITORY / '.uv' / 'bin'}")
    python = _suitable_python(uv)
    if python is None:
        pytest.skip(f"{REQUIREMENT} needs Python 3.10, 3.11 or 3.12, and there is none here")
    venv, pip = [python, "-m", "venv"], [str(home / "bin" / "pip"), "install"]
    if uv:
        venv, pip = [*venv, "--without-pip"], [uv, "pip", "install", "--python", str(home)]
    subprocess.run([*venv, home], check=True)
    subprocess.run([*pip, "--quiet", REQUIREMENT], check=True)
    complete.touch()
    return program


def _suitable_python(uv: str | None) -> str | None:
    if (3, 10) <= sys.version_info[:2] < (3, 13):
        return sys.executable
    if uv is None:
        return None
    found = subprocess.run(
        [uv, "python", "find", "--system", "--no-python-downloads", ">=3.10,<3.13"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.strip() or None


@dataclass(frozen=True)
class Reads:
    """What the connector printed, from its catalog to its last state."""

    first: list[Message]  # 1,000 users, and as many purchases
    nothing: list[Message]  # continues from `first`: 200 more users exist, but the connector stops there
    changed: list[Message]  # continues from `first`: another 300 people under the ids 1 to 300
    grown: list[Message]  # from the start: the first 1,000 again, and 200 more


@pytest.fixture(scope="session")
def reads(connector: Path) -> Reads:
    # One process, or the same seed would not give the same purchases.
    config = {"count": 1000, "seed": 42, "parallelism": 1, "always_updated": False}
    catalog = discover(connector, config)

    def answer(changes: dict[str, Any], states: dict[str, Message]) -> list[Message]:
        return list(read(connector, config | changes, catalog, states))

    first = answer({}, {})
    states = _states(first)
    with ThreadPoolExecutor() as pool:  # a connector takes seconds to start
        nothing = pool.submit(answer, {"count": 1200}, states)
        changed = pool.submit(answer, {"count": 300, "seed": 43, "always_updated": True}, states)
        grown = pool.submit(answer, {"count": 1200}, {})
    return Reads(first, nothing.result(), changed.result(), grown.result())


@pytest.fixture
def faker_lake(lake: ScratchLake) -> ScratchLake:
    shutil.copytree(DAG, lake.project_dir / "dag", dirs_exist_ok=True)
    return lake


def test_every_record_read_is_a_row_in_its_newest_version(faker_lake: ScratchLake, reads: Reads) -> None:
    lake = faker_lake
    land(reads.first, lake.landing, "faker", at=NIGHTS[0], rows_per_file=400)
    fed = lake.feed()
    assert {stream: (report.files, report.rows) for stream, report in fed.items()} == {
        "faker/users": (3, 1000), "faker/products": (1, 100), "faker/purchases": (3, 1000),
    }  # fmt: skip
    assert _tables(lake) == _expected(reads.first)

    assert land(reads.nothing, lake.landing, "faker", at=NIGHTS[1]).files == []
    assert [report.files for report in lake.feed().values()] == [0, 0, 0]

    land(reads.changed, lake.landing, "faker", at=NIGHTS[2])
    lake.feed()
    assert _tables(lake) == _expected(reads.first, reads.changed)
    sizes = lake.query(
        "select count(*), count(*) filter (day = 1), count(*) filter (day = 3) from int_faker__users"
    )
    assert sizes == [(1000, 700, 300)]

    land(reads.grown, lake.landing, "faker", at=NIGHTS[3])
    lake.feed()
    assert _tables(lake) == _expected(reads.first, reads.changed, reads.grown)
    assert lake.query("select count(*), count(distinct user_id) from int_faker__users") == [(1200, 1200)]

    before = len(lake.events())
    assert [report.batches for report in lake.feed().values()] == [0, 0, 0]
    assert len(lake.events()) == before == 3 + 3 + 1 + 3 + 3


def test_a_read_that_lands_after_a_newer_one_changes_no_newer_row(
    faker_lake: ScratchLake, reads: Reads
) -> None:
    lake = faker_lake
    for messages, night in ((reads.changed, NIGHTS[2]), (reads.first, NIGHTS[0])):
        land(messages, lake.landing, "faker", at=night)
        lake.feed()

    assert _tables(lake) == _expected(reads.first, reads.changed)


def test_a_field_named_year_is_hidden_by_the_partition(faker_lake: ScratchLake, reads: Reads) -> None:
    land(reads.first, faker_lake.landing, "faker", at=NIGHTS[0])
    faker_lake.feed("faker/products")

    sent = {record["data"]["year"] for record in _newest(reads.first)["products"].values()}
    assert sent == {2023}
    assert faker_lake.query("select distinct year from int_faker__products") == [(2026,)]


def test_a_connector_that_fails_says_why(connector: Path) -> None:
    with pytest.raises(ConnectorFailed, match="'many' is not of type 'integer'"):
        discover(connector, {"count": "many"})


def _states(messages: Iterable[Message]) -> dict[str, Message]:
    states = (message["state"] for message in messages if message["type"] == "STATE")
    return {state["stream"]["stream_descriptor"]["name"]: state for state in states}


def _newest(*reads: Iterable[Message]) -> Records:
    """The oracle: the record emitted last per id, straight from the connector's messages."""
    newest: Records = {stream: {} for stream in STREAMS}
    for messages in reads:
        for message in messages:
            if message["type"] == "RECORD":
                record = message["record"]
                known = newest[record["stream"]].get(record["data"]["id"])
                if known is None or known["emitted_at"] <= record["emitted_at"]:
                    newest[record["stream"]][record["data"]["id"]] = record
    return newest


def _expected(*reads: Iterable[Message]) -> dict[str, list[Row]]:
    newest = _newest(*reads)
    rows = {
        stream: [_row(stream, record["data"], record["emitted_at"]) for record in newest[stream].values()]
        for stream in STREAMS
    }
    assert all(rows.values())
    return {stream: sorted(found, key=lambda row: int(row[0])) for stream, found in rows.items()}


def _row(stream: str, data: dict[str, Any], emitted_at: int) -> Row:
    tail = (
        _moment(data["created_at"]),
        _moment(data["updated_at"]),
        datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=emitted_at),
    )
    if stream == "users":
        blood = data["blood_type"].replace("\N{MINUS SIGN}", "-")
        person = (data["id"], data["name"], data["email"].lower(), data["age"], blood, data["weight"])
        return (
            *person,
            Decimal(data["height"]),
            data["address"]["city"],
            data["address"]["postal_code"],
            *tail,
        )
    if stream == "products":
        return (data["id"], data["make"], data["model"], Decimal(data["price"]), *tail)
    steps = (_moment(data.get(name)) for name in ("added_to_cart_at", "purchased_at", "returned_at"))
    return (data["id"], data["user_id"], data["product_id"], *steps, *tail)


def _moment(text: str | None) -> datetime | None:
    """Airbyte takes a time without a zone for UTC."""
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_COLUMNS = {
    "users": "user_id, name, email, age, blood_type, weight_kg, height_m, city, postal_code",
    "products": "product_id, make, model, price",
    "purchases": "purchase_id, user_id, product_id, added_to_cart_at, purchased_at, returned_at",
}


def _tables(lake: ScratchLake) -> dict[str, list[Row]]:
    return {
        stream: lake.query(
            f"select {_COLUMNS[stream]}, created_at, updated_at, _airbyte_extracted_at "
            f"from int_faker__{stream} order by 1"
        )
        for stream in STREAMS
    }
