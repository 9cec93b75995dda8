"""Every night, what is past its retention goes: the outbox's own, then what the actors kept about tasks that ended.

Nothing goes that a task may still need: one that is unfinished, dead within its retention, or cancelled and still to
be had back. Whatever interrupts a night's work, the next one takes it up.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import dramatiq
from periodiq import cron
from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from actors import outside
from actors.database import ledger, transaction
from actors.mail.records import close_ended
from actors.tables import Delivery, EndpointSecret, Mail, MailEvent, Payload, Receipt, Replay, Suppression
from actors.webhooks.record import close_abandoned
from outbox import OutboxBroker, Task, purge
from outbox.logs import get_logger
from outbox.models import dead, history

__all__ = ["purge_outbox", "purge_sent"]

log = get_logger("actors.housekeeping")

#: Rows that one transaction looks at.
_PAGE = 1000


@dramatiq.actor(
    queue_name="heavy",
    periodic=cron("17 3 * * *"),  # type: ignore[no-untyped-call]
    missed="last",
    max_retries=5,
    min_backoff=60_000,
    time_limit=25 * 60_000,
)
def purge_outbox() -> None:
    """As `outbox purge`: days of the history, dead tasks, the audit. No outcome waits for it longer than a second."""
    broker = cast(OutboxBroker, dramatiq.get_broker())
    history_kept, dead_kept = timedelta(days=broker.settings.history_days), timedelta(days=broker.settings.dead_days)
    with broker.connect("housekeeping") as conn:
        plan = purge.look(conn, ledger(), history=history_kept, dead=dead_kept)
        for step in purge.purge(conn, ledger(), plan):
            log.info("purged", what=step.what, name=step.name, outcome=step.outcome, rows=step.rows)


@dramatiq.actor(
    queue_name="heavy",
    periodic=cron("47 3 * * *"),  # type: ignore[no-untyped-call]
    missed="last",
    max_retries=5,
    min_backoff=60_000,
    time_limit=25 * 60_000,
)
def purge_sent() -> None:
    """Mails and what was told of them, deliveries with their attempts, their bodies, replays, receipts, each after its own
    time; and secrets and suppressions that have expired. Mails and deliveries whose tasks died or expired say so."""
    now, kept = datetime.now(UTC), outside.settings()
    receipts, mails = now - timedelta(days=kept.receipt_days), now - timedelta(days=kept.mail_days)
    webhooks = now - timedelta(days=kept.webhook_days)
    last_heard_of_mail = func.greatest(Mail.created_at, Mail.send_at, Mail.reply_at)
    last_heard_of_delivery = func.greatest(Delivery.created_at, Delivery.attempted_at)
    unused = ~exists().where(Delivery.event_id == Payload.event_id)
    gone = {
        "receipts": _purge(
            Receipt.order_id, Receipt.rendered_at, receipts, or_(Receipt.mail_id.is_(None), _ended(Receipt.mail_id))
        ),
        "mails": _purge(Mail.id, last_heard_of_mail, mails, _ended(Mail.id)),
        "deliveries": _purge(Delivery.id, last_heard_of_delivery, webhooks, _ended(Delivery.id)),
        "payloads": _purge(Payload.event_id, Payload.created_at, webhooks, unused),
        "replays": _purge(Replay.id, Replay.ended_at, webhooks, Replay.status != "running"),
        "mail_events": _purge_expired(MailEvent.id, MailEvent.at < mails),
        "suppressions": _purge_expired(Suppression.recipient, Suppression.expires_at < func.clock_timestamp()),
        "secrets": _purge_expired(EndpointSecret.id, EndpointSecret.expires_at < func.clock_timestamp()),
    }
    log.info("purged", **gone)
    with transaction() as session:
        log.info("mails closed", **close_ended(session))
    with transaction() as session:
        log.info("deliveries closed", failed=close_abandoned(session))


def _ended(task_id: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether the task of this id has ended, and no operator can have it back. That is for ever."""
    # A subquery with a limit stays one, and asks an index: as an anti-join it might read the whole history.
    cancelled = select(history.c.id).where(history.c.id == task_id).where(history.c.state == "cancelled").limit(1)
    return and_(
        ~exists().where(Task.id == task_id),
        ~exists().where(dead.c.id == task_id),
        cancelled.scalar_subquery().is_(None),
    )


def _purge(key: InstrumentedAttribute[UUID], last_heard: Any, before: datetime, over: ColumnElement[bool]) -> int:
    """Delete what was last heard of before this instant, if it is over. Answers how many rows went.

    A page a transaction, which waits for nobody's lock. Keys are UUIDv7: what is old comes first, and only that is read.
    """
    gone, after = 0, UUID(int=0)
    old = select(key).where(key < _first_id_of(before)).where(last_heard < before).order_by(key).limit(_PAGE)
    while True:
        with transaction() as session:
            page = session.scalars(old.where(key > after).with_for_update(skip_locked=True)).all()
            gone += _delete(session, key, key.in_(page) & over)
        if len(page) < _PAGE:
            return gone
        after = page[-1]


def _purge_expired(key: InstrumentedAttribute[Any], over: ColumnElement[bool]) -> int:
    """Delete what counts no more, whatever its age. Answers how many rows went."""
    gone, page = 0, select(key).where(over).limit(_PAGE).with_for_update(skip_locked=True)
    while True:
        with transaction() as session:
            found = session.scalars(page).all()
            gone += _delete(session, key, key.in_(found) & over)
        if len(found) < _PAGE:
            return gone


def _delete(session: Session, key: InstrumentedAttribute[Any], which: ColumnElement[bool]) -> int:
    options = {"synchronize_session": False, "schema_translate_map": {"outbox": ledger().schema}}
    deleted = session.execute(delete(key.class_).where(which).returning(key), execution_options=options)
    return len(deleted.all())


def _first_id_of(instant: datetime) -> UUID:
    """The smallest UUIDv7 of this millisecond."""
    return UUID(int=int(instant.timestamp() * 1000) << 80)
