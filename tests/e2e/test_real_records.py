"""Records that nobody here wrote: Airbyte's source-faker, from PyPI, through the models of examples/faker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.connectors import INSTALLED, needed_python
from tests.scratch import REPOSITORY, ScratchLake

EXAMPLE = REPOSITORY / "examples" / "faker" / "orchestration"
STREAMS = ("users", "products", "purchases")

Message = dict[str, Any]
Row = tuple[Any, ...]
Records = dict[str, dict[int, Message]]  # newest record by id, by stream


class Faker:
    """The example's lake; its connectors are installed once per clone."""

    def __init__(self, lake: ScratchLake) -> None:
        self.lake = lake
        shutil.copytree(EXAMPLE, lake.project_dir, dirs_exist_ok=True)
        self._file = lake.project_dir / "sources" / "faker.yml"
        self.source = yaml.safe_load(self._file.read_text())
        if sys.version_info[:2] >= (3, 13):
            self.source["python"] = needed_python(">=3.10,<3.13")
        INSTALLED.mkdir(parents=True, exist_ok=True)
        (lake.root / ".lake" / "connectors").symlink_to(INSTALLED)
        self._told = lake.root / "told.ndjson"

    def configure(self, **config: Any) -> None:
        self.source["config"] |= config
        self._file.write_text(json.dumps(self.source))

    def overhear(self) -> None:
        """Put a program between lakeward and the installed connector: it writes down what is said."""
        (program,) = (self.lake.root / ".lake" / "connectors").glob("source-faker-*/bin/source-faker")
        between = self.lake.root / "between"
        between.write_text(f'#!/bin/bash\nset -o pipefail\n"{program}" "$@" | tee -a "{self._told}"\n')
        between.chmod(0o755)
        self.source["connector"] = "./between"
        self.configure()

    def sync(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.lake.cli("sync", *arguments, check=False)

    def told(self) -> list[Message]:
        """Everything the connector has said in reads so far."""
        return [json.loads(line) for line in self._told.read_text().splitlines() if line.startswith("{")]

    def landed(self) -> list[Path]:
        return sorted((self.lake.landing / "raw").rglob("*.parquet"))


@pytest.fixture
def faker(lake: ScratchLake) -> Faker:
    return Faker(lake)


def test_every_record_sent_is_a_row_in_its_newest_version(faker: Faker) -> None:
    faker.configure(count="many")
    wrong = faker.sync("faker")  # and so installs it without landing a record
    assert wrong.returncode == 2
    assert "faker.yml: \"config.count\": 'many' is not of type 'integer'" in wrong.stderr

    # One process, or the same seed would not give the same purchases.
    faker.configure(count=1000, seed=42, parallelism=1, always_updated=False)
    faker.overhear()
    assert "landed 3 files, 2,100 records" in faker.sync("faker").stdout
    faker.lake.feed()
    first = faker.landed()
    assert _tables(faker.lake) == _expected(faker.told())
    # The connector's own `year` is hidden by the partition: docs/decisions/0004.
    assert faker.lake.query("select distinct year from int_faker__products") == [(datetime.now(UTC).year,)]

    faker.configure(count=1200)  # 200 more exist, but the connector stops at its state
    assert "nothing new in 3 streams" in faker.sync("faker").stdout
    assert faker.landed() == first
    assert [report.files for report in faker.lake.feed().values()] == [0, 0, 0]

    faker.configure(count=300, seed=43, always_updated=True)  # other people under the ids 1 to 300
    assert faker.sync("faker").returncode == 0
    newer = [path for path in faker.landed() if path not in first]
    assert len(newer) == 3
    faker.lake.feed()
    assert _tables(faker.lake) == _expected(faker.told())
    assert faker.lake.query("select count(*), count(distinct user_id) from int_faker__users") == [
        (1000, 1000)
    ]

    # Again, the newer files first: a file that lands late changes no newer row.
    for path in first:
        path.rename(path.with_suffix(".held"))
    for stream in STREAMS:
        assert faker.lake.cli("refresh", f"faker/{stream}").returncode == 0
    for path in first:
        path.with_suffix(".held").rename(path)
    faker.lake.feed()
    assert _tables(faker.lake) == _expected(faker.told())


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
