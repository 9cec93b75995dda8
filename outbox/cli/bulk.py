"""One act on many tasks: a preview with the count, a question, progress, and a line for each task."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from outbox.cli import show
from outbox.cli.door import Door, now, opened, whoever
from outbox.cli.exits import Exit, Trouble
from outbox.cli.times import ago

if TYPE_CHECKING:
    from outbox.reads import TaskView

__all__ = ["Act", "Does", "Filter", "Result", "ask", "carry_out", "page"]

#: Tasks of one transaction: few enough to hold nobody up, many enough to be quick.
BATCH = 100

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
class Filter:
    """Which tasks. `narrow` when the user named at least one condition."""

    states: Sequence[str]
    actor: str | None
    queue: str | None
    since: datetime | None
    narrow: bool

    @classmethod
    def of(
        cls,
        states: Sequence[str] | None,
        actor: str | None,
        queue: str | None,
        since: str | None,
        *,
        default: Sequence[str] = (),
    ) -> Filter:
        """From the options; `default` are the states when none is given."""
        try:
            instant = ago(since, now()) if since else None
        except ValueError as error:
            raise Trouble(Exit.USAGE, f"--since: {error}.") from None
        return cls(states or default, actor, queue, instant, bool(states or actor or queue or since))


def page(door: Door, which: Filter, cursor: str | None, limit: int) -> tuple[list[TaskView], str | None]:
    """One page of the tasks that fit."""
    return door.reader.tasks(
        door.conn, states=which.states or None, actor=which.actor, queue=which.queue, since=which.since,
        cursor=cursor, limit=limit,
    )  # fmt: skip


def carry_out(
    act: Act,
    ids: Sequence[str] | None,
    which: Filter,
    *,
    everything: bool,
    yes: bool,
    dry_run: bool,
    who: str | None,
    as_json: bool,
) -> None:
    """Do it to each task named or found, and leave with the code that says how it went.

    What is found is fixed before the question is asked: nothing that comes later is touched.
    """
    _check_which(act, ids, which, everything)
    with opened() as door:
        if ids:
            chosen, results = _resolved(door, _read(ids))
        else:
            chosen, results = _found(door, act, which, yes=yes or dry_run), []
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


def _check_which(act: Act, ids: Sequence[str] | None, which: Filter, everything: bool) -> None:
    if ids and (which.narrow or everything):
        raise Trouble(Exit.USAGE, "Ids and filters exclude each other.")
    if not ids and not which.narrow and not everything:
        raise Trouble(
            Exit.USAGE, f"Say which tasks to {act.name}: ids, a filter, or --all.",
            f"outbox tasks {act.name} ID, or --actor NAME --since 2h; --dry-run shows what fits.",
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


def _found(door: Door, act: Act, which: Filter, *, yes: bool) -> list[UUID]:
    """All that fit, the oldest first; shown and agreed to."""
    found: list[UUID] = []
    kinds: Counter[str] = Counter()
    cursor: str | None = None
    with show.progress("looking", None) as advance:
        while True:
            tasks, cursor = page(door, which, cursor, 1000)
            found += [task.id for task in tasks]
            kinds.update(f"{task.state} {task.actor}" for task in tasks)
            advance(len(tasks))
            if cursor is None:
                break
    show.note(f"{len(found)} tasks fit: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)))
    if found and not yes:
        ask(f"{act.name} {len(found)} tasks, for example {found[0]}?")
    return found[::-1]


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
