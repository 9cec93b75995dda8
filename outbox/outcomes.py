"""What becomes of a run: retry with backoff, snooze, dead, cancelled. Dramatiq's own option names, writing to the row."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
from dramatiq.broker import Broker, MessageProxy
from dramatiq.common import compute_backoff
from dramatiq.errors import ActorNotFound, RateLimitExceeded, Retry
from dramatiq.middleware import Middleware, Shutdown, SkipMessage
from sqlalchemy.exc import DBAPIError

from outbox import tracing
from outbox.enqueue import uncommitted
from outbox.errors import Permanent, Snooze
from outbox.logs import get_logger
from outbox.run import Outcome, Run, _current

if TYPE_CHECKING:
    from outbox.consumer import Delivery

__all__ = ["Outcomes", "in_doubt", "without_outcome"]

log = get_logger("outbox.outcomes")

#: Dramatiq's defaults, in milliseconds.
MIN_BACKOFF, MAX_BACKOFF, MAX_RETRIES = 15_000, 86_400_000 * 7, 20
#: Seconds until a task is due again that was interrupted by nothing of its own.
INTERRUPTED, UNKNOWN_ACTOR = 5.0, 15.0
#: What PostgreSQL says when it is the server's trouble: gone or going, a standby, a session that hung, no disk, no room.
OUTAGES = ("08", "57P", "25006", "25P03", "25P04", "53100", "53300", "58030")
SKIPPED, REFUSED = "skipped by a middleware", "refused by a middleware (age limit)"


class Outcomes(Middleware):
    """First in the list: binds the run before everything else, and judges its outcome after everything else.

    Options of actors and messages: `max_retries`, `min_backoff`, `max_backoff`, `retry_when`, `throws`,
    `on_retry_exhausted`, as in Dramatiq's Retries, which this replaces. Unlike there a throttle (`RateLimitExceeded`)
    is no failure: the task is tried again after the backoff, however often, unless the actor `throws` it.
    """

    def __init__(
        self,
        *,
        max_retries: int | None = MAX_RETRIES,
        min_backoff: int = MIN_BACKOFF,
        max_backoff: int = MAX_BACKOFF,
        retry_when: Callable[[int, BaseException], bool] | None = None,
    ) -> None:
        self.max_retries = max_retries
        self.min_backoff = min_backoff
        self.max_backoff = max_backoff
        self.retry_when = retry_when

    @property
    def actor_options(self) -> set[str]:
        return {"max_retries", "min_backoff", "max_backoff", "retry_when", "throws", "on_retry_exhausted"}

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        run: Run | None = getattr(message, "run", None)
        if run is None:
            return
        if not run.starts():
            run.outcome = Outcome("interrupted", error="this worker could not prove its lease in time", wait=0.0)
            raise SkipMessage("given back before it started")
        _current.set(run)
        run.traced = tracing.begin(run)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,
    ) -> None:
        run: Run | None = getattr(message, "run", None)
        if run is None or run.given_back:
            return
        try:
            run.outcome = self._judge(broker, message, run, exception)
            if run.outcome.name == "dead":
                log.error(
                    "task ends dead",
                    task_id=str(run.task_id),
                    actor=message.actor_name,
                    error=type(exception).__name__ if exception is not None else REFUSED,
                )
        finally:
            _close_session(run)
            run.finished = time.monotonic()
            _current.set(None)
            _end_span(message, run)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        run: Run | None = getattr(message, "run", None)
        if run is None or run.given_back:
            return
        _close_session(run)
        skipped = Outcome("dead", error=REFUSED) if message.failed else Outcome("cancelled", error=SKIPPED)
        run.outcome = run.outcome or skipped
        run.finished = time.monotonic()
        _current.set(None)
        _end_span(message, run)

    # ------------------------------------------------------------------ judging

    def _judge(self, broker: Broker, message: MessageProxy, run: Run, exception: BaseException | None) -> Outcome:
        if exception is None and not message.failed:
            exception = run.unsent or (_commit_with_outcome(run) if run.has_session else None)
            if exception is None:
                return Outcome("succeeded")
            message.stuff_exception(exception)
        if exception is None:
            return Outcome("dead", error=REFUSED)
        return self._of_exception(broker, message, run, exception)

    def _of_exception(self, broker: Broker, message: MessageProxy, run: Run, error: BaseException) -> Outcome:
        if isinstance(error, Snooze):
            return Outcome("snoozed", error=str(error.reason), wait=error.wait.total_seconds())
        if isinstance(error, ActorNotFound) and message.actor_name not in broker.actors:
            return Outcome("snoozed", error=f"this worker knows no actor {message.actor_name!r}", wait=UNKNOWN_ACTOR)
        if isinstance(error, RateLimitExceeded) and not _throws(broker, message, error):
            return Outcome("snoozed", error=_line(error), wait=self._backoff(broker, message, run, error))
        if run.cancel_requested():
            return Outcome("cancelled", error=f"cancelled while it ran: {_line(error)}")
        if is_interruption(error):
            return Outcome("interrupted", error=_line(error), wait=INTERRUPTED)
        trace = "".join(traceback.format_exception(error, limit=-30))
        if isinstance(error, Permanent) or _throws(broker, message, error):
            return Outcome("dead", error=_line(error), traceback=trace, counts=True)
        if not self._may_retry(broker, message, run, error):
            self._exhausted(broker, message, run)
            return Outcome("dead", error=_line(error), traceback=trace, counts=True)
        return Outcome(
            "failed", error=_line(error), traceback=trace, wait=self._backoff(broker, message, run, error), counts=True
        )

    def _may_retry(self, broker: Broker, message: MessageProxy, run: Run, error: BaseException) -> bool:
        if run.max_attempts is not None:
            return run.failures + 1 < run.max_attempts
        retry_when = _option(broker, message, "retry_when", self.retry_when)
        if retry_when is not None:
            try:
                return bool(retry_when(run.failures, error))
            except Exception:
                log.exception("retry_when failed: max_retries decides", task_id=str(run.task_id))
        most = _option(broker, message, "max_retries", self.max_retries)
        return most is None or run.failures < most

    def _backoff(self, broker: Broker, message: MessageProxy, run: Run, error: BaseException) -> float:
        if isinstance(error, Retry) and error.delay is not None:
            return float(error.delay) / 1000
        low = _option(broker, message, "min_backoff", self.min_backoff)
        high = min(_option(broker, message, "max_backoff", self.max_backoff), MAX_BACKOFF)
        _, wait = compute_backoff(run.failures, factor=low, max_backoff=high)
        return wait / 1000

    def _exhausted(self, broker: Broker, message: MessageProxy, run: Run) -> None:
        """As in Dramatiq: tell the actor that was named for it, in the transaction that records the death."""
        name = _option(broker, message, "on_retry_exhausted", None)
        if not name:
            return
        try:
            counts = {"retries": run.failures, "max_retries": _option(broker, message, "max_retries", self.max_retries)}
            broker.get_actor(name).send(message._message.asdict(), counts)
        except Exception:
            log.exception("on_retry_exhausted could not be enqueued", task_id=str(run.task_id), actor=name)


def without_outcome(message: Delivery) -> Outcome:
    """For a message that ended without reaching `after_process_message`: an unknown actor, or a middleware that broke."""
    if isinstance(message._exception, ActorNotFound):
        return Outcome("snoozed", error=f"this worker knows no actor {message.actor_name!r}", wait=UNKNOWN_ACTOR)
    _close_session(message.run)
    return in_doubt(message.run, "a middleware broke before the outcome was known")


def in_doubt(run: Run, why: str) -> Outcome:
    """For a run that nothing else can judge: Dramatiq's default backoff, and dead after its default of retries."""
    if run.failures + 1 >= (run.max_attempts or MAX_RETRIES + 1):
        return Outcome("dead", error=why, counts=True)
    _, wait = compute_backoff(run.failures, factor=MIN_BACKOFF, max_backoff=MAX_BACKOFF)
    return Outcome("failed", error=why, wait=wait / 1000, counts=True)


