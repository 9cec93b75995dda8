"""`python -m bench.enqueuer COUNT`: one transaction that inserts a user and enqueues COUNT tasks."""

from __future__ import annotations

import sys

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from bench.apps.ours import broker, noop
from bench.tasks import arguments
from outbox import enqueue


def main(count: int) -> None:
    engine = create_engine(broker.settings.sqlalchemy_url)
    with Session(engine) as session:
        session.execute(text("insert into bench_user (email) values ('someone@example.com')"))
        for number in range(count):
            args, kwargs = arguments(number)
            enqueue(session, noop.message(*args, **kwargs))
        session.commit()
    engine.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]))
