"""The pace of an endpoint that has one: each delivery reserves the next free slot, and goes when that has come."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

#: A slot that is over for longer counts no more: what was held up elsewhere does not come all at once.
LATE = timedelta(seconds=5)
#: For so long a delivery waits until it looks again whether its slot still stands.
LONGEST_WAIT = timedelta(minutes=15)


def reserve(session: Session, endpoint_id: UUID, delivery_id: UUID, *, per_second: float) -> timedelta:
    """The next slot is this delivery's, and kept with it. Answers how far away it is; nothing or less: it may go now.

    The slots of an endpoint lie exactly one pace apart, whoever asks, in whatever process.
    """
    pace = timedelta(seconds=1 / per_second)
    named = {"endpoint_id": endpoint_id, "delivery_id": delivery_id, "pace": pace}
    wait: timedelta | None = session.execute(_RESERVE, named).scalar_one_or_none()
    return wait or timedelta()  # without a row: it was deleted meanwhile


def begin_anew(session: Session, endpoint_id: UUID) -> None:
    """Its pace has changed, or who it is: the slots that were reserved count no more."""
    session.execute(_RESET, {"endpoint_id": endpoint_id})


_RESET = text("""
update app.endpoint_health
set next_at = null
where endpoint_id = :endpoint_id and next_at is not null
""")

_RESERVE = text("""
with taken as (
    insert into app.endpoint_health as h (endpoint_id, next_at)
    values (:endpoint_id, clock_timestamp() + :pace)
    on conflict (endpoint_id) do update
    set next_at = greatest(h.next_at, clock_timestamp()) + :pace
    returning h.next_at - :pace as slot_at
)
update app.delivery d
set slot_at = taken.slot_at
from taken
where d.id = :delivery_id
returning d.slot_at - clock_timestamp()
""")
