"""Name resolution with a wall-clock budget, which getaddrinfo does not have."""

import socket
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import timedelta
from threading import Lock, Thread
from typing import Protocol

from actors.webhooks.wire import Exhausted

_BUDGET = timedelta(seconds=5)
# A lookup that hangs keeps its thread until the system's resolver gives up: their number must stay bounded.
_MOST = 256


class Unresolved(Exception):
    """The name has no answer, or none within the time given."""


class Resolver(Protocol):
    def __call__(self, host: str, /, *, within: timedelta) -> Sequence[str]:
        """All addresses of `host`, as text, within `within`; else Unresolved."""


_under_way: dict[str, Future[Sequence[str]]] = {}
_lock = Lock()


def system_resolver(host: str, /, *, within: timedelta) -> Sequence[str]:
    """The answers of the operating system (`getaddrinfo`, so also /etc/hosts), at most `within` and 5 s later; Exhausted when
    nobody of us is free to ask.

    All who ask for a host at once share one lookup, so a name server that hangs costs one thread a name.
    """
    lookup = _joined(host)
    try:
        return lookup.result(timeout=max(min(within, _BUDGET).total_seconds(), 0.001))
    except TimeoutError:
        raise Unresolved("the name lookup took too long") from None
    except (OSError, UnicodeError) as error:
        raise Unresolved(f"the name lookup failed: {getattr(error, 'strerror', None) or 'bad name'}") from None
    except RuntimeError:
        raise Exhausted("the name lookup found no free thread") from None


def _joined(host: str) -> Future[Sequence[str]]:
    """The lookup of `host` that is under way, or a new one."""
    with _lock:
        if host in _under_way:
            return _under_way[host]
        if len(_under_way) >= _MOST:
            raise Exhausted("too many lookups hang")
        lookup = _under_way[host] = Future()
    try:
        Thread(target=_look_up, args=(host, lookup), name="webhook-lookup", daemon=True).start()
    except RuntimeError as error:
        _end(host)
        lookup.set_exception(error)
    return lookup


def _look_up(host: str, lookup: Future[Sequence[str]]) -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        answers = tuple(str(sockaddr[0]) for *_, sockaddr in found)
    except BaseException as error:
        _end(host)
        lookup.set_exception(error)
    else:
        _end(host)
        lookup.set_result(answers)


def _end(host: str) -> None:
    with _lock:
        del _under_way[host]
