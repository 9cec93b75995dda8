"""An application whose scheduler the tests kill: many schedules, each missed fire runs."""

from __future__ import annotations

import dramatiq
from periodiq import cron

from outbox import OutboxBroker

NAMES = [f"tick_{number:02}" for number in range(40)]

broker = OutboxBroker()
dramatiq.set_broker(broker)

for name in NAMES:
    dramatiq.actor(lambda: None, actor_name=name, periodic=cron("* * * * *"), missed="all", missed_limit=10_000)
