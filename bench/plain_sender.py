"""`python -m bench.plain_sender COUNT`: Dramatiq's own `actor.send()` with confirms. Prints a JSON list of instants.

With `--unconfirmed` it only fills the queue, without waiting for each confirm.
"""

from __future__ import annotations

import json
import sys
import time

from bench.apps.plain import broker, noop
from bench.tasks import arguments


def main(count: int, *, confirmed: bool) -> None:
    broker.confirm_delivery = confirmed
    instants = []
    for number in range(1, count + 1):
        args, kwargs = arguments(number)
        noop.send(*args, **kwargs)
        instants.append(time.monotonic())
    broker.close()
    json.dump(instants, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), confirmed="--unconfirmed" not in sys.argv)
