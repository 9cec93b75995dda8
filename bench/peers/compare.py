"""`peers`: ours and every peer, interleaved: drain, latency at a pace, enqueue in a unit of work, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console

from bench import tasks
from bench.apps import stamp
from bench.cores import Meter, resident_tree
from bench.figures import Report, Series, quantile, rate
from bench.ground import Field, Ground
from bench.peers.catalogue import DRAMATIQ, OURS, SYSTEMS, System
from bench.peers.environment import version
from bench.peers.running import Running, running
from bench.peers.survival import durability, first_line
from bench.pictures import Axis, chart, decades, linear
from bench.waiting import until
from deploy.local.child import Child

PACE, WARM_UP = 50, 100
FINISHED_AT = """
select extract(epoch from finished_at)::float8
from outbox.history
where state = 'succeeded'
order by finished_at desc
limit %s
"""


@dataclass
class Measured:
    """One system in one round. `curve`: tasks done at each tenth of a second after its processes were started."""

    latencies: list[float] = field(default_factory=list)
    rate: float = 0.0
    curve: list[tuple[float, int]] = field(default_factory=list)
    alone: float = 0.0
    with_task: float = 0.0
    memory: float = 0.0
    processor: str = ""

    def latency(self, share: float) -> float:
        """Milliseconds."""
        return quantile(self.latencies, share) * 1000

    def summary(self) -> str:
        quantiles = " / ".join(f"{self.latency(share):.1f}" for share in (0.5, 0.95, 0.99))
        enqueue = f"{self.with_task:.0f}/s of {self.alone:.0f}/s"
        return f"{self.rate:,.0f}/s, p50/p95/p99 {quantiles} ms, enqueue {enqueue}, {self.memory:.0f} MiB"


def one_round(ground: Ground, system: System, *, quick: bool) -> Measured:
    """RuntimeError, with the reason, when the system does not do what is asked of it in time."""
    measured = Measured()
    with running(ground, system) as peer:
        workers = peer.start()
        peer.preflight()
        measured.latencies = _latencies(peer, PACE * (6 if quick else 20))
        peer.stop(workers)
        _drain(ground, peer, system.drain // (4 if quick else 1), measured)
        measured.alone, measured.with_task = peer.drive("units", "1.5" if quick else "4")
    return measured


def _latencies(peer: Running, count: int) -> list[float]:
    """Seconds from the commit, or the send, to the start of each task after the first hundred."""
    before = stamp.count(peer.here.stamps)
    total = WARM_UP + count
    sent = peer.drive("pace", str(total), str(PACE))
    until(lambda: stamp.count(peer.here.stamps) >= before + total, "every task has run", here=peer.here, seconds=60)
    started = dict(stamp.read(peer.here.stamps))
    return [started[number] - at for number, at, _ in sent[WARM_UP:]]


def _drain(ground: Ground, peer: Running, count: int, measured: Measured) -> None:
    """A backlog, made while none of its processes runs."""
    here = peer.here
    peer.drive("fill", str(count))
    began = time.monotonic()
    workers = peer.start()
    meter = _meter(ground, workers)
    until(lambda: stamp.count(here.stamps) >= count // 20, "the first twentieth has run", here=here, seconds=60)
    meter.start()  # only now: what starting a process costs is no task's
    before = stamp.count(here.stamps)
    until(lambda: stamp.count(here.stamps) >= count, f"{count} tasks have run", here=here, seconds=90)
    meter.stop()
    measured.memory = sum(resident_tree(child.pid) for child in workers if child.pid)
    measured.processor = meter.per_task(max(1, count - before))
    instants = [at for _, at in stamp.read(here.stamps)]
    measured.curve = [(at - began, number) for number, at in enumerate(instants, 1)][:: max(1, count // 200)]
    measured.rate = rate(_recorded(here, count) if peer.system is OURS else instants)
    peer.stop(workers)


def _recorded(here: Field, count: int) -> list[float]:
    """The instants of our outcomes, which come after the starts that the others are judged by."""
    with here.connect() as conn:
        until(lambda: tasks.none_left(conn), "every outcome is recorded", here=here, seconds=30)
        return [at for (at,) in conn.execute(FINISHED_AT, [count])]


def _meter(ground: Ground, workers: list[Child]) -> Meter:
    servers = {"postgres": [ground.postgres.pid], "rabbitmq": [ground.rabbitmq.pid]}
    return Meter({"its processes": [child.pid for child in workers]} | servers)


Rounds = dict[str, list[Measured]]


def measure(ground: Ground, *, rounds: int, quick: bool) -> Report:
    report = Report(
        "Peers: the same task on the same servers, by turns",
        [
            f"drain: a backlog made beforehand, starts between 5 % and 95 % (ours: recorded outcomes); {_counts(quick)}",
            f"latency: commit or send → start at {PACE}/s for {6 if quick else 20} s after {WARM_UP} to warm up",
            "enqueue: units a second with one domain row and the task / with the row alone, one SQLAlchemy session each",
            "memory: resident, all its processes, after the drain; what forked processes share counts in each",
            *(f"{system.name}{_version(system)}: {system.settings} ({system.source})" for system in SYSTEMS),
            *durability(),
        ],
    )
    done: Rounds = {system.name: [] for system in SYSTEMS}
    absent: set[str] = set()
    progress = Console(stderr=True)
    rounds = 1 if quick else rounds
    for number in range(1, rounds + 1):
        for system in (each for each in SYSTEMS if each.name not in absent):
            try:
                done[system.name].append(one_round(ground, system, quick=quick))
            except RuntimeError as error:
                absent.add(system.name)
                report.notes.append(f"{system.name} is not measured from round {number} on: {first_line(error)}")
                progress.print(f"  {number}/{rounds} {system.name}: {first_line(error)}", style="red")
                continue
            progress.print(f"  {number}/{rounds} {system.name}: {done[system.name][-1].summary()}", style="dim")
    if not done[OURS.name]:
        raise RuntimeError("\n".join(report.notes))
    report.series = series(done)
    report.notes += [f"{name}: {each[-1].processor}" for name, each in done.items() if each]
    report.pictures = _pictures(done)
    return report


def series(done: Rounds) -> list[Series]:
    """Of what has been measured; a peer that is missing has no values, and so no verdict."""
    return [*_drains(done), *_latencies_of(done), *_enqueues(done), *_memory(done)]


def _counts(quick: bool) -> str:
    return ", ".join(f"{system.name} {system.drain // (4 if quick else 1)}" for system in SYSTEMS)


def _version(system: System) -> str:
    return f" {version(system.package)}" if system.package else ""


def _drains(done: Rounds) -> list[Series]:
    rates = {name: Series(f"drain {name}", "/s", [each.rate for each in rounds]) for name, rounds in done.items()}
    return [*rates.values(), *(_ahead(rates, peer) for peer in SYSTEMS if peer is not OURS)]


def _ahead(rates: dict[str, Series], peer: System) -> Series:
    """Ours against a peer, over the rounds that both have."""
    pairs = zip(rates[OURS.name].values, rates[peer.name].values, strict=False)
    return Series(f"drain outbox / {peer.name}", "×", [a / b for a, b in pairs], at_least=peer.at_least)


def _latencies_of(done: Rounds) -> list[Series]:
    found = {
        (name, share): Series(f"latency {name} {label}", "ms", [each.latency(share) for each in rounds])
        for name, rounds in done.items()
        for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    ours, plain = done[OURS.name], done[DRAMATIQ.name]
    pairs = list(zip(ours, plain, strict=False))
    beyond = [a.latency(0.5) - b.latency(0.5) for a, b in pairs]
    times = [a.latency(0.99) / b.latency(0.99) for a, b in pairs]
    return [
        *found.values(),
        Series("latency p50 outbox - Dramatiq", "ms", beyond, at_most=4),
        Series("latency p99 outbox / Dramatiq", "×", times, at_most=2),
    ]


def _enqueues(done: Rounds) -> list[Series]:
    shares = {name: [each.with_task / each.alone for each in rounds] for name, rounds in done.items()}
    return [
        Series(f"enqueue {name} / row alone", "×", values, at_least=0.9 if name == OURS.name else None)
        for name, values in shares.items()
    ]


def _memory(done: Rounds) -> list[Series]:
    return [Series(f"memory {name}", "MiB", [each.memory for each in rounds]) for name, rounds in done.items()]


def _pictures(done: Rounds) -> dict[str, str]:
    """File name: SVG. The last round's drains, and the latencies of all rounds."""
    there = {name: rounds for name, rounds in done.items() if rounds}
    curves = {name: rounds[-1].curve for name, rounds in there.items()}
    latencies = {name: sorted(at * 1000 for each in rounds for at in each.latencies) for name, rounds in there.items()}
    slowest = max(at for curve in curves.values() for at, _ in curve)
    most = max(number for curve in curves.values() for _, number in curve)
    least, longest = (pick(pick(each) for each in latencies.values()) for pick in (min, max))
    return {
        "drain.svg": chart(
            "Drain: tasks started since the processes were",
            curves,
            linear("seconds since start", slowest),
            linear("tasks", most),
        ),
        "latency.svg": chart(
            f"Latency at {PACE}/s: share of tasks started within",
            {name: _distribution(values) for name, values in latencies.items()},
            decades("milliseconds after commit or send", max(least, 0.1), longest),
            Axis("share of tasks", 0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]),
        ),
    }


def _distribution(ordered: list[float]) -> list[tuple[float, float]]:
    shares = [(value, number / len(ordered)) for number, value in enumerate(ordered, 1)]
    return [*shares[:: max(1, len(shares) // 200)], shares[-1]]
