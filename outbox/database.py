"""Connections to PostgreSQL for the processes: autocommit, named, quick to notice a silent server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg

from outbox.ledger import Conn

__all__ = ["connect"]


def connect(
    conninfo: str,
    *,
    name: str,
    idle_in_transaction: timedelta | None = None,
    lock_timeout: timedelta = timedelta(seconds=30),
    **options: Any,
) -> Conn:
    """An autocommit connection; transactions are opened where they are meant.

    `idle_in_transaction` bounds how long a stalled process can keep its row locks.
    """
    settings = f"-c statement_timeout=60000 -c lock_timeout={int(lock_timeout.total_seconds() * 1000)}"
    if idle_in_transaction is not None:
        settings += f" -c idle_in_transaction_session_timeout={int(idle_in_transaction.total_seconds() * 1000)}"
    return psycopg.connect(
        conninfo,
        autocommit=True,
        connect_timeout=5,
        application_name=f"outbox {name}",
        options=settings,
        keepalives_idle=10,
        keepalives_interval=3,
        keepalives_count=3,
        tcp_user_timeout=15_000,
        **options,
    )
