"""The lane of an endpoint: what is under way to it at once. One that hangs holds up nobody but itself."""

from typing import TypedDict
from uuid import UUID

from actors.tables import Endpoint


class Lane(TypedDict, total=False):
    """Options of `enqueue`. Every task that delivers to an endpoint has them."""

    ordering_key: str
    concurrency_key: str
    concurrency_limit: int


def lane_of(endpoint: Endpoint) -> Lane:
    """One after the other, also over retries, if the endpoint asked for that; else as many at once as it takes.

    A task keeps the lane that it was enqueued with: a change of the endpoint counts for later tasks.
    """
    if endpoint.fifo:
        return {"ordering_key": key_of(endpoint.id)}
    return {"concurrency_key": key_of(endpoint.id), "concurrency_limit": endpoint.concurrency}


def key_of(endpoint_id: UUID) -> str:
    return f"endpoint/{endpoint_id}"


def endpoint_of(key: str) -> UUID | None:
    """The endpoint whose lane has this key, or None: it is no endpoint's."""
    kind, _, id = key.partition("/")
    try:
        return UUID(id) if kind == "endpoint" else None
    except ValueError:
        return None
