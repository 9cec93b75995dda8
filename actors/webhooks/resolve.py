"""Name resolution with a wall-clock budget, which getaddrinfo does not have."""

import socket
from collections.abc import Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread
from typing import Protocol


class Unresolved(Exception):
    """The name has no answer, or none within the time given."""


class Resolver(Protocol):
    def __call__(self, host: str, /, *, within: timedelta) -> Sequence[str]:
        """All addresses of `host`, as text, within `within`; else Unresolved."""


# A lookup that hangs keeps its thread until the system's resolver gives up: their number must stay bounded.
_lookups = BoundedSemaphore(64)


def system_resolver(host: str, /, *, within: timedelta) -> Sequence[str]:
    """The answers of the operating system (`getaddrinfo`, so also /etc/hosts), at most `within` later."""
    if not _lookups.acquire(timeout=within.total_seconds()):
        raise Unresolved("too many lookups hang")
    outcome: SimpleQueue[Sequence[str] | OSError | UnicodeError] = SimpleQueue()
    Thread(target=_look_up, args=(host, outcome), name="webhook-lookup", daemon=True).start()
    try:
        answer = outcome.get(timeout=max(within.total_seconds(), 0.001))
    except Empty:
        raise Unresolved("the name lookup took too long") from None
    if isinstance(answer, (OSError, UnicodeError)):
        raise Unresolved(f"the name lookup failed: {getattr(answer, 'strerror', None) or 'bad name'}")
    return answer


def _look_up(host: str, outcome: "SimpleQueue[Sequence[str] | OSError | UnicodeError]") -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        outcome.put([str(sockaddr[0]) for *_, sockaddr in found])
    except (OSError, UnicodeError) as error:
        outcome.put(error)
    finally:
        _lookups.release()
