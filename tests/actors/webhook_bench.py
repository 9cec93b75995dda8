"""Endpoints, events and deliveries of the tests, made and looked at as the actors make them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from actor_bench import Bench
from far_http import Endpoint as Far
from sqlalchemy import select, text

from actors import webhooks
from actors.tables import Delivery, DeliveryAttempt, Endpoint, EndpointHealth

AT = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


def create(bench: Bench, far: Far | None = None, *types: str, **options: object) -> tuple[Endpoint, str]:
    url = f"http://127.0.0.1:{far.port}/hook" if far else "https://hooks.example.com/"
    with bench.session() as session, session.begin():
        return webhooks.create_endpoint(session, url=url, event_types=types or ("*",), **options)  # type: ignore[arg-type]


def fan_out(bench: Bench, event_type: str = "order.placed", content: bytes = b'{"b": 1, "a": 1.0}') -> list[UUID]:
    with bench.session() as session, session.begin():
        tasks = webhooks.fan_out(session, event_id=uuid4(), event_type=event_type, content=content, occurred_at=AT)
    return [task.id for task in tasks]


def stored(bench: Bench, delivery_id: UUID) -> Delivery:
    with bench.session() as session:
        return session.get_one(Delivery, delivery_id)


def attempts(bench: Bench, delivery_id: UUID) -> list[DeliveryAttempt]:
    with bench.session() as session:
        of_it = select(DeliveryAttempt).where(DeliveryAttempt.delivery_id == delivery_id)
        return list(session.scalars(of_it.order_by(DeliveryAttempt.number)))


def endpoint_of(bench: Bench, endpoint_id: UUID) -> Endpoint:
    with bench.session() as session:
        return session.get_one(Endpoint, endpoint_id)


def health_of(bench: Bench, endpoint_id: UUID) -> EndpointHealth | None:
    with bench.session() as session:
        return session.get(EndpointHealth, endpoint_id)


def change(bench: Bench, statement: str, **values: object) -> None:
    """What time or another process would have done to the rows."""
    with bench.engine.begin() as connection:
        connection.execute(text(statement), values)


def held(bench: Bench) -> list[tuple[str, int | None]]:
    """The lanes that are held, each with its places."""
    with bench.engine.connect() as connection:
        rows = connection.execute(text("select name, places from outbox.lane order by name"))
        return [(row.name, row.places) for row in rows]


def at_once(acts: Sequence[Callable[[], None]]) -> list[BaseException | None]:
    """What each act raised, all of them begun together in threads of their own."""
    raised: list[BaseException | None] = [None] * len(acts)
    ready = threading.Barrier(len(acts))

    def run(number: int) -> None:
        ready.wait(30)
        try:
            acts[number]()
        except Exception as error:
            raised[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised
