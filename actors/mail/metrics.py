"""What mails met, counted in the worker as soon as it is known, whether or not it can be written down."""

from prometheus_client import Counter

from actors.mail.replies import HeldBack, Outcome, Permanent, Sent, Temporary, Throttled, TransportTrouble, Uncertain

__all__ = ["count", "count_lost"]

_ATTEMPTS = Counter("mail_attempts", "Attempts to send a mail, by what came of them.", ["outcome"])
_OF: dict[type[Outcome], Counter] = {
    Sent: _ATTEMPTS.labels("sent"),
    Temporary: _ATTEMPTS.labels("refused for now"),
    Permanent: _ATTEMPTS.labels("refused"),
    Throttled: _ATTEMPTS.labels("throttled"),
    TransportTrouble: _ATTEMPTS.labels("trouble"),
    HeldBack: _ATTEMPTS.labels("held back"),
    Uncertain: _ATTEMPTS.labels("uncertain"),
}
_LOST = _ATTEMPTS.labels("lost")


def count(outcome: Outcome) -> None:
    _OF[type(outcome)].inc()


def count_lost() -> None:
    """An attempt ended before anybody knew what the server said: it may have the mail."""
    _LOST.inc()
