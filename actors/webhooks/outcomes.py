"""What an endpoint's answer means for its delivery. The table is the documentation."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Literal

from actors.webhooks.delivery import Answered, Unreachable

RETRY_AFTER_CEILING = timedelta(hours=24)

#: What an endpoint's owner decides about the 4xx that the table leaves open.
Policy = Literal["refuse", "retry"]


class Ruling(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    REFUSED = "refused"
    GONE = "gone"
    BY_POLICY = "by policy"


# The first row that holds the status decides.
TABLE: tuple[tuple[range, Ruling, str], ...] = (
    (range(200, 300), Ruling.DELIVERED, "accepted"),
    (range(300, 400), Ruling.REFUSED, "redirects are not followed; change the endpoint's URL"),
    (range(408, 409), Ruling.RETRY, "the endpoint timed out waiting for the request"),
    (range(410, 411), Ruling.GONE, "the endpoint is gone for good and gets disabled"),
    (range(425, 426), Ruling.RETRY, "too early"),
    (range(429, 430), Ruling.RETRY, "too many requests"),
    (range(400, 500), Ruling.BY_POLICY, "the endpoint refuses this request"),
    (range(500, 600), Ruling.RETRY, "the endpoint failed"),
    (range(0, 1000), Ruling.REFUSED, "not an answer to a request"),
)


@dataclass(frozen=True, slots=True)
class Delivered:
    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again; `wait` when the endpoint itself named the time."""

    reason: str
    wait: timedelta | None


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    reason: str


Outcome = Delivered | Retry | Refused | Gone


def judge(answer: Answered | Unreachable, *, now: datetime, other_4xx: Policy = "refuse") -> Outcome:
    """The outcome of an attempt: by the status table, or a retry when there was no answer at all.

    `other_4xx`: whether those that the table leaves to the endpoint's owner end the delivery or are tried again.
    """
    if isinstance(answer, Unreachable):
        return Retry(f"{answer.phase}: {answer.reason}", None)
    ruling, meaning = _ruled(answer.status)
    if ruling is Ruling.BY_POLICY:
        ruling = Ruling.RETRY if other_4xx == "retry" else Ruling.REFUSED
    reason = f"HTTP {answer.status}: {meaning}"
    if ruling is Ruling.DELIVERED:
        return Delivered(reason)
    if ruling is Ruling.GONE:
        return Gone(reason)
    if ruling is Ruling.REFUSED:
        return Refused(reason)
    return Retry(reason, retry_after(answer.retry_after, now=now))


def _ruled(status: int) -> tuple[Ruling, str]:
    return next((ruling, meaning) for statuses, ruling, meaning in TABLE if status in statuses)


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """The wait that a `Retry-After` header asks for, between nothing and 24 hours; None if it cannot be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # Longer than any real wait: int() of a huge string is slow, and timedelta would overflow.
        wait = timedelta(seconds=int(value)) if len(value) <= 9 else RETRY_AFTER_CEILING
    else:
        moment = _http_date(value)
        if moment is None:
            return None
        wait = moment - now
    return min(max(wait, timedelta()), RETRY_AFTER_CEILING)


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
