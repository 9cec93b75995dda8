"""An event on its way to those who subscribed: one task a delivery, with one body for all of them."""

import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import dramatiq
from dramatiq.errors import Retry as TryAgain
from sqlalchemy import ARRAY, Text, cast, select
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from actors import outside
from actors.database import transaction
from actors.secrets import SecretKeyMissing, Unreadable
from actors.tables import Delivery, Endpoint, Payload
from actors.webhooks import endpoints, health, metrics, notices, rate
from actors.webhooks.delivery import Answered, Unreachable
from actors.webhooks.event_types import check_name, matching_patterns
from actors.webhooks.lanes import lane_of
from actors.webhooks.letter import Letter, opened
from actors.webhooks.outcomes import Delivered, Gone, Refused, Retry, judge
from actors.webhooks.record import is_overtaken, record
from actors.webhooks.schedule import next_wait
from actors.webhooks.wire import Exhausted
from outbox import Permanent, Snooze, Task, current_run, enqueue, tracing

TEST_EVENT = "webhook.test"

#: What says nothing about the endpoint, and uses up no attempt: there was none.
_OUR_TROUBLE = (SecretKeyMissing, Unreadable, Exhausted)
_UNTIL_MENDED = timedelta(minutes=1)

_draw = random.Random()  # noqa: S311  a jitter is no secret


class DeliveryFailed(TryAgain):
    """No answer, or one that asks for another attempt: a failure, tried again when its `delay` is over."""


def fan_out(session: Session, *, event_id: UUID, event_type: str, content: bytes, occurred_at: datetime) -> list[Task]:
    """One delivery to each enabled endpoint that subscribed to the event's type, in the session's transaction.

    `content` is the event's JSON; it goes out as it is, inside `{"type", "timestamp", "data"}`. The body is kept even if
    nobody gets it now: an endpoint that comes later, or was disabled, can ask for it.
    """
    check_name(event_type)
    subscribed = (
        select(Endpoint)
        .where(Endpoint.enabled)
        .where(Endpoint.event_types.overlap(cast(matching_patterns(event_type), ARRAY(Text))))
        .order_by(Endpoint.id)
        .with_for_update(read=True, key_share=True)  # else one that is deleted now would break the event's transaction
    )
    with session.no_autoflush:
        found = session.scalars(subscribed).all()
    payload = Payload(
        event_id=event_id, event_type=event_type, body=body_of(event_type, content, occurred_at=occurred_at)
    )
    session.add(payload)
    return _deliver(session, payload, found)


def send_test(session: Session, endpoint: Endpoint) -> Task:
    """One delivery of a `webhook.test` event, whatever the endpoint subscribed to. An open circuit is tried at once."""
    health.try_now(session, endpoint.id)
    content = json.dumps({"endpoint_id": str(endpoint.id)}).encode()
    payload = Payload(
        event_id=uuid7(), event_type=TEST_EVENT, body=body_of(TEST_EVENT, content, occurred_at=datetime.now(UTC))
    )
    (task,) = _deliver(session, payload, [endpoint])
    return task


def body_of(event_type: str, content: bytes, *, occurred_at: datetime) -> bytes:
    """The body of an event's webhooks. The caller's JSON stays as it was written: numbers, spaces and order of keys."""
    timestamp = occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return b'{"type":"%b","timestamp":"%b","data":%b}' % (event_type.encode(), timestamp.encode(), content)


def _deliver(session: Session, payload: Payload, to: Iterable[Endpoint]) -> list[Task]:
    tasks = []
    for endpoint in to:
        delivery = Delivery(id=uuid7(), endpoint=endpoint, payload=payload, event_type=payload.event_type)
        session.add(delivery)
        message = deliver_webhook.message(str(delivery.id))
        tasks.append(enqueue(session, message, task_id=delivery.id, **lane_of(endpoint)))
    return tasks


def _goes_on(failures: int, error: BaseException) -> bool:
    """A delivery goes on as long as its schedule says; whatever else breaks is tried again eighteen times."""
    return isinstance(error, DeliveryFailed) or failures < 18


