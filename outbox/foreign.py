"""Messages that are not ours: what another producer put into our queue is refused, or becomes a row, as OUTBOX_FOREIGN

has it; what is no message goes aside, and so does one that has a task's fence and other words than its row. Nothing of
them is imported, unpickled or run on its own word.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import dramatiq
import psycopg
from dramatiq.errors import DecodeError
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from outbox.enqueue import row_of, task_of
from outbox.ledger import Claimed, Conn, Ledger, cleaned
from outbox.logs import get_logger
from outbox.models import Task

__all__ = ["FENCE", "Way", "adopt", "as_written", "decode", "disown", "receive", "refuse", "set_aside", "token_of"]

FOREIGN = Counter("outbox_foreign", "Messages in our queues that no relay published.", ["became"])
for _became in ("adopted", "forged", "refused", "set aside"):
    FOREIGN.labels(_became)  # from the start: the first one is an increase too

log = get_logger("outbox.foreign")

#: What becomes of a message without a fence.
Way = Literal["adopt", "refuse"]
FENCE = "outbox_fence"
#: Bytes of a body that are kept whole: as many as RabbitMQ 4 takes by default. The column's own limit is 256 MB.
KEPT = 16 * 1024 * 1024
#: A UUID as relays write it.
_WRITTEN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FIELDS = {"queue_name": str, "actor_name": str, "args": list, "kwargs": dict, "options": dict}


def decode(body: bytes) -> dramatiq.Message[Any]:
    """A well-formed Dramatiq message. DecodeError for everything that would break a worker thread later."""
    try:
        fields = json.loads(body.decode())
        for name, kind in _FIELDS.items():
            if type(fields[name]) is not kind:
                raise TypeError(f"{name} is not a {kind.__name__}")
        fields["options"].pop("throws", None)  # types, which JSON cannot say: it would end the worker's thread
        return dramatiq.Message(**{**fields, "args": tuple(fields["args"])})
    except Exception as error:
        raise DecodeError("not a Dramatiq message", body, error) from error


def token_of(message: dramatiq.Message[Any]) -> tuple[str, str] | None:
    """(task id, fence) of a message that a relay published, two UUIDs as PostgreSQL writes them; None for a foreign one."""
    try:
        return _written(message.message_id), _written(message.options[FENCE])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _written(text: str) -> str:
    """A UUID is made only of what is spelt otherwise: that takes as long as all else that is done to a message's ids."""
    return text if _WRITTEN.fullmatch(text) else str(UUID(text))


def as_written(claimed: Claimed, message: dramatiq.Message[Any], *, body: bytes) -> dramatiq.Message[Any] | None:
    """The message that the claimed row stands for; None if the one that came says anything else.

    A relay of another version may have spelt the same differently: what runs is then what the row says.
    """
    written = claimed.body.encode()
    if written == body:
        return message
    try:
        own = decode(written)
    except DecodeError:
        return None
    return own if own == message else None


def disown(
    conn: Conn, ledger: Ledger, claimed: Claimed, message: dramatiq.Message[Any], *, queue: str, body: bytes
) -> None:
    """Keep a message that has a task's fence but not its content, or came by another queue. Acknowledge it afterwards.

    Somebody has read the fence: the task, claimed by it and not started, is due again with a new one.
    """
    actor = cleaned(str(message.actor_name), limit=200)
    log.error("forged message refused", queue=queue, task_id=str(claimed.id), actor=actor, size=len(body))
    with conn.transaction():
        task = str(claimed.id)
        _keep(conn, ledger, "forged message refused", queue=queue, body=body, task=task, actor=actor)
        ledger.give_back(conn, [(claimed.id, claimed.run_id)])
    FOREIGN.labels("forged").inc()


def receive(conn: Conn, ledger: Ledger, message: dramatiq.Message[Any], *, way: Way, queue: str, body: bytes) -> bool:
    """Whether a message without a fence may have become a task. Acknowledge it only afterwards, whatever the answer."""
    if way == "refuse":
        refuse(conn, ledger, message, queue=queue, body=body)
        return False
    adopt(conn, ledger, message, queue=queue, body=body)
    return True


def refuse(conn: Conn, ledger: Ledger, message: dramatiq.Message[Any], *, queue: str, body: bytes) -> None:
    """Keep a foreign message in the audit log, and never run it: whoever can write to RabbitMQ may not run actors."""
    actor = cleaned(str(message.actor_name), limit=200)
    log.warning("foreign message refused", queue=queue, actor=actor, size=len(body))
    _keep(conn, ledger, "message refused", queue=queue, body=body, actor=actor)
    FOREIGN.labels("refused").inc()


def adopt(conn: Conn, ledger: Ledger, message: dramatiq.Message[Any], *, queue: str, body: bytes) -> None:
    """Turn a foreign message into a row; acknowledge it only afterwards. A message that was adopted before is left alone.

    What cannot be a row, because its actor does not take it for instance, goes aside.
    """
    try:
        own = UUID(str(message.message_id))
    except ValueError:
        own = uuid7()
    try:
        eta = message.options.get("eta")
        run_at = datetime.fromtimestamp(eta / 1000, UTC) if isinstance(eta, (int, float)) else None
        task = task_of(
            message.copy(queue_name=queue), task_id=own, run_at=run_at, delay=None if run_at else timedelta(0)
        )
        if _enqueue_unless_finished(conn, ledger, task):
            log.info("foreign message adopted", queue=queue, task_id=str(own), actor=message.actor_name)
            FOREIGN.labels("adopted").inc()
        else:
            log.info("foreign message was adopted before, and has ended", queue=queue, task_id=str(own))
    except psycopg.errors.UniqueViolation:
        log.info("foreign message was adopted before", queue=queue, task_id=str(own))
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise
    except Exception as error:
        set_aside(conn, ledger, queue=queue, body=body, error=error)


def _enqueue_unless_finished(conn: Conn, ledger: Ledger, task: Task) -> bool:
    """The row first: one of that id that ends meanwhile is seen to have ended, whichever comes first."""
    with conn.transaction() as enqueueing:
        ledger.enqueue(conn, f"[{row_of(task)}]")
        if ledger.is_finished(conn, task.id):
            raise psycopg.Rollback(enqueueing)
        return True
    return False


def set_aside(conn: Conn, ledger: Ledger, *, queue: str, body: bytes, error: Exception) -> None:
    """Keep what cannot be run, whole, where operators look: in the audit log. It must not block the queue."""
    why = cleaned(str(error), limit=500)
    log.error("message set aside", queue=queue, error=why, size=len(body))
    _keep(conn, ledger, "message set aside", queue=queue, body=body, error=why)
    FOREIGN.labels("set aside").inc()


def _keep(conn: Conn, ledger: Ledger, action: str, *, queue: str, body: bytes, **detail: str) -> None:
    """One line of the audit. A body that no row could hold would come back for ever: of that, its beginning."""
    if len(body) > KEPT:
        detail |= {"size": str(len(body)), "sha256": hashlib.sha256(body).hexdigest()}
    content = base64.b64encode(body if len(body) <= KEPT else body[:KEPT]).decode()
    ledger.audit(conn, who="worker", action=action, subject=f"queue {queue}", **detail, body_base64=content)
