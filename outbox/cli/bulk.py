"""One act on many tasks: a preview with the count, a question, progress, and a line for each task."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from outbox.cli import show
from outbox.cli.door import Door, now, opened, whoever
from outbox.cli.exits import Exit, Trouble
from outbox.cli.times import ago

if TYPE_CHECKING:
    from outbox.query import PublicState, Query

__all__ = [
    "PATIENCE",
    "Act",
    "Asked",
    "Does",
    "Result",
    "ask",
    "carry_out",
    "check_which",
    "options",
    "tell_of_look_back",
]

#: Tasks of one transaction: few enough to hold nobody up, many enough to be quick.
BATCH = 100

#: A search from the command line may take as long: nobody else waits for its connection.
PATIENCE = timedelta(seconds=30)

#: Does it to one task, in an open transaction, and answers what became of it.
Does = Callable[[Door, UUID, str], str]


class Act(NamedTuple):
    """What is done: its name, the word for it when done, and how."""

    name: str
    done: str
    do: Does


class Result(NamedTuple):
    """What became of one task. `refusal` says why nothing did."""

    id: str
    outcome: str
    refusal: str | None = None


@dataclass(frozen=True)
class Asked:
    """What the words and options of a command name: tasks by their ids, or those that a query fits."""

    query: Query
    ids: Sequence[str] = ()

    @classmethod
    def of(cls, words: Sequence[str] | None, options: Query) -> Asked:
        """A word with a colon makes all words a query; else they are ids, or `-`. Options narrow the query."""
        from outbox.query import parse

        if not any(":" in word for word in words or ()):
            return cls(options, list(words or ()))
        return cls(parse(" ".join(words or ())).also(options))


def options(states: Sequence[str] | None, actor: str | None, queue: str | None, since: str | None) -> Query:
    """The options, which are shorthand for the same terms of a query."""
    from outbox.query import Query

    try:
        instant = ago(since, now()) if since else None
    except ValueError as error:
        raise Trouble(Exit.USAGE, f"--since: {error}.") from None
    return Query(
        states=tuple(states or ()),  # type: ignore[arg-type]  # Query checks them
        actors=(actor,) if actor else (),
        queues=(queue,) if queue else (),
        since=instant,
    )


def carry_out(
    act: Act,
    asked: Asked,
    *,
    states: Sequence[PublicState],
    everything: bool,
    yes: bool,
    dry_run: bool,
    who: str | None,
    as_json: bool,
) -> None:
    """Do it to each task named or found, and leave with the code that says how it went. `states`: unless the query names some.

    What is found is fixed before the question is asked: nothing that comes later is touched.
    """
    check_which(act.name, asked, everything)
    with opened() as door:
        if asked.ids:
            chosen, results = _resolved(door, _read(asked.ids))
        else:
            query = asked.query if asked.query.states else replace(asked.query, states=tuple(states))
            chosen, results = _found(door, act, query, yes=yes or dry_run), []
        if dry_run:
            results += [Result(str(id), f"would be {act.done}") for id in chosen]
        else:
            results += _do_all(door, act, chosen, who or whoever(), as_json)
    _say(act, results, as_json, streamed=not dry_run)
    code = _code(results)
    if code != Exit.OK:
        raise Trouble(code, _summary(act, results))


def ask(question: str) -> None:
    """Ask on stderr; anything but yes ends the command with nothing done."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise Trouble(Exit.USAGE, "Nobody answered.", "Add --yes where there is nobody to ask.")
    if answer.strip().lower() not in ("y", "yes"):
        raise Trouble(Exit.ERROR, "Nothing was done.")


def check_which(name: str, asked: Asked, everything: bool) -> None:
    """Ids or a query, or all: exactly one of them is said."""
    if asked.ids and (asked.query or everything):
        raise Trouble(Exit.USAGE, "Ids and filters exclude each other.", "As part of a query an id is written id:01a2.")
    if not asked.ids and not asked.query and not everything:
        raise Trouble(
            Exit.USAGE, f"Say which tasks to {name}: ids, a query, or --all.",
            f"outbox tasks {name} ID, or 'actor:NAME since:2h'; --dry-run shows what fits.",
        )  # fmt: skip


def _read(ids: Sequence[str]) -> list[str]:
    """The ids given; for `-`, the first word of each line of stdin. Each once."""
    if list(ids) == ["-"]:
        ids = [line.split()[0] for line in sys.stdin if line.strip()]
    return list(dict.fromkeys(ids))


