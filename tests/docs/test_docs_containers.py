"""deploy/kubernetes, compose.yaml and the Dockerfile, held against the processes that they start. No cluster, no engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_docs_variables import KNOWN

import actors
import actors.settings
import outbox.settings
import service.settings
from deploy.local.place import ROOT
from outbox.health import Health
from outbox.worker import LAST
from service.app import create_app

KUBERNETES = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGE = dict(re.findall(r"^ +([A-Z_]+)=(\S+?)(?: \\)?$", DOCKERFILE, re.MULTILINE))


@cache
def objects() -> list[dict[str, Any]]:
    """What is in the manifests, without the kustomizations."""
    files = [path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    return [each for path in files for each in yaml.safe_load_all(path.read_text())]


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects() if each["kind"] in kinds]


PODS = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind("Deployment", "Job")}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}
COMPOSED = {
    name: each
    for name, each in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].items()
    if "command" in each
}
COMMANDS = sorted({tuple(each["command"]) for each in [*CONTAINERS.values(), *COMPOSED.values()]})
LONG_LIVED = sorted(set(CONTAINERS) - {"outbox-migrate"})


def settings_of(name: str) -> dict[str, str]:
    """A container's plain variables: those of the image, then those of the ConfigMap."""
    (config,) = of_kind("ConfigMap")
    return IMAGE | (config["data"] if "envFrom" in CONTAINERS[name] else {})


def test_each_kustomization_names_every_file_beside_it() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        beside = {each.name for each in path.parent.glob("*.yaml")} - {path.name}
        assert set(yaml.safe_load(path.read_text())["resources"]) == beside


def test_every_variable_of_the_containers_is_a_setting() -> None:
    (config,) = of_kind("ConfigMap")
    secret = {each["name"] for container in CONTAINERS.values() for each in container["env"]}
    composed = {name for each in COMPOSED.values() for name in each["environment"]}
    assert {*config["data"], *secret, *composed} - KNOWN == set()


def test_every_secret_that_is_used_is_in_the_example_and_no_other() -> None:
    (example,) = of_kind("Secret")
    refs = [each["valueFrom"]["secretKeyRef"] for container in CONTAINERS.values() for each in container["env"]]
    assert {each["name"] for each in refs} == {example["metadata"]["name"]}
    assert {each["key"] for each in refs} == set(example["stringData"])


def test_the_settings_accept_what_the_manifests_say(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = of_kind("Secret")
    for name, value in (settings_of("outbox-worker") | example["stringData"]).items():
        monkeypatch.setenv(name, value)
    for kind in (outbox.settings.Settings, actors.settings.Settings, service.settings.Settings):
        kind()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_is_one(command: tuple[str, ...]) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = subprocess.run(
        [*command, "--help"], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("started", [CONTAINERS, COMPOSED], ids=["kubernetes", "compose"])
def test_every_queue_of_the_actors_has_workers(started: dict[str, Any]) -> None:
    commands = [each["command"] for each in started.values() if "--queues" in each["command"]]
    served = [queue for command in commands for queue in command[command.index("--queues") + 1].split(",")]
    assert sorted(served) == sorted(actors.broker.get_declared_queues())


@pytest.mark.parametrize("name", LONG_LIVED)
def test_probes_ask_what_is_served_where_it_is_served(name: str) -> None:
    container = CONTAINERS[name]
    (port,) = container["ports"]
    api = name == "outbox-api"
    assert port["containerPort"] == int(IMAGE["API_PORT" if api else "OUTBOX_HEALTH_PORT"])
    assert IMAGE["API_HOST" if api else "OUTBOX_HEALTH_HOST"] == "0.0.0.0"
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {each["port"] for each in probes} == {port["name"]}
    assert {each["path"] for each in probes} <= (_of_the_api() if api else _of_health())


def _of_the_api() -> set[str]:
    return set(create_app(service.settings.Settings()).openapi()["paths"])


def _of_health() -> set[str]:
    return set(Health("127.0.0.1", None, live=bool, ready=bool)._checks)


@pytest.mark.parametrize("name", LONG_LIVED)
def test_whoever_is_told_to_end_has_longer_than_its_grace(name: str) -> None:
    config = settings_of(name)
    grace = max(float(config["OUTBOX_SHUTDOWN_GRACE"]), float(config["API_SHUTDOWN_GRACE"]))
    assert timedelta(seconds=PODS[name]["terminationGracePeriodSeconds"]) > timedelta(seconds=grace) + LAST


@pytest.mark.parametrize("name", PODS)
def test_no_container_may_do_more_than_it_must(name: str) -> None:
    (user,) = re.findall(r"--uid (\d+)", DOCKERFILE)
    assert PODS[name]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert PODS[name]["automountServiceAccountToken"] is False
    assert CONTAINERS[name]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(CONTAINERS[name]["resources"])


def test_every_deployment_has_a_disruption_budget_of_its_own() -> None:
    budgets = {each["metadata"]["name"]: each["spec"]["selector"] for each in of_kind("PodDisruptionBudget")}
    assert budgets == {each["metadata"]["name"]: each["spec"]["selector"] for each in of_kind("Deployment")}
