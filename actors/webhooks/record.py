"""What an attempt met: a line of its own, and the delivery's last word, in one statement."""

from uuid import UUID

from sqlalchemy import exists, or_, select, text, update
from sqlalchemy.orm import Session

from actors.database import ledger
from actors.tables import Delivery, Endpoint, Payload
from actors.text import storable
from actors.webhooks.delivery import Answered, Unreachable
from actors.webhooks.outcomes import Delivered, Gone, Outcome, Refused, Retry, Ruling
from outbox import Run, Task

_STATUS: dict[type[Outcome], str] = {Delivered: "delivered", Retry: "failing", Refused: "refused", Gone: "refused"}
_RULING: dict[type[Outcome], Ruling] = {
    Delivered: Ruling.DELIVERED,
    Retry: Ruling.RETRY,
    Refused: Ruling.REFUSED,
    Gone: Ruling.GONE,
}

# Whole, and not put together for each attempt: that took a third of a delivery's time.
_RECORD = text("""
with changed as (
    update app.delivery
    set status = :status, attempts = attempts + 1, attempted_at = clock_timestamp(),
        delivered_at = case when :arrived then clock_timestamp() end,
        phase = :phase, duration = :duration, reason = :reason, status_code = :status_code, excerpt = :excerpt, slot_at = null
    where id = :id and (:arrived or status <> 'delivered')
    returning id, attempts, attempted_at, phase, status_code, reason, excerpt, duration
)
insert into app.delivery_attempt (delivery_id, number, at, outcome, phase, status_code, reason, excerpt, duration)
select id, attempts, attempted_at, :outcome, phase, status_code, reason, excerpt, duration
from changed
returning number
""")


def is_overtaken(session: Session, run: Run) -> bool:
    """Whether the run was given up and its task belongs to another: what it met then counts for nothing (I3)."""
    ours = select(exists().where(Task.id == run.task_id, Task.run_id == run.run_id))
    options = {"schema_translate_map": {"outbox": ledger().schema}}
    return not session.scalars(ours, execution_options=options).one()


def record(
    session: Session, delivery_id: UUID, answer: Answered | Unreachable, outcome: Outcome, *, last: bool = False
) -> int | None:
    """Keep the attempt as evidence. `last`: no other follows, so a retry stands as failed.

    Answers its number; None if the delivery was deleted meanwhile, with its endpoint, or is delivered, which no failure
    takes back: then nothing is kept.
    """
    answered = answer if isinstance(answer, Answered) else None
    told = {
        "id": delivery_id,
        "status": "failed" if last and isinstance(outcome, Retry) else _STATUS[type(outcome)],
        "arrived": isinstance(outcome, Delivered),
        "outcome": _RULING[type(outcome)].value,
        "phase": answer.phase,
        "duration": answer.duration,
        "reason": storable(outcome.reason, octets=1000),
        "status_code": answered.status if answered else None,
        "excerpt": answered.excerpt if answered else None,
    }
    number: int | None = session.execute(_RECORD, told).scalar_one_or_none()
    return number


def close(session: Session, delivery_id: UUID, *, status: str, reason: str) -> None:
    """The delivery ends without an attempt: `missed`, for its endpoint is disabled, or `failed`."""
    if status == "missed":
        _note_missed(session, delivery_id)
    ended = update(Delivery).where(Delivery.id == delivery_id).where(Delivery.status != "delivered")
    session.execute(
        ended.values(status=status, reason=storable(reason, octets=1000)),
        execution_options={"synchronize_session": False},
    )


def close_abandoned(session: Session) -> int:
    """What waits for an attempt that no task will make, for it was cancelled or died, has failed. Answers how many."""
    abandoned = (
        update(Delivery)
        .where(Delivery.status != "delivered", Delivery.status.in_(("queued", "failing")))  # the first: of the index
        .where(~exists().where(Task.id == Delivery.id))
        .values(status="failed", reason="its task ended without a further attempt: it was cancelled, or died")
        .returning(Delivery.id)
    )
    options = {"synchronize_session": False, "schema_translate_map": {"outbox": ledger().schema}}
    return len(session.scalars(abandoned, execution_options=options).all())


def _note_missed(session: Session, delivery_id: UUID) -> None:
    """What waited for an endpoint when it was disabled is older than that: a replay must begin with it."""
    of_it = select(Delivery.endpoint_id, Payload.created_at).join(Delivery.payload).where(Delivery.id == delivery_id)
    event = of_it.subquery()
    later = or_(Endpoint.missed_since.is_(None), Endpoint.missed_since > event.c.created_at)
    session.execute(
        update(Endpoint).where(Endpoint.id == event.c.endpoint_id, later).values(missed_since=event.c.created_at),
        execution_options={"synchronize_session": False},
    )
