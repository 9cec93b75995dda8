"""A mail on its way: sent by a task with the same id, and every reply kept as evidence."""

import time
from datetime import timedelta
from typing import Never
from uuid import UUID

import dramatiq
from dramatiq.errors import Retry
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from actors import outside
from actors.database import transaction
from actors.mail import metrics, throttle, transport_state
from actors.mail.address import parse
from actors.mail.records import (
    History,
    Letter,
    allow_one_more,
    begin_copy,
    close,
    open_letter,
    record,
    record_lost,
)
from actors.mail.replies import (
    HeldBack,
    Outcome,
    Permanent,
    Phase,
    Reply,
    Sent,
    Temporary,
    Throttled,
    TransportTrouble,
    Uncertain,
)
from actors.mail.transport_state import Probe
from actors.tables import Mail
from outbox import Permanent as Hopeless
from outbox import Run, Snooze, Task, current_run, enqueue, tracing
from outbox.outcomes import is_interruption

__all__ = ["RefusedForNow", "enqueue_mail", "send_mail"]

# Tried again for about four days, as RFC 5321 §4.5.4.1 asks.
_MOST_RETRIES = 24
_FIRST_BACKOFF = timedelta(seconds=30)
_MOST_BACKOFF = timedelta(hours=6)
# How long a mail waits that cannot be sent now: five seconds at first, then longer each time.
_TROUBLE = timedelta(seconds=5)
_TROUBLE_MOST = timedelta(minutes=10)
_THROTTLED_MOST = timedelta(days=5)
_LONGEST_SLOT = timedelta(minutes=15)
# How long a worker tries to write down that the server took a mail.
_RECEIPT_KEPT = timedelta(minutes=1)


class RefusedForNow(Retry):
    """The server refused the mail with a temporary reply: a failure, tried again with backoff, or when it said."""


def enqueue_mail(session: Session, mail: Mail) -> Task:
    """Send the mail once the session's transaction commits: at `send_at` if it has one, never after `expires_at`."""
    key, limit = throttle.lane(mail.recipient, outside.domain_limits())
    return enqueue(
        session,
        send_mail.message(str(mail.id)),
        task_id=mail.id,
        run_at=mail.send_at,
        expires_at=mail.expires_at,
        concurrency_key=key,
        concurrency_limit=limit,
    )


# The time limit leaves room for the final dot's patience, and is shorter than the half hour after which RabbitMQ takes
# a message back.
@dramatiq.actor(
    queue_name="mail",
    max_retries=_MOST_RETRIES,
    min_backoff=int(_FIRST_BACKOFF.total_seconds() * 1000),
    max_backoff=int(_MOST_BACKOFF.total_seconds() * 1000),
    time_limit=25 * 60_000,
)
def send_mail(mail_id: str) -> None:
    """One SMTP conversation. Trouble of the transport costs no attempt. Whatever dies, the server gets a mail at most
    twice, with the same bytes; a third copy is an operator's decision."""
    run, letter = current_run(), _opened(UUID(mail_id))
    if not _is_wanted(letter):
        return
    _await_the_slot(letter)
    probe = _await_the_server(letter)
    outcome = _spoken(letter, run, probe)
    metrics.count(outcome)
    if isinstance(outcome, HeldBack):
        _say_why(letter)
    elif isinstance(outcome, Sent):
        _keep_the_receipt(letter, run, outcome)
    else:
        _settle(letter, run, _aged(_of_its_sender(outcome, letter), letter), probe)


def _opened(mail_id: UUID) -> Letter:
    with transaction() as session:
        letter = open_letter(session, mail_id, server=outside.transport().server.name)
    if letter is None:
        raise Hopeless("the mail no longer exists")
    return letter


def _is_wanted(letter: Letter) -> bool:
    """Whether it is to be sent. False: it was, or its recipient wants none. Else raises what its task becomes."""
    if letter.status in ("sent", "bounced"):
        return False
    if letter.in_flight is not None:
        _settle_lost(letter, current_run())
    if letter.expired:
        _close(letter, "expired")
        raise Hopeless("the mail expired before it was sent")
    if letter.suppressed:
        _close(letter, "suppressed")
        return False
    if letter.copies >= letter.most_copies:
        _ask_for_the_operators_word(letter)
    return True


def _close(letter: Letter, status: str) -> None:
    with transaction() as session:
        close(session, letter, status)


def _ask_for_the_operators_word(letter: Letter) -> None:
    with transaction() as session:
        if not allow_one_more(session, letter):
            raise Hopeless("the mail may have arrived already, and is not sent again unless an operator retries it")


def _await_the_slot(letter: Letter) -> None:
    """Snoozes until the mail's own slot, if its domain has a rate; looks again now and then whether that still stands."""
    domain = throttle.domain_of(letter.recipient)
    limit = outside.domain_limits().get(domain)
    if limit is None or limit.interval is None or _is_paused(letter):
        return
    left = letter.until_slot
    if left is None or left > timedelta():
        with transaction() as session:
            if left is None or not throttle.stands(session, letter.id, domain, limit.interval):
                left = throttle.reserve(session, letter.id, domain, limit.interval)
    if left > timedelta():
        raise Snooze(min(left, _LONGEST_SLOT), f"{domain} takes no more mails at once")


def _await_the_server(letter: Letter) -> Probe | None:
    """Snoozes while the server cannot be used. The probe, if this mail is to find out whether it can again."""
    if letter.pause_left is None:
        return None
    if _is_paused(letter):
        raise Snooze(transport_state.wait_for(letter.pause_left), "the mail server cannot be used")
    with transaction() as session:
        probe = transport_state.begin_probe(session, outside.transport().server.name)
    if probe is None:
        raise Snooze(transport_state.wait_for(transport_state.PROBE), "another mail finds out about the mail server")
    return probe


