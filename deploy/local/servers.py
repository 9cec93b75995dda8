"""The two servers that everything here needs: our own private ones, or those that were given to us."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.local.place import ROOT, Place
from deploy.local.postgres import Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.server import GivenServer, Server, ServerFailed, remembered

__all__ = ["GivenServer", "Postgres", "RabbitMQ", "Server", "ServerFailed", "postgres_for", "rabbitmq_for"]


def postgres_for(
    place: Place, environment: Mapping[str, str], *, settings: Mapping[str, str | int] | None = None
) -> Postgres | GivenServer:
    """A private PostgreSQL in `place`, not yet started; the given one where `DATABASE_URL` is set."""
    url = environment.get("DATABASE_URL")
    if url and not _is_our_own(url, "postgres"):
        return GivenServer(url)
    return Postgres(place.directory / "postgres", pids=place.pids, logs=place.logs, settings=settings)


def rabbitmq_for(place: Place, environment: Mapping[str, str]) -> RabbitMQ | GivenServer:
    """A private RabbitMQ in `place`, not yet started; the given one where `RABBITMQ_URL` is set."""
    url = environment.get("RABBITMQ_URL")
    if url and not _is_our_own(url, "rabbitmq"):
        return GivenServer(url)
    return RabbitMQ(place.directory / "rabbitmq", pids=place.pids, logs=place.logs)


def _is_our_own(url: str, name: str) -> bool:
    """Whether the URL came from `.dev/env` into somebody's shell: it names the server of `make up`, running or not."""
    facts = remembered(ROOT / ".dev" / name / "server.json")
    return facts is not None and str(facts.get("password")) in url
