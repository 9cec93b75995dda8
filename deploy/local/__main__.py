"""`python -m deploy.local COMMAND`: what the make targets call."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from deploy.local.place import ROOT, Place, PlaceTaken, take
from deploy.local.server import ServerFailed
from deploy.local.signals import Signals


def main(words: list[str]) -> int:
    """Exit codes: 0 all went well, 1 it did not, 2 usage."""
    arguments = _parser().parse_args(words)
    if arguments.command == "receivers":
        return _receivers()
    try:
        return _run(arguments, take(arguments.directory.absolute()))
    except PlaceTaken as taken:
        print(f"{taken}: stop it first.", file=sys.stderr)
        return 1
    except ServerFailed as failure:
        print(failure, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The whole system on this machine.")
    parser.add_argument("--directory", type=Path, default=ROOT / ".dev", help="where everything lies (.dev)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="everything, kept alive until Ctrl-C")
    demo = commands.add_parser("demo", help="everything, with traffic and a live screen")
    demo.add_argument("--once", action="store_true", help="a fixed load, then a verdict as exit code")
    commands.add_parser("servers", help="PostgreSQL and RabbitMQ alone, until Ctrl-C")
    commands.add_parser("receivers", help="the mail sink and the webhook receiver alone")
    commands.add_parser("clean", help="deletes .dev/")
    return parser


def _run(arguments: argparse.Namespace, place: Place) -> int:
    signals = Signals()
    signals.listen()
    if arguments.command == "clean":
        return _clean(place)
    if arguments.command == "servers":
        return _servers(place, signals)
    if arguments.command == "up":
        return _up(place, signals)
    from deploy.local.demo import run_demo

    return run_demo(place, signals, once=arguments.once)


def _up(place: Place, signals: Signals) -> int:
    from deploy.local.sign_in import dashboard_link
    from deploy.local.supervisor import Interrupted, Supervisor

    began = time.monotonic()
    supervisor = Supervisor(place, tell=_tell, stopping=signals.stopping, hurried=signals.hurried)
    try:
        surroundings = supervisor.start()
        _tell(f"ready after {time.monotonic() - began:.1f} s: {surroundings.api_url} (all addresses: .dev/env)")
        _tell(f"dashboard: {dashboard_link(surroundings)}")
        while not signals.stopping():
            supervisor.tend()
            time.sleep(0.05)
    except Interrupted:
        pass
    finally:
        _tell("stopping ...")
        supervisor.stop()
    return 0


def _servers(place: Place, signals: Signals) -> int:
    from deploy.local.servers import postgres_for, rabbitmq_for
    from deploy.local.supervisor import end_orphans

    end_orphans(place)
    postgres, rabbitmq = postgres_for(place, os.environ), rabbitmq_for(place, os.environ)
    try:
        rabbitmq.launch()
        postgres.start()
        rabbitmq.start()
        print(f"export DATABASE_URL={postgres.url}\nexport RABBITMQ_URL={rabbitmq.url}", flush=True)
        while not signals.stopping():
            time.sleep(0.1)
    finally:
        rabbitmq.stop()
        postgres.stop()
    return 0


def _receivers() -> int:
    from deploy.local.receivers import serve

    directory = Path(os.environ["RECEIVERS_DIRECTORY"])
    serve(
        smtp_port=int(os.environ["RECEIVERS_SMTP_PORT"]),
        http_port=int(os.environ["RECEIVERS_HTTP_PORT"]),
        mail=directory / "mail",
        webhooks=directory / "webhooks.jsonl",
    )
    return 0


def _clean(place: Place) -> int:
    from deploy.local.supervisor import clear

    for slot in (place.directory / "test").glob("*/"):
        clear(take(slot))  # PlaceTaken while tests run there
    clear(place)
    return 0


def _tell(text: str) -> None:
    with suppress(OSError):  # a closed terminal must not keep the system from being stopped in order
        print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
