"""The processes as Prometheus meets them: each started by its command, each asked for its /metrics."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from prometheus_client import REGISTRY, CollectorRegistry

from deploy.local.place import ROOT
from deploy.local.ports import free_ports
from outbox.census import Census
from outbox.ledger import Conn
from service.app import create_app
from service.settings import Settings

_TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
#: Of prometheus_client itself.
_NOT_OURS = ("python_", "process_")
_PARTS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
_DRAMATIQ = Path(sys.executable).with_name("dramatiq")

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "relay": (sys.executable, "-m", "outbox.cli", "relay"),
    "worker": (sys.executable, "-m", "outbox.cli", "worker", "--threads", "2"),
    "scheduler": (sys.executable, "-m", "outbox.cli", "scheduler"),
    "dramatiq": (str(_DRAMATIQ), "actors", "--processes", "2", "--threads", "1"),
}


@contextmanager
def at_work(logs: Path, **variables: str) -> Iterator[dict[str, list[int]]]:
    """One process of each kind; the ports on which they serve, or will."""
    ports = dict(zip(COMMANDS, free_ports(len(COMMANDS)), strict=True))
    started = []
    try:
        for name, command in COMMANDS.items():
            with (logs / f"{name}.log").open("wb") as log:
                environment = {**os.environ, **variables, "OUTBOX_HEALTH_PORT": str(ports[name])}
                started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
        yield ports
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def metrics_at(port: int) -> str:
    """What is served there; "" while nothing is."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def names_in(text: str) -> dict[str, str]:
    """{name: type} of what is exposed, without the times of creation."""
    return {
        name: kind
        for name, kind in _TYPE.findall(text)
        if not name.startswith(_NOT_OURS) and not name.endswith("_created")
    }


def of_the_api(database_url: str) -> str:
    return str(TestClient(create_app(Settings(database_url=database_url))).get("/metrics").text)


def labels_of(name: str) -> set[str]:
    """The labels that the code gives to this metric, whatever process it is of."""
    return _labels()[name.removesuffix("_total")]


@cache
def _labels() -> dict[str, set[str]]:
    for module in ("actors", "outbox.relay", "outbox.scheduler", "outbox.station"):
        import_module(module)
    api: CollectorRegistry = create_app(Settings()).state.registry
    registered: list[Any] = [*REGISTRY._collector_to_names, *api._collector_to_names]
    families: list[Any] = list(Census("outbox", no_connection).describe())
    families += [family for each in registered if hasattr(each, "describe") for family in each.describe()]
    named = {each.name: set(getattr(each, "_labelnames", ())) for each in families}
    return named | {each._name: set(each._labelnames) for each in registered if hasattr(each, "_labelnames")}


def no_connection() -> Conn:
    raise AssertionError


def series_of(names: Mapping[str, str]) -> dict[str, str]:
    """{series: metric}: of a histogram the three that Prometheus makes of it."""
    return {name + part: name for name, kind in names.items() for part in _PARTS[kind]}
