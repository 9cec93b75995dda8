"""`http`: sign-ups a second with an outbox row, against BackgroundTasks and against INSERT, then send() with confirms."""

from __future__ import annotations

import json
from itertools import count

from bench.figures import Report, Series, quantile, ratio
from bench.ground import Field, Ground
from bench.waiting import until
from deploy.local.ports import free_ports, is_listening

VARIANTS = {"outbox": "outbox row", "background": "BackgroundTasks", "send": "INSERT, then send()"}
CONNECTIONS, SLICES = 8, 3
TABLE = "create table bench_user (id bigserial primary key, email text not null unique, name text not null)"


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    seconds = 1.0 if quick else 3.0
    rates = {variant: Series(name, "/s") for variant, name in VARIANTS.items()}
    middles = {variant: Series(f"{name}: p50", "ms") for variant, name in VARIANTS.items()}
    tails = {variant: Series(f"{name}: p99", "ms") for variant, name in VARIANTS.items()}
    with ground.round() as here:
        ports = _serve(here)
        prefixes = count(1)
        for number in range(rounds):
            for variant, taken in _round(here, ports, prefixes, seconds, turn=number).items():
                rates[variant].values.append(len(taken) / (SLICES * seconds))
                middles[variant].values.append(quantile(taken, 0.50) * 1000)
                tails[variant].values.append(quantile(taken, 0.99) * 1000)
    background = ratio("outbox row / BackgroundTasks", rates["outbox"], rates["background"], at_least=0.85)
    send = ratio("outbox row / INSERT, then send()", rates["outbox"], rates["send"], at_least=1.0)
    return Report(
        "Request: POST /signups, one INSERT and one task",
        [
            "FastAPI, sync route, SQLAlchemy; one uvicorn process each, all three up, one under load at a time",
            f"{CONNECTIONS} keep-alive connections; {SLICES} slices of {seconds:g} s each in every round, in turn",
            "the client runs on the same cores; neither relay nor workers run: what the request itself pays",
        ],
        [*rates.values(), background, send, *middles.values(), *tails.values()],
    )


def _serve(here: Field) -> dict[str, int]:
    """One server for each variant, warmed up. Answers its port."""
    with here.connect() as conn:
        conn.execute(TABLE)
    ports = dict(zip(VARIANTS, free_ports(len(VARIANTS)), strict=True))
    for variant, port in ports.items():
        words = [
            "-m",
            "uvicorn",
            "bench.apps.api:app",
            "--port",
            str(port),
            "--no-access-log",
            "--log-level",
            "warning",
        ]
        here.python(f"api-{variant}", *words, BENCH_VARIANT=variant)
    for variant, port in ports.items():
        until(lambda port=port: is_listening(port), f"the {variant} server answers", here=here)  # type: ignore[misc]
        _load(here, port, 1.0, f"{variant}-warm-up-")
    return ports


def _round(
    here: Field, ports: dict[str, int], prefixes: count[int], seconds: float, *, turn: int
) -> dict[str, list[float]]:
    """Seconds of every request, by variant. Each round begins with another variant."""
    order = list(ports)[turn % len(ports) :] + list(ports)[: turn % len(ports)]
    taken: dict[str, list[float]] = {variant: [] for variant in ports}
    for _ in range(SLICES):
        for variant in order:
            taken[variant] += _load(here, ports[variant], seconds, f"{variant}-{next(prefixes)}-")
    return taken


def _load(here: Field, port: int, seconds: float, prefix: str) -> list[float]:
    told = here.run("-m", "bench.http_load", str(port), str(seconds), str(CONNECTIONS), prefix)
    taken: list[float] = json.loads(told)
    return taken