def _is_paused(letter: Letter) -> bool:
    return letter.pause_left is not None and letter.pause_left > timedelta()


def _spoken(letter: Letter, run: Run, probe: Probe | None) -> Outcome:
    server = outside.transport().server
    about = {"network.protocol.name": "smtp", "server.address": server.host, "server.port": server.port}
    with tracing.call("smtp send", about) as says:
        outcome = outside.transport().send(
            letter.body,
            sender=parse(letter.envelope_sender or letter.sender),
            recipient=parse(letter.recipient),
            before_dot=lambda: _begin_copy(letter, run, probe),
        )
        went_well = isinstance(outcome, Sent | HeldBack)
        says(
            {"smtp.phase": outcome.reply.phase.value, "smtp.reply_code": outcome.reply.code},
            None if went_well else type(outcome).__name__,
        )
    return outcome


def _begin_copy(letter: Letter, run: Run, probe: Probe | None) -> bool:
    with transaction() as session:
        if probe is not None:
            transport_state.resume(session, outside.transport().server.name, probe)
        return begin_copy(session, letter, run.run_id)


def _say_why(letter: Letter) -> None:
    """The mail was held back in the last moment: it expired, its recipient wants no more, another run sends it."""
    if _is_wanted(_opened(letter.id)):
        raise Snooze(_TROUBLE, "the mail was held back before its end")


def _keep_the_receipt(letter: Letter, run: Run, outcome: Sent) -> None:
    """At once, in a transaction of its own: whatever becomes of the run, the mail is not sent again. A database that is
    away for a moment is awaited, for without this there would be a second copy."""
    given_up = time.monotonic() + _RECEIPT_KEPT.total_seconds()
    while True:
        try:
            with transaction() as session:
                record(session, letter.id, run.run_id, outcome, last=False)
            return
        except DBAPIError as error:
            away = isinstance(error, OperationalError) or is_interruption(error)
            if not away or time.monotonic() > given_up:
                raise
            time.sleep(0.5)


def _of_its_sender(outcome: Outcome, letter: Letter) -> Outcome:
    """A sender was fixed with the mail. Where ours has moved since, a server that refuses the old one refuses that mail,
    and no other."""
    reply = outcome.reply
    if not isinstance(outcome, TransportTrouble) or reply.phase is not Phase.MAIL or (reply.code or 0) < 500:
        return outcome
    ours = outside.return_path() or outside.sender().address
    theirs = parse(letter.envelope_sender or letter.sender)
    return outcome if theirs.domain == ours.domain else Permanent(reply)


def _aged(outcome: Outcome, letter: Letter) -> Outcome:
    """A throttle is no reason to wait for ever: after some days, what the server says counts as what it is."""
    if not isinstance(outcome, Throttled) or letter.age < _THROTTLED_MOST:
        return outcome
    permanent = outcome.reply.code is not None and outcome.reply.code >= 500
    return Permanent(outcome.reply) if permanent else Temporary(outcome.reply, outcome.wait)


def _settle(letter: Letter, run: Run, outcome: Outcome, probe: Probe | None) -> Never:
    """Keeps what was learned, and raises what the task becomes."""
    server, pause = outside.transport().server.name, None
    with transaction() as session:
        history = record(session, letter.id, run.run_id, outcome, last=_is_last(run))
        if isinstance(outcome, TransportTrouble):
            pause = transport_state.pause(session, server, outcome, probe)
        elif probe is not None:
            transport_state.resume(session, server, probe)
    if history is None:
        raise Hopeless("the mail no longer exists")
    raise _verdict(outcome, history, run, pause)


def _settle_lost(letter: Letter, run: Run) -> Never:
    """The attempt in flight is over: its task has another run now. Whether the server answered it, nobody knows."""
    lost = Uncertain(Reply.missing(Phase.DOT, "an attempt ended before the server's reply was recorded"))
    with transaction() as session:
        history = record_lost(session, letter, run.run_id, lost)
    if history is None:
        raise Snooze(_TROUBLE, "another attempt was in flight")
    metrics.count_lost()
    raise _verdict(lost, history, run, None)


def _is_last(run: Run) -> bool:
    return run.failures + 1 >= (run.max_attempts or _MOST_RETRIES + 1)


def _verdict(outcome: Outcome, history: History, run: Run, pause: timedelta | None) -> Exception:
    reason = str(outcome.reply)
    if isinstance(outcome, TransportTrouble | Throttled):
        return Snooze(max(outcome.wait or _growing_wait(history.troubles), pause or timedelta()), reason)
    if isinstance(outcome, Temporary):
        return RefusedForNow(reason, _asked_delay(outcome, run))
    if not isinstance(outcome, Uncertain):
        return Hopeless(reason)
    if history.on_uncertain == "hold":
        return Hopeless(f"{reason}; it may have arrived already, and is held for an operator")
    if history.copies > 1:
        return Hopeless(f"{reason}; it may have arrived already, and is not sent a third time")
    return Snooze(outside.settings().mail_uncertain_wait, f"{reason}; it may have arrived already")


def _asked_delay(outcome: Temporary, run: Run) -> int | None:
    """Milliseconds until the time that the server named; in the end never so early that the attempts are soon used up."""
    if outcome.wait is None:
        return None
    least = min(_FIRST_BACKOFF * 2 ** min(run.failures, 20) / 8, _MOST_BACKOFF)
    return int(max(outcome.wait, least).total_seconds() * 1000)


def _growing_wait(troubles: int) -> timedelta:
    doublings = min(max(troubles - 1, 0), 10)
    return min(_TROUBLE * (1 << doublings), _TROUBLE_MOST)
