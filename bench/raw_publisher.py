"""The relay's own publisher without a database: the rate that the relay is held against. Prints a JSON list of instants.

`python -m bench.raw_publisher`: reads the bodies of the pending tasks as the relay would claim them, without changing
them, then publishes them in batches of the relay's size with as many in flight, and notes each batch's confirm.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import islice

from outbox import database
from outbox.ledger import Due, Ledger
from outbox.publisher import Publisher
from outbox.settings import Settings
from outbox.topology import Topology, connect


def main() -> None:
    settings = Settings()
    ledger = Ledger(settings.schema_name)
    topology = Topology(prefix=settings.queue_prefix, ledger=ledger)
    with database.connect(settings.conninfo, name="bench") as conn:
        rows = ledger.claim_due(conn, room={"bench": 10_000_000}, batch=10_000_000)
    amqp = connect(settings.rabbitmq_url, name="bench")
    topology.ensure(amqp, lambda: database.connect(settings.conninfo, name="bench"), "bench")
    amqp.close()
    publisher = Publisher(settings.rabbitmq_url, topology, confirm_timeout=settings.confirm_timeout)
    publisher.start()
    if not publisher.wait_ready(10):
        raise SystemExit("the publisher found no broker")
    confirmed = publish_all(publisher, rows, batch=settings.relay_batch, in_flight=settings.relay_lanes)
    publisher.stop()
    json.dump(confirmed, sys.stdout)


def publish_all(publisher: Publisher, rows: list[Due], *, batch: int, in_flight: int) -> list[float]:
    """The instant of each row's confirm."""
    left, lock, instants = iter(rows), threading.Lock(), []

    def lane() -> None:
        while True:
            with lock:
                some = list(islice(left, batch))
            if not some:
                return
            report = publisher.publish(some).result()
            instants.extend([time.monotonic()] * len(report.confirmed))

    lanes = [threading.Thread(target=lane) for _ in range(in_flight)]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    if len(instants) != len(rows):
        raise SystemExit(f"only {len(instants)} of {len(rows)} were confirmed")
    return instants


if __name__ == "__main__":
    main()
