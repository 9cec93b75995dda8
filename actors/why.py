"""What the outbox cannot know of why a task waits: how its endpoint fares, whether the mail server can be used.

`explain` is looked for under this name in `OUTBOX_APP` by `outbox tasks show`.
"""

from typing import Any
from uuid import UUID

from actors.webhooks.lanes import endpoint_of
from outbox.ledger import Conn
from outbox.reads import TaskView
from outbox.why import Why

__all__ = ["explain"]


def explain(conn: Conn, task: TaskView, why: Why) -> Why | None:
    """A nearer cause than the one that the outbox found, or None."""
    endpoint_id = endpoint_of(task.concurrency_key or task.ordering_key or "")
    if endpoint_id is not None:
        return _of_endpoint(conn, task, why, endpoint_id)
    return _of_mail(conn) if task.actor == "send_mail" and why.cause == "put_off" else None


def _of_endpoint(conn: Conn, task: TaskView, why: Why, endpoint_id: UUID) -> Why | None:
    found = _one(conn, _ENDPOINT, endpoint=endpoint_id, task=task.id)
    if found is None:
        return None
    reason, disabled_at, failures, failing_since, probe_at, slot_at, status = found
    if disabled_at is not None and (why.cause != "dead" or status == "missed"):
        return Why(
            "endpoint_disabled", f"The endpoint {endpoint_id} is disabled: {reason or 'by its owner'}.", since=disabled_at,
            mend=f'Mend the receiver, then PATCH /v1/endpoints/{endpoint_id} {{"enabled": true}}, and replay what it missed.',
        )  # fmt: skip
    if probe_at is not None and why.cause in ("lane_held", "limit_reached", "put_off"):
        return Why(
            "endpoint_failing",
            f"The endpoint {endpoint_id} failed {failures} times in a row: one delivery at a time tries it.",
            since=failing_since, until=probe_at,
            mend=f"Mend the receiver, then POST /v1/endpoints/{endpoint_id}/test: it is tried at once.",
        )  # fmt: skip
    if slot_at is not None and why.cause == "put_off":
        told = f"The endpoint {endpoint_id} takes so many a second: the delivery waits for its slot."
        return Why("rate_limited", told, since=why.since, until=slot_at)
    return None


def _of_mail(conn: Conn) -> Why | None:
    found = _one(conn, _MAIL_SERVER)
    if found is None:
        return None
    name, reason, paused_until = found
    told = f"The mail server {name} cannot be used: {reason}"
    return Why(
        "mail_server_away", told, until=paused_until, mend="See that it runs, and SMTP_URL: user, password, TLS."
    )


def _one(conn: Conn, statement: str, **values: Any) -> Any:
    rows = conn.execute(statement, values).fetchall()
    return rows[0] if rows else None


_ENDPOINT = """
select e.disabled_reason, e.disabled_at, h.failures, h.failing_since, h.probe_at,
    case when d.slot_at > clock_timestamp() then d.slot_at end, d.status
from app.endpoint e
left join app.endpoint_health h on h.endpoint_id = e.id
left join app.delivery d on d.id = %(task)s
where e.id = %(endpoint)s
"""

_MAIL_SERVER = """
select name, reason, paused_until
from app.transport
where paused_until > clock_timestamp()
order by paused_until desc
limit 1
"""
