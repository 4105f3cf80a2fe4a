"""No secret in any file, output, event or table: of a run that works, and of runs that fail in every way."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import dagster as dg  # noqa: TID253
import pytest

from tests.functional.test_definitions import materialize
from tests.scratch import REPOSITORY, ScratchLake, launcher
from tests.servers import PostgresServer, S3Server
from tests.shop import LOG, Shop

PASSWORD = r"""pg-hush'o"n;e\x %2f/@:pass"""
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3-hush+one/two=three",
    "SHOP_TOKEN": 'shop-hush "token"',
    "LAKEWARD_AIRBYTE_CLIENT_SECRET": "airbyte-hush-client",
    "LAKEWARD_AIRBYTE_PASSWORD": "airbyte-hush-password",
}
WRONG = {"PASSWORD": "wrong-hush-password", "AWS_SECRET_ACCESS_KEY": "wrong-hush-secret"}
TOKEN = "session-hush-token"
MART = "{{ config(tags=['enriched'], materialized='table') }} select * from {{ ref('int_shop__items') }}"


def forms(secret: str) -> set[bytes]:
    written = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), secret.replace("'", "''")}
    written |= {json.dumps(secret)[1:-1], repr(secret)[1:-1], base64.b64encode(secret.encode()).decode()}
    written.add(secret.replace("\\", "\\\\").replace("'", "\\'"))
    return {text.encode() for text in written}


ALL = set().union(
    *(forms(word) for word in (PASSWORD, TOKEN, *SECRETS.values(), *WRONG.values())), {b"-hush"}
)