def _resolved(door: Door, texts: Sequence[str]) -> tuple[list[UUID], list[Result]]:
    """The ids meant, and a refusal for each text that means none."""
    from outbox.errors import ArgumentError, TaskNotFound

    chosen, refused = [], []
    for text in texts:
        try:
            chosen.append(door.reader.resolve(door.conn, text))
        except TaskNotFound as error:
            refused.append(Result(text, "not found", str(error)))
        except ArgumentError as error:
            if len(texts) == 1:
                raise
            refused.append(Result(text, "refused", str(error)))
    return chosen, refused


def _found(door: Door, act: Act, query: Query, *, yes: bool) -> list[UUID]:
    """All that fit at this moment, the oldest first; shown and agreed to."""
    frozen = query.frozen(door.reader.now(door.conn))
    found: list[UUID] = []
    kinds: Counter[str] = Counter()
    cursor: str | None = None
    with show.progress("looking", None) as advance:
        while True:
            tasks, cursor = door.reader.tasks(door.conn, frozen, cursor=cursor, limit=1000, within=PATIENCE)
            found += [task.id for task in tasks]
            kinds.update(f"{task.state} {task.actor}" for task in tasks)
            advance(len(tasks))
            if cursor is None:
                break
    show.note(f"{len(found)} tasks fit: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)))
    show.note(f"These, and none that comes later: {frozen}")
    tell_of_look_back(query)
    if found and not yes:
        ask(f"{act.name} {len(found)} tasks, for example {found[0]}?")
    return found[::-1]


def tell_of_look_back(query: Query) -> None:
    """Finished tasks have their bound: where it may have left some out, say so."""
    from outbox.search import LOOK_BACK, looks_back_to

    bounded = query.since is None and looks_back_to(query, now()) is not None
    if bounded and (not query.states or {"succeeded", "cancelled"} & set(query.states)):
        show.note(f"Finished tasks of the last {LOOK_BACK.days} days; since:30d, for example, looks further back.")


def _do_all(door: Door, act: Act, ids: Sequence[UUID], who: str, as_json: bool) -> list[Result]:
    results: list[Result] = []
    with show.progress(act.name, len(ids)) as advance:
        try:
            for start in range(0, len(ids), BATCH):
                with door.conn.transaction():
                    batch = [_do_one(door, act, id, who) for id in ids[start : start + BATCH]]
                if not as_json:
                    _lines(batch)
                results += batch
                advance(len(batch))
        except KeyboardInterrupt:
            show.note(f"Stopped after {len(results)} of {len(ids)}; what was done stays done.")
            raise
    return results


def _do_one(door: Door, act: Act, id: UUID, who: str) -> Result:
    """A refusal changed nothing, so the batch's transaction goes on."""
    from outbox.errors import TaskNotFound, WrongState

    try:
        return Result(str(id), act.do(door, id, who))
    except TaskNotFound as error:
        return Result(str(id), "not found", str(error))
    except WrongState as error:
        return Result(str(id), "refused", str(error))


def _say(act: Act, results: Sequence[Result], as_json: bool, *, streamed: bool) -> None:
    if as_json:
        counts = Counter("done" if r.refusal is None else r.outcome for r in results)
        show.document({"results": [r._asdict() for r in results], "counts": dict(counts)})
    elif not streamed:
        _lines(results)
    if len(results) > 1:
        show.note(_summary(act, results))


def _lines(results: Sequence[Result]) -> None:
    for result in results:
        if result.refusal is None:
            sys.stdout.write(f"{result.id}\t{result.outcome}\n")


def _summary(act: Act, results: Sequence[Result]) -> str:
    refusals = list(_refusals(results))
    if len(results) == 1 and refusals:
        return refusals[0]
    done = len(results) - len(refusals)
    told = f"{done} of {len(results)} tasks {act.done}."
    return told if not refusals else f"{told} {len(refusals)} not, for example: {refusals[0]}"


def _refusals(results: Sequence[Result]) -> Iterator[str]:
    return (result.refusal for result in results if result.refusal is not None)


def _code(results: Sequence[Result]) -> Exit:
    outcomes = {"done" if result.refusal is None else result.outcome for result in results}
    if outcomes <= {"done"}:
        return Exit.OK
    if "done" in outcomes:
        return Exit.PARTLY
    return Exit.NOT_FOUND if outcomes == {"not found"} else Exit.REFUSED
