"""`outbox tasks`: look at tasks, retry, cancel and move them; one by one, by ids on stdin, or all that a query fits."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from outbox.cli import bulk, show
from outbox.cli.bulk import Asked, options
from outbox.cli.bulks import in_background
from outbox.cli.completion import completed
from outbox.cli.door import Door, now, opened
from outbox.cli.edit import edit
from outbox.cli.exits import Exit, Trouble
from outbox.cli.options import DryRun, Json, Who, Yes
from outbox.cli.show import Column
from outbox.cli.times import ahead, duration

if TYPE_CHECKING:
    from outbox.ledger import Conn
    from outbox.query import PublicState, Query
    from outbox.reads import AttemptView, TaskView
    from outbox.why import Explains, Why

__all__ = ["join"]

tasks = typer.Typer(no_args_is_help=True, help="Look at tasks; retry, cancel and move them.")


def join(root: typer.Typer) -> None:
    root.add_typer(tasks, name="tasks", rich_help_panel="Operators")


EXAMPLE = "'actor:send_mail state:dead since:2h'"
KEYS = "state, actor, queue, id, args.NAME, kwargs.NAME, error, failure, lane, unique, since, until; other words are looked for"

States = Annotated[
    list[str] | None,
    typer.Option("--state", "-s", help="scheduled, waiting, pending, published, running, retrying, succeeded, dead, "
                 "cancelled. May be repeated.", autocompletion=lambda: _states()),
]  # fmt: skip
Actor = Annotated[str | None, typer.Option("--actor", "-a", help="Tasks of this actor.")]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Tasks of this queue.")]
Since = Annotated[str | None, typer.Option("--since", help="Created since: 2h, 1d12h, yesterday 09:00, ISO 8601.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERY",
        help=f"Such as {EXAMPLE}. Keys: {KEYS}.",
        autocompletion=lambda incomplete: completed(incomplete),
    ),
]
Which = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID|-|QUERY",
        help=f"Ids, or their beginnings; `-` reads them from stdin, one a line; or a query, such as {EXAMPLE}.",
        autocompletion=lambda incomplete: completed(incomplete),
    ),
]
All = Annotated[bool, typer.Option("--all", help="Without any filter: all that can be.")]
Background = Annotated[
    bool, typer.Option("--background", help="A relay does it; prints the act's id. See outbox bulk.")
]
Rate = Annotated[int | None, typer.Option("--rate", min=1, help="With --background: so many tasks a second.")]


@tasks.command("list")
def list_(
    words: Words = None,
    state: States = None,
    actor: Actor = None,
    queue: Queue = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a page ended.")] = None,
    json: Json = False,
) -> None:
    """List tasks, the newest first: all, or those that a query fits. The options are shorthand for its terms.

    Columns: id, state, actor, queue, created, due, finished, failures, args, kwargs, reason.
    """
    from outbox.query import parse

    query = parse(" ".join(words or ())).also(options(state, actor, queue, since))
    with opened() as door:
        found, following = _some(door, query, cursor, limit)
        if json:
            items = [{**show.fields(each), "trace_id": each.trace_id} for each in found]
            show.document({"items": items, "next_cursor": following})
            return
        show.table(found, COLUMNS, empty="No task fits.")
    if following:
        show.note(f"More: --cursor {following}")
    else:
        bulk.tell_of_look_back(query)


@tasks.command("show")
def show_(id: Annotated[str, typer.Argument(help="The task's id, or its beginning.")], json: Json = False) -> None:
    """Show a task: why it does not run, or that it does; and all its attempts."""
    from outbox.redaction import redacted_view, usual
    from outbox.tracing import trace_url
    from outbox.why import explain

    with opened() as door:
        task = door.reader.task(door.conn, door.reader.resolve(door.conn, id))
        if task is None:
            raise Trouble(Exit.NOT_FOUND, f"No task has the id {id}.", "outbox tasks list shows what there is.")
        why = explain(door.conn, task, schema=door.reader.schema, others=[_application_knows(door)])
        task, why = redacted_view(task), replace(why, told=usual().text(why.told))
    if json:
        show.document({**show.fields(task), "trace_id": task.trace_id, "why": why})
        return
    show.record({name: getattr(task, name) for name in task.__slots__ if name != "attempts"})
    show.record({"trace_id": task.trace_id, "  page": trace_url(task)})
    show.record({"why": why.told, "  cause": why.cause, "  since": why.since, "  until": why.until, "  mend": why.mend})
    for number, attempt in enumerate(task.attempts, start=1):
        _say_attempt(number, attempt)


@tasks.command()
def retry(
    which: Which = None,
    state: States = None,
    actor: Actor = None,
    queue: Queue = None,
    since: Since = None,
    all: All = False,
    background: Background = False,
    rate: Rate = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    who: Who = None,
    json: Json = False,
) -> None:
    """Run dead, cancelled and retrying tasks now: same id, attempts kept.

    By ids, or by a query (then of the dead, unless it names a state).
    """
    asked = Asked.of(which, options(state, actor, queue, since))
    if _for_background(background, rate):
        in_background("retry", asked, everything=all, yes=yes, dry_run=dry_run, who=who, as_json=json, rate=rate)
        return
    act = bulk.Act("retry", "retried", lambda door, id, by: _retry(door, id, by))
    bulk.carry_out(act, asked, states=("dead",), everything=all, yes=yes, dry_run=dry_run, who=who, as_json=json)


@tasks.command()
def cancel(
    which: Which = None,
    state: States = None,
    actor: Actor = None,
    queue: Queue = None,
    since: Since = None,
    all: All = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; kept with the task.")] = None,
    background: Background = False,
    rate: Rate = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    who: Who = None,
    json: Json = False,
) -> None:
    """Cancel unfinished tasks: at once, or as a request where a worker runs them already.

    By ids, or by a query (then of all unfinished ones, unless it names a state).
    """
    asked = Asked.of(which, options(state, actor, queue, since))
    if _for_background(background, rate):
        in_background(
            "cancel", asked, everything=all, yes=yes, dry_run=dry_run, who=who, as_json=json, rate=rate, reason=reason
        )
        return
    act = bulk.Act("cancel", "cancelled", lambda door, id, by: _cancel(door, id, by, reason))
    bulk.carry_out(act, asked, states=UNFINISHED, everything=all, yes=yes, dry_run=dry_run, who=who, as_json=json)


@tasks.command()
def reschedule(
    which: Which = None,
    at: Annotated[str | None, typer.Option("--at", help="When: tomorrow 09:00, ISO 8601.")] = None,
    in_: Annotated[str | None, typer.Option("--in", help="How long from now: 90s, 2h, 1d12h.")] = None,
    state: States = None,
    actor: Actor = None,
    queue: Queue = None,
    since: Since = None,
    all: All = False,
    background: Background = False,
    rate: Rate = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    who: Who = None,
    json: Json = False,
) -> None:
    """Move tasks that have not started to another time.

    By ids, or by a query (then of the scheduled and retrying ones, unless it names a state).
    """
    if (at is None) == (in_ is None):
        raise Trouble(Exit.USAGE, "Say when: --at or --in, one of them.", "outbox tasks reschedule ID --in 2h")
    run_at, delay = _when(at, in_)
    asked = Asked.of(which, options(state, actor, queue, since))
    if _for_background(background, rate):
        in_background(
            "reschedule", asked, everything=all, yes=yes, dry_run=dry_run, who=who, as_json=json, rate=rate, run_at=run_at,
            delay=delay,
        )  # fmt: skip
        return
    act = bulk.Act("reschedule", "moved", _move_to(run_at, delay))
    bulk.carry_out(
        act, asked, states=("scheduled", "retrying"), everything=all, yes=yes, dry_run=dry_run, who=who, as_json=json
    )


tasks.command()(edit)


# ---------------------------------------------------------------------- the acts

UNFINISHED: tuple[PublicState, ...] = ("scheduled", "waiting", "pending", "published", "running", "retrying")


def _retry(door: Door, id: UUID, who: str) -> str:
    from outbox import operate

    operate.retry(door.conn, door.ledger, id, who=who)
    return "retried"


def _cancel(door: Door, id: UUID, who: str, reason: str | None) -> str:
    from outbox import operate

    return operate.cancel(door.conn, door.ledger, id, who=who, reason=reason)


def _for_background(background: bool, rate: int | None) -> bool:
    if rate is not None and not background:
        raise Trouble(Exit.USAGE, "--rate needs --background.")
    return background


def _when(at: str | None, in_: str | None) -> tuple[datetime | None, timedelta | None]:
    try:
        return (ahead(at, now()) if at else None), (duration(in_) if in_ else None)
    except ValueError as error:
        raise Trouble(Exit.USAGE, f"{error}.") from None


def _move_to(run_at: datetime | None, delay: timedelta | None) -> bulk.Does:
    from outbox import operate

    def move(door: Door, id: UUID, who: str) -> str:
        due = operate.reschedule(door.conn, door.ledger, id, who=who, run_at=run_at, delay=delay)
        return f"due {due.isoformat()}"

    return move


# ---------------------------------------------------------------------- looking


def _some(door: Door, query: Query, cursor: str | None, limit: int) -> tuple[list[TaskView], str | None]:
    from outbox.redaction import redacted_view

    found: list[TaskView] = []
    while True:
        page, cursor = door.reader.tasks(
            door.conn, query, cursor=cursor, limit=min(limit - len(found), 500), within=bulk.PATIENCE
        )
        found += page
        if cursor is None or len(found) >= limit:
            return [redacted_view(task) for task in found], cursor


def _application_knows(door: Door) -> Explains:
    """What the application's module knows of it. Where that cannot be imported, what the outbox knows must do."""

    def asked(conn: Conn, task: TaskView, why: Why) -> Why | None:
        from outbox.app import explains

        if not door.settings.app:
            return None
        try:
            knows = explains(door.settings.app)
        except Exception as error:
            show.note(f"{door.settings.app} was not asked why: {type(error).__name__}: {error}")
            return None
        return knows(conn, task, why) if knows else None

    return asked


