"""`enqueue`: a SQLAlchemy unit of work with a domain row and its tasks, against the same with the domain row alone."""

from __future__ import annotations

import json

from bench.figures import Report, Series, ratio
from bench.ground import Field, Ground
from bench.units import TASKS

WAYS = {"sync": "Session", "async": "AsyncSession"}
TABLE = "create table bench_user (id bigserial primary key, email text not null, name text not null)"


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    count = 300 if quick else 1500
    rates = {f"{way} {tasks}": Series(f"{name}, {_of(tasks)}", "/s") for way, name in WAYS.items() for tasks in TASKS}
    costs = {kind: Series(f"{each.name}: processor", "µs") for kind, each in rates.items()}
    for _ in range(rounds):
        with ground.round() as here:
            for kind, (wall, processor) in _units(here, count).items():
                rates[kind].values.append(count / wall)
                costs[kind].values.append(processor / count * 1e6)
    ratios = [
        ratio(f"{name}: {_of(tasks)} / alone", rates[f"{way} {tasks}"], rates[f"{way} 0"], at_least=least)
        for way, name in WAYS.items()
        for tasks, least in ((1, 0.9), (10, None))
    ]
    return Report(
        "Enqueue: a unit of work with a domain row and its tasks",
        [
            f"{count} units of each kind, in turn, by one thread: INSERT of a row, flush, enqueue, commit",
            "processor: of the client alone, without its thread that wakes the relay; neither relay nor workers run",
        ],
        [*rates.values(), *ratios, *costs.values()],
    )


def _of(tasks: int) -> str:
    return f"row and {tasks} task{'s' if tasks > 1 else ''}" if tasks else "row alone"


def _units(here: Field, count: int) -> dict[str, tuple[float, float]]:
    with here.connect() as conn:
        conn.execute(TABLE)
    told: dict[str, tuple[float, float]] = json.loads(here.run("-m", "bench.units", str(count)))
    return told
