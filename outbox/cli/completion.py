"""Completion of a query in the shell: its keys, the states, and the actors and queues that there are."""

from __future__ import annotations

__all__ = ["completed"]

#: Seconds that a person who pressed Tab waits for the database.
PATIENCE = 1


def completed(begun: str) -> list[str]:
    """What the last term of this text may become, each with what stands before it. Without a database: keys and states."""
    from outbox.query import KEYS, PUBLIC_STATES, last_term

    before, key, rest = last_term(begun)
    if not key:
        offered = [f"{name}." if name in ("args", "kwargs") else f"{name}:" for name in KEYS]
    elif key == "state:":
        offered = list(PUBLIC_STATES)
    else:
        offered = _named(key)
    return [f"{before}{key}{each}" for each in offered if each.startswith(rest)]


def _named(key: str) -> list[str]:
    from outbox.cli.door import settings
    from outbox.reads import Reader

    if key not in ("actor:", "queue:"):
        return []
    try:
        import psycopg

        read = settings()
        with psycopg.connect(read.conninfo, connect_timeout=PATIENCE, autocommit=True) as conn:
            return Reader(read.schema_name).offered(conn, "actor" if key == "actor:" else "queue")
    except Exception:  # whatever is wrong, a shell that completes is no place to say so
        return []
