"""A deleted endpoint is forgotten: its log page by page, then itself."""

from uuid import UUID

import dramatiq
from sqlalchemy import delete, select

from actors.database import driver_connection, ledger
from actors.tables import Delivery, Endpoint
from actors.webhooks.lanes import key_of
from outbox import current_run, enqueue, free_lane

__all__ = ["forget_endpoint"]

_PAGE = 500


@dramatiq.actor(queue_name="heavy", max_retries=20, min_backoff=1_000, max_backoff=3_600_000, time_limit=5 * 60_000)
def forget_endpoint(endpoint_id: str) -> None:
    """One page; the next one is a task of its own, which exists if and only if this one is done.

    Deliveries still under way are cancelled; with the last page go the endpoint, its secrets and its replays. Only for
    one that gets nothing any more.
    """
    session = current_run().session()
    of_it = select(Delivery.id).where(Delivery.endpoint_id == UUID(endpoint_id)).order_by(Delivery.id).limit(_PAGE)
    page = session.scalars(of_it).all()
    for delivery_id in page:
        ledger().cancel(driver_connection(session), delivery_id, reason="the endpoint was deleted")
    quietly = {"synchronize_session": False}
    session.execute(delete(Delivery).where(Delivery.id.in_(page)), execution_options=quietly)
    if len(page) == _PAGE:
        enqueue(session, forget_endpoint.message(endpoint_id))
    else:
        session.execute(delete(Endpoint).where(Endpoint.id == UUID(endpoint_id)), execution_options=quietly)
        free_lane(session, key_of(UUID(endpoint_id)))
