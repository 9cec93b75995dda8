"""The two servers that everything here needs: our own private ones, or those that were given to us."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.local.place import Place
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.server import GivenServer, Server, ServerFailed

__all__ = ["GivenServer", "Postgres", "RabbitMQ", "Server", "ServerFailed", "postgres_for", "rabbitmq_for"]


def postgres_for(place: Place, environment: Mapping[str, str]) -> Postgres | GivenServer:
    """A private PostgreSQL in `place`, not yet started; the given one where `DATABASE_URL` is set."""
    if url := environment.get("DATABASE_URL"):
        return GivenServer(url)
    return Postgres(place.directory / "postgres", pids=place.pids, logs=place.logs)


def rabbitmq_for(place: Place, environment: Mapping[str, str]) -> RabbitMQ | GivenServer:
    """A private RabbitMQ in `place`, not yet started; the given one where `RABBITMQ_URL` is set."""
    if url := environment.get("RABBITMQ_URL"):
        return GivenServer(url)
    return RabbitMQ(place.directory / "rabbitmq", pids=place.pids, logs=place.logs)
