"""Tasks: a query, how many are in each state, a page of those that fit, and acts on those that are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from outbox import operate
from outbox.dashboard.page import Ask, Done, Page, Refused
from outbox.dashboard.render import queried
from outbox.errors import ArgumentError, TaskNotFound, TookTooLong, WrongState
from outbox.query import KEYS, PUBLIC_STATES, PublicState, Query, parse
from outbox.reads import Count, TaskView
from outbox.redaction import redacted_view
from outbox.search import LOOK_BACK, looks_back_to

__all__ = ["cancel", "retry", "show"]

#: Tasks of one page, and of one choice.
LIMIT, MOST = 50, 500
UNFINISHED = ("scheduled", "waiting", "pending", "published", "running", "retrying")


class Facet(NamedTuple):
    """A state that can be asked for: how many are in it (None: not counted), whether it is asked for, and the way to toggle it."""

    state: PublicState
    number: Count | None
    chosen: bool
    path: str


class Found(NamedTuple):
    """A page of tasks, or what was wrong with the question."""

    tasks: Sequence[TaskView] = ()
    following: str | None = None
    number: Count | None = None
    trouble: str | None = None


def show(ask: Ask) -> Page:
    """The tasks that the query of the address fits, the newest first."""
    line, now = ask.params.get("q", "").strip(), ask.now()
    query, trouble = _read(line)
    counts = _counts(ask)
    found = Found(trouble=trouble) if trouble else _found(ask, query, counts)
    values = {
        "line": line,
        "query": query,
        "found": found,
        "first": not ask.params.get("cursor"),
        "facets": list(_facets(counts, query)),
        "offers": list(_offers(ask)),
        "keys": KEYS,
        "bounded": _is_bounded(query, now),
        "look_back": LOOK_BACK.days,
        "next": queried("/tasks", q=line, cursor=found.following),
        "now": now,
    }
    return Page("tasks.html", "Tasks", values)


def _is_bounded(query: Query, now: datetime) -> bool:
    """Whether finished tasks of long ago may have been left out."""
    finished = not query.states or not {"succeeded", "cancelled"}.isdisjoint(query.states)
    return finished and query.since is None and looks_back_to(query, now) is not None


def _read(line: str) -> tuple[Query, str | None]:
    try:
        return parse(line), None
    except ArgumentError as error:
        return Query(), str(error)


def _found(ask: Ask, query: Query, counts: Mapping[str, Count]) -> Found:
    try:
        tasks, following = ask.reader.tasks(ask.conn, query, cursor=ask.params.get("cursor") or None, limit=LIMIT)
        count = _count(ask, query, counts, tasks, following)
    except (ArgumentError, TookTooLong) as error:
        return Found(trouble=str(error))
    return Found([redacted_view(task) for task in tasks], following, count)


def _count(
    ask: Ask, query: Query, counts: Mapping[str, Count], tasks: Sequence[TaskView], following: str | None
) -> Count | None:
    """How many fit in all. What one page holds and what was counted already is not counted again, and nobody counts all
    tasks that ever were."""
    if following is None and not ask.params.get("cursor"):
        return Count(len(tasks))
    if query == Query(states=query.states) and counts.keys() >= set(query.states) and query.states:
        asked = [counts[state] for state in query.states]
        return Count(sum(each.number for each in asked), any(each.at_least for each in asked))
    return ask.reader.count(ask.conn, query) if query else None


def _facets(counts: Mapping[str, Count], query: Query) -> Iterator[Facet]:
    for state in PUBLIC_STATES:
        chosen = state in query.states
        states = tuple(each for each in query.states if each != state) if chosen else (*query.states, state)
        yield Facet(state, counts.get(state), chosen, queried("/tasks", q=str(replace(query, states=states))))


def _counts(ask: Ask) -> dict[str, Count]:
    """Of what is unfinished or dead. Nobody counts all that ever succeeded."""
    found: dict[str, Count] = {state: Count(0) for state in UNFINISHED}
    for queue in ask.reader.queues(ask.conn):
        for state, count in queue.counts.items():
            before = found[state]
            found[state] = Count(before.number + count.number, before.at_least or count.at_least)
    return {**found, "dead": ask.reader.count(ask.conn, Query(states=("dead",)))}


def _offers(ask: Ask) -> Iterator[str]:
    """Terms that the line may be completed with."""
    yield from (f"state:{state}" for state in PUBLIC_STATES)
    yield from (str(Query(actors=(name,))) for name in ask.reader.offered(ask.conn, "actor"))
    yield from (str(Query(queues=(name,))) for name in ask.reader.offered(ask.conn, "queue"))
    yield from (
        f"{key}." if key in ("args", "kwargs") else f"{key}:" for key in KEYS if key not in ("state", "actor", "queue")
    )


# ---------------------------------------------------------------------- acts on those that were chosen


def retry(ask: Ask) -> Done:
    """The chosen ones are due at once."""
    return _each(ask, "retried", lambda id: operate.retry(ask.conn, ask.ledger, id, who=ask.visitor.name))


def cancel(ask: Ask) -> Done:
    """The chosen ones never start, or are asked to stop."""
    reason = ask.given("reason") or None

    def do(id: UUID) -> None:
        operate.cancel(ask.conn, ask.ledger, id, who=ask.visitor.name, reason=reason)

    return _each(ask, "cancelled", do)


def _each(ask: Ask, done: str, do: Callable[[UUID], None]) -> Done:
    """One by one, in one transaction: a refusal changes nothing, so the others go on."""
    ids = _chosen(ask)
    refusals = [told for told in (_refusal(do, id) for id in ids) if told]
    if len(refusals) == len(ids):
        raise Refused(f"None was {done}. {refusals[0]}")
    told = f"{len(ids) - len(refusals)} of {len(ids)} {done}."
    return Done(f"{told} Not, for example: {refusals[0]}" if refusals else told)


def _refusal(do: Callable[[UUID], None], id: UUID) -> str | None:
    try:
        do(id)
    except (TaskNotFound, WrongState) as error:
        return str(error)
    return None


def _chosen(ask: Ask) -> list[UUID]:
    given = list(dict.fromkeys(ask.form.get("id", ())))
    if not given:
        raise Refused("No task was chosen: tick some, or act on all that fit.")
    if len(given) > MOST:
        raise Refused(f"At most {MOST} tasks can be chosen one by one: act on all that fit instead.")
    try:
        return [UUID(each) for each in given]
    except ValueError:
        raise Refused("What was chosen are not ids of tasks.") from None