def is_interruption(error: BaseException) -> bool:
    """A lost database connection or a shutdown is an interruption, not a failure of the task (I5)."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or is_interruption(error.orig) if error.orig else False
    if isinstance(error, psycopg.errors.OperationalError) and error.sqlstate is None:
        return True
    if isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(OUTAGES):
        return True
    return isinstance(error, Shutdown)


def _commit_with_outcome(run: Run) -> BaseException | None:
    """Record the success in the run's own session and commit both (I9). Answers why that failed."""
    session = run.session()
    try:
        for child in run.children + run.after_failure:
            session.add(child)
        session.flush()
        if not run.record(session):
            session.rollback()
            run.recorded = True
            log.warning("late outcome ignored, its writes rolled back", task_id=str(run.task_id))
            _count_late()
            return None
        session.commit()
        run.recorded = True
    except BaseException as error:
        return error
    run.finished = time.monotonic()
    _count_success(run)
    return None


def _count_success(run: Run) -> None:
    from outbox.metrics import count_outcome  # registers metrics, which are for processes that run actors

    count_outcome(run, "succeeded")


def _count_late() -> None:
    from outbox.metrics import LATE_OUTCOMES  # as above

    LATE_OUTCOMES.inc()


def _close_session(run: Run) -> None:
    if not run.has_session:
        return
    session = run.session()
    try:
        if uncommitted(session):
            session.rollback()
        session.close()
    except Exception as error:
        log.warning("the run's session did not close", task_id=str(run.task_id), error=str(error))


def _end_span(message: MessageProxy, run: Run) -> None:
    if run.traced is not None:
        run.traced.ends(run.outcome, message._exception)
        run.traced = None


def _throws(broker: Broker, message: MessageProxy, error: BaseException) -> bool:
    kinds = _option(broker, message, "throws", None)
    return bool(kinds) and isinstance(error, kinds)


def _option(broker: Broker, message: MessageProxy, name: str, default: Any) -> Any:
    actor = broker.actors.get(message.actor_name)
    declared = actor.options.get(name) if actor is not None else None
    return message.options.get(name, default if declared is None else declared)


def _line(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as broken:
        return f"{type(error).__name__}, whose text fails with {type(broken).__name__}"
