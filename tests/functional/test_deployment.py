"""deploy/compose.yaml without containers: its services, as it states them, as processes of this machine.

What a container would give is taken from the files too: the variables of the Dockerfile, the order and the
health checks, what may be written to, and how long a service has to end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg  # noqa: TID253
import pytest
import yaml
from obstore.store import S3Store

from lakeward import embedded
from lakeward.errors import LakewardError
from lakeward.lake import open_lake
from lakeward.settings import load_settings
from tests.scratch import APPEND, REPOSITORY, ScratchLake, scratch_lake
from tests.servers import PostgresServer, free_port

DEPLOY = REPOSITORY / "deploy"
PORTS = {"postgres": 5432, "seaweedfs": 8333, "code": 4000, "webserver": 3000}
SECRETS = {
    "IMAGE": "lakeward:test",
    "POSTGRES_PASSWORD": "forpostgres",
    "AWS_ACCESS_KEY_ID": "AKIDDEPLOYED",
    "AWS_SECRET_ACCESS_KEY": "SECRETDEPLOYED",
}
# Not a secret, and in none of the services: it reaches the code server by .env, as a source's key would.
DOTENV = SECRETS | {"LAKEWARD_THREADS": "1"}
# Dagster's telemetry makes these folders though it is off, and minds no refusal (its telemetry_upload.py).
TRIED = {"deploy/logs", "deploy/.logs_queue"}


@dataclass
class Compose:
    """The services that deploy/compose.yaml states, at ports that are free here."""

    root: Path
    postgres: PostgresServer
    services: dict[str, Any] = field(init=False)
    configs: dict[str, Any] = field(init=False)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    healthy: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ports = {name: free_port() for name in PORTS} | {"postgres": self.postgres.port}
        stated = yaml.safe_load(self._here(interpolated((DEPLOY / "compose.yaml").read_text(), DOTENV)))
        self.services, self.configs = stated["services"], stated["configs"]
        (self.root / "deploy").mkdir()
        for name in ("dagster.yaml", "workspace.yaml"):
            (self.root / "deploy" / name).write_text(self._here((DEPLOY / name).read_text()))

    def _here(self, text: str) -> str:
        """Every service at a port of its own on this machine's loopback."""
        for name, port in PORTS.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
            text = re.sub(rf"\b{port}\b", str(self.ports[name]), text)
        text = re.sub(r"host: (\w+)$", "host: 127.0.0.1", text, flags=re.M).replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"(?<![/\w])/lake/", f"{self.root}/", text)
        return text.replace("=/data", f"={self.root}/seaweedfs")

    def up(self, *names: str) -> None:
        """Start what is not running, each once what it depends on is healthy."""
        for name in names:
            for needed, when in self.services[name].get("depends_on", {}).items():
                assert when == {"condition": "service_healthy"}
                self.up(needed)
            if name not in self.healthy:
                self._start(name)
                self._wait(name)
                self.healthy.add(name)

    def _start(self, name: str) -> None:
        if name == "postgres":
            self.postgres.create_database(self.services[name]["environment"]["POSTGRES_DB"])
            for config in self.services[name]["configs"]:
                assert config["target"].startswith("/docker-entrypoint-initdb.d/")
                server = ("--host=127.0.0.1", f"--port={self.postgres.port}", "--username=lake")
                embedded._pg("psql", *server, "--command", self.configs[config["source"]]["content"], "lake")
            return
        command = self.services[name]["command"]
        if name == "seaweedfs":
            ours = ("master.port", "volume.port", "filer.port", "admin.port")
            more = [f"-{port}{kind}={free_port()}" for port in ours for kind in ("", ".grpc")]
            command = ["weed", *command, *more]
            (self.root / "seaweedfs").mkdir(exist_ok=True)
        with (self.root.parent / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=self.root, env=self.environment(name),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def environment(self, name: str) -> dict[str, str]:
        """What the container would have, and no variable of this process but the path to the programs."""
        programs = [Path(sys.executable).parent, embedded._binaries()]
        found = {
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
            "HOME": str(self.root / (".lake" if "volumes" in self.services[name] else "nowhere")),
        }
        if self.services[name].get("image") == SECRETS["IMAGE"]:
            stated = re.findall(r"(\w+)=(\S+)", "".join(re.findall(r"^ENV (.*)$", last_stage(), re.M)))
            found |= {key: self._here(value + "/").rstrip("/") for key, value in stated if key != "PATH"}
        if "env_file" in self.services[name]:
            assert [file["path"] for file in self.services[name]["env_file"]] == [".env"]
            found |= DOTENV
        found |= self.services[name].get("environment", {})
        return found

    def _wait(self, name: str) -> None:
        """Until its own health check says so."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        deadline = time.monotonic() + 120
        while True:
            ended = name in self.running and self.running[name].poll() is not None
            assert not ended, f"{name} ended: {self.log(name)}"
            done = subprocess.run(
                command, cwd=self.root, env=self.environment(name),
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, f"{name}: {done.stdout}{done.stderr}\n{self.log(name)}"
            time.sleep(1)

    def log(self, name: str) -> str:
        path = self.root.parent / f"{name}.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def stop(self, name: str) -> None:
        """As a container is: its first process is asked, and after the grace period all are killed."""
        grace = self.services[name].get("stop_grace_period", "10s")
        seconds = int(grace[:-1]) * {"s": 1, "m": 60}[grace[-1]]
        self.running[name].terminate()
        with suppress(subprocess.TimeoutExpired):
            self.running[name].wait(seconds)
        self.kill(name)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        self.healthy.discard(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait(30)

    def down(self) -> None:
        for name in [*self.running]:
            self.kill(name)

    def image(self) -> dict[str, int]:
        """All that a container could not write to, and when the files changed."""
        found = [str(self.root / "seaweedfs")]
        for service in self.services.values():
            if service["image"] == SECRETS["IMAGE"]:
                assert service["read_only"] is True
                found += [volume.partition(":")[2] for volume in service.get("volumes", [])]
                found += [place.partition(":")[0] for place in service["tmpfs"]]
        return {
            str(path.relative_to(self.root)): path.stat().st_mtime_ns if path.is_file() else 0
            for path in self.root.rglob("*")
            if not any(path.is_relative_to(place) for place in found if place.startswith(str(self.root)))
        }


@dataclass
class Deployed:
    lake: ScratchLake
    compose: Compose
    instance: dg.DagsterInstance
    unstarted: dict[str, int]

    def land(self, stream: str, day: int, name: str, ids: range) -> None:
        path = self.lake.land(stream, day, name, ids)
        store = S3Store(
            "lake", prefix="landing", endpoint=f"http://127.0.0.1:{self.compose.ports['seaweedfs']}",
            access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
            secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
            region="us-east-1", virtual_hosted_style_request=False, client_options={"allow_http": True},
        )  # fmt: skip
        store.put(str(path.relative_to(self.lake.landing)), path)

    def rows(self, model: str) -> list[int]:
        """Keys in the table, doubled ones too; none while there is no table."""
        environment = self.compose.environment("code")
        settings = load_settings(
            self.lake.project_dir,
            {key: value for key, value in environment.items() if key.startswith(("LAKEWARD_", "AWS_"))},
        )
        with suppress(LakewardError), open_lake(settings, read_only=True) as lake:
            return (
                [key for (key,) in lake.query(f"select item_id from main.{model} order by all")]
                if lake
                else []
            )
        return []

    def runs(self) -> list[tuple[str, str]]:
        return [
            (" ".join(sorted(key.to_user_string() for key in run.asset_selection or ())), run.status.value)
            for run in reversed(self.instance.get_runs())
        ]

    def wait(self, what: Callable[[], object], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            for name, process in self.compose.running.items():
                assert process.poll() is None, f"{name} ended: {self.compose.log(name)}"
            assert time.monotonic() < deadline, (self.runs(), self.compose.log("daemon"))
            time.sleep(0.5)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = Path(tempfile.mkdtemp(prefix="lakeward-test-"))
    folder.chmod(0o755)  # as root Postgres runs as nobody
    lake = scratch_lake(tmp_path_factory.mktemp("deployed") / "image")
    lake.add_stream("shop/items", model=APPEND)
    with ExitStack() as undo:
        postgres = PostgresServer(folder)
        undo.callback(shutil.rmtree, folder)
        undo.callback(postgres.stop)
        compose = Compose(lake.root, postgres)
        undo.callback(compose.down)
        unstarted = compose.image()
        assert "orchestration/definitions.py" in unstarted
        compose.up("webserver")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_POSTGRES_URL", compose.environment("daemon")["DAGSTER_POSTGRES_URL"])
            with dg.DagsterInstance.from_config(str(lake.root / "deploy")) as instance:
                yield Deployed(lake, compose, instance, unstarted)


def test_what_lands_in_the_object_store_is_fed_by_the_daemon(deployed: Deployed) -> None:
    deployed.land("shop/items", 1, "a.parquet", range(10))
    deployed.compose.up("daemon")  # its first tick is at once
    deployed.wait(lambda: deployed.rows("int_shop__items") == [*range(10)])
    deployed.wait(lambda: deployed.runs() == [("int_shop__items shop_items", "SUCCESS")])
    with urllib.request.urlopen(
        f"http://127.0.0.1:{deployed.compose.ports['webserver']}/server_info"
    ) as answer:
        assert json.load(answer)["dagster_version"] == dg.__version__
    image = {path: at for path, at in deployed.compose.image().items() if path not in TRIED}
    assert image == deployed.unstarted, "written to where the container could not"


@pytest.mark.slow
def test_a_rollout_brings_a_new_flow_and_a_killed_run_is_made_up_for(deployed: Deployed) -> None:
    deployed.compose.up("webserver", "daemon")
    deployed.land("shop/items", 2, "b.parquet", range(10, 20))
    known = len(deployed.runs())
    deployed.wait(lambda: deployed.runs()[known:] == [("int_shop__items shop_items", "STARTED")])
    deployed.compose.kill("code")
    for name in ("webserver", "daemon"):
        deployed.compose.stop(name)
    assert deployed.runs()[known][1] == "STARTED"
    deployed.lake.add_stream("shop/things")
    deployed.compose.up("webserver", "daemon")
    assert deployed.runs()[known][1] == "FAILURE"

    deployed.land("shop/things", 1, "a.parquet", range(5))
    deployed.wait(lambda: deployed.rows("int_shop__things") == [*range(5)])
    deployed.wait(lambda: {10, 19} <= {*deployed.rows("int_shop__items")})

    deployed.land("shop/things", 2, "b.parquet", range(5, 10))
    known = len(deployed.runs())
    deployed.wait(lambda: deployed.runs()[known:] == [("int_shop__things shop_things", "STARTED")])
    deployed.compose.stop("code")
    assert deployed.runs()[known][1] == "SUCCESS", "the code server did not wait for its run"
    for model, count in (("int_shop__items", 20), ("int_shop__things", 10)):
        assert deployed.rows(model)[-10:] == [*range(count - 10, count)]
        assert len(deployed.rows(model)) == len({*deployed.rows(model)}), "doubled"


def interpolated(text: str, variables: dict[str, str]) -> str:
    """`${NAME}` and `${NAME:?message}`, the two forms that the file may use."""

    def value(found: re.Match[str]) -> str:
        if not variables.get(found[1]):
            raise AssertionError(f"{found[1]} {found[2]}")
        return variables[found[1]]

    return re.sub(r"\$\{(\w+)(?::\?([^}]*))?\}", value, text)


def last_stage() -> str:
    return (REPOSITORY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
