"""The dashboard alone, open to whoever measures it."""

from __future__ import annotations

import os

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from starlette.requests import HTTPConnection

from outbox.dashboard import Dashboard, Visitor


async def anybody(_request: HTTPConnection) -> Visitor:
    return Visitor("bench", "admin")


app = Dashboard(
    create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"), pool_size=4),
    gate=anybody,
)