def _say_attempt(number: int, attempt: AttemptView) -> None:
    took = ""
    if attempt.started_at and attempt.finished_at:
        took = show.age(attempt.finished_at - attempt.started_at)
    fields = {
        f"attempt {number}": attempt.outcome,
        "  run": attempt.run,
        "  worker": attempt.worker,
        "  started": attempt.started_at,
        "  finished": attempt.finished_at,
        "  took": took,
        "  error": attempt.error,
        "  failure": attempt.failure,
    }
    if not show.on_terminal():
        show.record({**fields, "  traceback": attempt.traceback, "  logs": attempt.logs})
        return
    show.record(fields)
    for text in filter(None, (attempt.traceback, attempt.logs)):
        show.block(text)


def _states() -> list[str]:
    from outbox.reads import PUBLIC_STATES

    return list(PUBLIC_STATES)


COLUMNS = (
    Column("id", lambda t: t.id),
    Column("state", lambda t: t.state, show.state),
    Column("actor", lambda t: t.actor),
    Column("queue", lambda t: t.queue, width=100),
    Column("created", lambda t: t.created_at, width=120),
    Column("due", lambda t: t.due_at, width=180),
    Column("finished", lambda t: t.finished_at, width=160),
    Column("failures", lambda t: t.failures, right=True, width=100),
    Column("args", lambda t: t.args),
    Column("kwargs", lambda t: t.kwargs, width=180),
    Column("reason", lambda t: t.reason, width=140),
)