@dramatiq.actor(
    queue_name="webhooks", retry_when=_goes_on, min_backoff=5_000, max_backoff=20 * 3_600_000, time_limit=5 * 60_000
)
def deliver_webhook(delivery_id: str) -> None:
    """One signed POST to one endpoint. What came of it is kept with the delivery, whatever it was."""
    try:
        letter = opened(UUID(delivery_id))
        if letter is None:
            return
        probing = _takes_its_turn(letter)
        answer = _answered(letter)
    except _OUR_TROUBLE as trouble:
        raise Snooze(_UNTIL_MENDED, f"trouble of our own: {trouble}") from trouble
    outcome = judge(answer, now=datetime.now(UTC), other_4xx=letter.other_4xx)
    metrics.count(outcome)
    if not isinstance(outcome, Delivered):
        raise _failed(letter, answer, outcome, probing=probing)
    session = current_run().session()
    if letter.troubled:
        health.note_success(session, letter.endpoint_id)
    record(session, letter.delivery_id, answer, outcome)


def _answered(letter: Letter) -> Answered | Unreachable:
    """One request, in a span of its own. Path and query may be secrets, and the endpoint is told of no trace: it is not ours."""
    url = letter.url
    about = {
        "http.request.method": "POST",
        "url.scheme": url.scheme,
        "server.address": url.host,
        "server.port": url.port,
    }
    with tracing.call("POST", about) as says:
        answer = outside.courier().post(url, headers=letter.signed(at=datetime.now(UTC)), body=letter.body)
        if isinstance(answer, Unreachable):
            says({"webhook.phase": answer.phase.value}, answer.phase.value)
        else:
            says({"http.response.status_code": answer.status}, str(answer.status) if answer.status >= 400 else None)
    return answer


def _takes_its_turn(letter: Letter) -> bool:
    """Snooze until the endpoint's circuit closes, or until the delivery's slot. Answers whether it tries an open circuit."""
    if letter.probe is not None and letter.probe > timedelta():
        raise Snooze(letter.probe, "the endpoint keeps failing: its circuit is open")
    if letter.rate_per_second is not None:
        wait = letter.slot
        if wait is None or wait < -rate.LATE:
            with transaction() as session:
                wait = rate.reserve(session, letter.endpoint_id, letter.delivery_id, per_second=letter.rate_per_second)
        if wait > timedelta():
            raise Snooze(min(wait, rate.LONGEST_WAIT), "the endpoint's rate: waits for its slot")
    if letter.probe is None:
        return False
    deadline = outside.settings().webhook_deadline
    with transaction() as session:
        if not health.may_probe(session, letter.endpoint_id, deadline=deadline):
            raise Snooze(deadline, "the endpoint keeps failing: another delivery tries it just now")
    return True


def _failed(
    letter: Letter, answer: Answered | Unreachable, outcome: Refused | Gone | Retry, *, probing: bool
) -> Exception:
    """The attempt on record, and what it means for the endpoint and for the task."""
    run = current_run()
    failures = run.failures
    with transaction() as session:
        if not is_overtaken(session, run):
            _tell_endpoint(session, letter, answer, outcome, probing=probing)
            record(session, letter.delivery_id, answer, outcome, last=failures >= len(letter.schedule))
    if not isinstance(outcome, Retry):
        return Permanent(outcome.reason)
    wait = next_wait(letter.schedule, failures=failures, retry_after=outcome.wait, draw=_draw)
    if wait is None:
        return Permanent(f"{outcome.reason}; the last attempt of its schedule")
    return DeliveryFailed(outcome.reason, delay=int(wait.total_seconds() * 1000))


def _tell_endpoint(
    session: Session, letter: Letter, answer: Answered | Unreachable, outcome: Refused | Gone | Retry, *, probing: bool
) -> None:
    """Its health, and whether it is disabled. Before the delivery's row is changed."""
    slow = answer.duration >= min(health.SLOW, outside.settings().webhook_deadline / 2)
    if letter.ailing:
        endpoints.lock(session, letter.endpoint_id)
    of_it, at = letter.endpoint_id, str(letter.url)
    if isinstance(outcome, Gone):
        notices.disable(session, of_it, url=at, reason=outcome.reason)
    elif health.note_failure(session, of_it, outcome, url=at, slow=slow, probing=probing, draw=_draw) and letter.ailing:
        notices.disable(session, of_it, url=at, reason=f"failing for more than five days: {outcome.reason}")
