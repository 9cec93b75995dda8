"""What the demo shows: a live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.local.evidence import STATES, FarWorld, Tasks
from deploy.local.system import Surroundings
from deploy.local.traffic import Arrival, Promises

COLOURS = {"succeeded": "green", "dead": "red", "cancelled": "magenta", "retrying": "yellow", "running": "cyan"}
LINES_APART = 2.0


@dataclass(frozen=True)
class View:
    """One moment of the demo."""

    surroundings: Surroundings
    promises: Promises
    tasks: Tasks
    far_world: FarWorld
    restarts: dict[str, int]


@dataclass
class Screen:
    """Use as a context; `tell` adds a line of the story, `show` draws the moment."""

    console: Console = field(default_factory=Console)
    _story: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    _live: Live | None = None
    _last_line: float = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the last picture standing; what is told afterwards comes below it."""
        if self._live:
            live, self._live = self._live, None
            with suppress(OSError):
                live.stop()

    def tell(self, text: str) -> None:
        line = f"{datetime.now():%H:%M:%S} {text}"
        self._story.append(line)
        if self._live is None:
            with suppress(OSError):  # a closed terminal must not keep the system from being stopped in order
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, view: View) -> None:
        if not self.console.is_terminal:
            self._show_line(view)
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=False)
            self._live.start()
        self._live.update(self._picture(view), refresh=True)

    def _show_line(self, view: View) -> None:
        if time.monotonic() - self._last_line < LINES_APART:
            return
        self._last_line = time.monotonic()
        states = ", ".join(f"{view.tasks.by_state[state]} {state}" for state in STATES if view.tasks.by_state[state])
        far = view.far_world
        self.tell(
            f"requests {sum(view.promises.answered.values())} | tasks: {states or 'none'} | "
            f"mails {far.mails} | webhooks {far.webhooks} | lost: {view.tasks.lost}"
        )

    def _picture(self, view: View) -> RenderableType:
        return Group(
            Columns([_requests(view), _states(view), _arrivals(view)], padding=(0, 1)),
            Panel(
                Text("\n".join(self._story), overflow="ellipsis", no_wrap=True),
                title="what happens",
                title_align="left",
            ),
            Text(
                f"API {view.surroundings.api_url}  keys and addresses: .dev/env  mail: .dev/mail/  "
                "kill anything you like: kill -9 $(cat .dev/pids/relay.pid)  end: Ctrl-C",
                style="dim",
            ),
        )


def summary(promises: Promises, tasks: Tasks, far_world: FarWorld, missing: list[Arrival]) -> list[str]:
    """The end of `--once`, in lines."""
    succeeded = sum(state == "succeeded" for state in tasks.settled.values())
    absent = Counter(arrival.kind for arrival in missing)
    lines = [f"requests answered: {', '.join(f'{count} {kind}' for kind, count in promises.answered.items())}"]
    lines += [f"tasks promised: {len(promises.task_ids)}, succeeded: {succeeded}, failed: {tasks.failed}"]
    for kind, expected in Counter(arrival.kind for arrival in promises.arrivals).items():
        lines += [f"{kind}: {expected - absent[kind]} of {expected} arrived"]
    lines += [f"missing: {arrival.kind} for {arrival.about}" for arrival in missing[:20]]
    return [*lines, f"repeated mails and webhooks: {far_world.repeats}", f"lost: {tasks.lost}"]


def _requests(view: View) -> Panel:
    table = _grid()
    for kind, count in view.promises.answered.items():
        table.add_row(kind, str(count))
    table.add_row("tasks promised", str(len(view.promises.task_ids)))
    return Panel(table, title="requests in")


def _states(view: View) -> Panel:
    table = _grid()
    for state in STATES:
        table.add_row(Text(state, style=COLOURS.get(state, "")), str(view.tasks.by_state[state]))
    return Panel(table, title="tasks" if view.tasks.reachable else "tasks (PostgreSQL is down)")


def _arrivals(view: View) -> Panel:
    far, lost = view.far_world, view.tasks.lost
    table = _grid()
    table.add_row("mails out", str(far.mails))
    table.add_row("webhooks out", str(far.webhooks))
    table.add_row("repeated", str(far.repeats))
    table.add_row("restarted", str(sum(view.restarts.values())))
    table.add_row(Text("lost", style="bold"), Text(str(lost), style="bold red" if lost else "bold green"))
    return Panel(table, title="arrived")


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    return table
