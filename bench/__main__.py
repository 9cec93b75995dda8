"""`python -m bench [MEASUREMENT…] [--quick] [--rounds N] [--json FILE] [--pictures DIR]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rich.console import Console

from bench.cores import Meter
from bench.figures import Report
from bench.ground import ground
from bench.show import show

#: Name on the command line: module with `measure`.
MEASUREMENTS = {
    "relay": "drain",
    "e2e": "e2e",
    "latency": "latency",
    "http": "http",
    "enqueue": "enqueue",
    "backlog": "backlog",
    "history": "history",
    "memory": "memory",
    "statements": "statements",
    "deliveries": "deliveries",
    "mails": "mails",
    "fairness": "fairness",
    "firstbyte": "firstbyte",
    "soak": "soak",
    "scaling": "scaling",
    "dashboard": "dashboard",
    "peers": "peers.compare",
    "survival": "peers.survival",
}


#: Measured only when it is asked for by name: it lasts as long as it is told to.
SOAK = "soak"


def main(words: list[str]) -> int:
    """0: every target is met; 1: one is missed or could not be measured."""
    asked = _parser().parse_args(words)
    out, err = Console(), Console(stderr=True)
    reports: dict[str, Report] = {}
    failed = False
    with ground() as here:
        for name in asked.what or [name for name in MEASUREMENTS if name != SOAK]:
            began = time.monotonic()
            err.print(f"[dim]{name} …[/]")
            meter = Meter({"bench": [os.getpid()]})
            meter.start()
            try:
                more = {"minutes": asked.minutes} if name == SOAK else {}
                reports[name] = _measure(name)(here, rounds=asked.rounds, quick=asked.quick, **more)
            except RuntimeError as error:
                err.print(f"[red]{name} could not be measured:[/] {error}", markup=True)
                failed = True
                continue
            meter.stop()
            reports[name].notes.append(meter.disturbance())
            show(reports[name], out, took=time.monotonic() - began)
            if asked.pictures:
                _draw(reports[name], asked.pictures)
    if asked.json:
        asked.json.write_text(json.dumps(_document(reports, quick=asked.quick), indent=1) + "\n")
    missed = [each.name for report in reports.values() for each in report.series if each.met is False]
    if missed:
        err.print(f"targets missed: {', '.join(missed)}")
    return int(failed or bool(missed))


def _measure(name: str) -> Callable[..., Report]:
    measure: Callable[..., Report] = import_module(f"bench.{MEASUREMENTS[name]}").measure
    return measure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[[], *MEASUREMENTS], help=f"default: all but {SOAK}")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter; the figures are rougher")
    parser.add_argument("--rounds", type=int, default=3, help="of each compared system, interleaved (default 3)")
    parser.add_argument("--minutes", type=int, default=30, help=f"that {SOAK} lasts (default 30; with --quick 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write what can be drawn there, as SVG")
    return parser


def _draw(report: Report, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, svg in report.pictures.items():
        (directory / name).write_text(svg)


def _document(reports: dict[str, Report], *, quick: bool) -> dict[str, object]:
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    return {"machine": machine, "quick": quick, "figures": {name: each.asdict() for name, each in reports.items()}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