class Secretive:
    """A lake on S3 and a network Postgres, and all that was said of it."""

    def __init__(self, lake: ScratchLake, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lake = lake
        self.monkeypatch = monkeypatch
        self.said: dict[str, bytes] = {}

    def cli(self, *arguments: str, program: str = "lakeward", fails: bool, **environment: str) -> str:
        done = (
            launcher()
            .start(
                program,
                *arguments,
                cwd=self.lake.root if program == "lakeward" else self.lake.project_dir,
                env={**os.environ, **environment},
            )
            .wait()
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, said
        assert "Traceback" not in said or "--debug" in arguments, said
        self.said[f"{len(self.said)}: {program} {' '.join(arguments)}"] = said.encode()
        return said

    def leaks(self, *folders: Path) -> dict[str, bytes]:
        """Where a secret is, and which."""
        texts = dict(self.said)
        for folder in folders:
            texts |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert len(texts) > len(self.said)
        return {where: form for where, text in texts.items() for form in ALL if form in text}


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with closing(S3Server(tmp_path_factory.mktemp("seaweedfs"))) as server:
        server.shell("s3.bucket.create -name=acme-landing", "s3.bucket.create -name=acme-lake")
        yield server


@pytest.fixture
def lake_of_secrets(
    embedded_lake: ScratchLake, s3: S3Server, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Secretive:
    postgres.create_database("secrets")
    postgres.run_script("secrets", REPOSITORY / "deploy" / "roles.sql")
    postgres.run("secrets", f"alter role lakeward_writer password E'{_escaped(PASSWORD)}'")
    policies = [REPOSITORY / "deploy" / f"policy-{name}.json" for name in ("feed", "sync")]
    keys = s3.add_user("hushed", *policies, secret=SECRETS["AWS_SECRET_ACCESS_KEY"])
    variables = (
        SECRETS
        | keys
        | {
            "LAKEWARD_LANDING_URL": "s3://acme-landing",
            "LAKEWARD_DATA_URL": "s3://acme-lake/data",
            "LAKEWARD_CATALOG_URL": _catalog(postgres, PASSWORD),
        }
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Secretive(embedded_lake, monkeypatch)


def _catalog(postgres: PostgresServer, password: str) -> str:
    return postgres.url("secrets", f"lakeward_writer:{quote(password, safe='')}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


@pytest.mark.slow
def test_no_secret_is_anywhere_whatever_fails(
    lake_of_secrets: Secretive, postgres: PostgresServer, tmp_path: Path
) -> None:
    one, lake = lake_of_secrets, lake_of_secrets.lake
    shop = Shop(lake)
    shop.says(token="${SHOP_TOKEN}", noise="${SHOP_TOKEN}", say=["I was given ${SHOP_TOKEN}"])
    lake.write("dag/enriched/fct_items.sql", MART)

    one.cli("check", "--json", fails=False)
    one.cli("run", fails=False)
    assert "25" in one.cli("sql", "--json", "select count(*) from fct_items", fails=False)
    for command in ("status", "files shop/items", "quarantine list"):
        one.cli(*command.split(), fails=False)
        one.cli(*command.split(), "--json", fails=False)
    one.cli("sql", "from duckdb_secrets()", fails=False)
    one.cli("sql", "from duckdb_secrets(redact=false)", fails=True)
    one.cli("sql", "from duckdb_databases()", fails=False)
    one.cli("sql", "from duckdb_settings()", fails=False)
    one.cli("--debug", "run", program="dbt", fails=False)
    one.cli("docs", "generate", program="dbt", fails=False)
    one.cli("debug", program="dbt", fails=False)

    wrong_password = {"LAKEWARD_CATALOG_URL": _catalog(postgres, WRONG["PASSWORD"])}
    wrong_secret = {"AWS_SECRET_ACCESS_KEY": WRONG["AWS_SECRET_ACCESS_KEY"]}
    session = {"AWS_SESSION_TOKEN": TOKEN, **wrong_secret}
    nobody = {"LAKEWARD_CATALOG_URL": _catalog(postgres, PASSWORD).replace(f":{postgres.port}", ":1")}
    broken = {"LAKEWARD_CATALOG_URL": f"postgresql://u:{WRONG['PASSWORD']}/x@h:{WRONG['PASSWORD']}/d"}
    for environment in (wrong_password, wrong_secret, session, nobody, broken):
        for command in ("run", "feed", "refresh shop/items", "sync shop", "status --json", "sql 'select 1'"):
            is_harmless = command.startswith("sql") and "LAKEWARD_CATALOG_URL" not in environment
            one.cli(*command.replace("'", "").split(maxsplit=1), fails=not is_harmless, **environment)
        for debug in ([], ["--debug"]):
            one.cli(*debug, "run", program="dbt", fails=True, **environment)

    shop.says(die_at=30, die_by="trace", streams={"items": 40, "notes": 5})
    one.cli("sync", "--json", fails=True)
    good = lake.write("dag/processed/shop/int_shop__items.sql", _model("select nonsense from nowhere"))
    one.cli("run", "--json", fails=True)
    good.write_text(_model("select {{ nonsense }"))
    one.cli("run", fails=True)
    one.cli("run", program="dbt", fails=True)
    good.write_text(LOG.replace("SOURCE", "shop").replace("STREAM", "items"))
    shop.says(die_at=None)

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert materialize(lake, instance, "shop_items", "int_shop__items").success
        for name, value in (wrong_secret | wrong_password).items():
            one.monkeypatch.setenv(name, value)
            assert not materialize(lake, instance, "shop_notes", "int_shop__notes").success
        runs = [run.run_id for run in instance.get_runs()]
        events = [repr(entry) for run in runs for entry in instance.all_logs(run)]
        assert len(events) > 20
        one.said["dagster"] = "\n".join(events).encode()
    one.said["catalog"] = postgres.text("secrets").encode()
    assert b"shop/items" in one.said["catalog"]
    assert one.leaks(lake.root, tmp_path) == {}


def _model(select: str) -> str:
    head = LOG.replace("SOURCE", "shop").replace("STREAM", "items")
    return head[: head.index("select")] + select + ' -- {{ var("files") }}\n'
