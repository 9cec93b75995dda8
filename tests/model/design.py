"""The design as a small machine, explored whole: every order of steps, with crashes anywhere, up to a bound.

A step is named after the ledger's transition. `explore` walks breadth first, so what it finds is a shortest story. Wrong
designs are the same machine with one thing done the wrong way (`Design`): each breaks an invariant, or loses a task.

What is left out: time (a due date is a step that may come at any moment), lanes, retries that fail again. Lost means: the
world heals, no fault comes any more, and still no order of steps brings the task to an outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Design", "Finding", "World", "crash", "explore", "freeze", "wipe"]


class Design(NamedTuple):
    """What is done the right way. Each wrong design changes one word of it."""

    fences: bool = True
    keep_fence_when_lost: bool = True
    confirm_before_mark: bool = True
    keep_row_when_published: bool = True
    claim_by_state: bool = True
    ack_after_record: bool = True
    settle_by_run: bool = True
    rescue_by_lease: bool = True
    lost_by_epoch: bool = True
    epoch_before_declare: bool = True
    dead_in_database: bool = True
    #: The nets themselves, to be taken away: of tasks whose worker died, and of messages that the broker lost.
    rescue: bool = True
    find_lost: bool = True


class Row(NamedTuple):
    """A task in PostgreSQL. `run` is the run id of its claim; an outcome ends it."""

    state: str = "absent"
    fence: int = 0
    epoch: int = 0
    run: int = 0


class Relay(NamedTuple):
    """A batch of one: its row is locked from the claim to the mark."""

    task: int
    fence: int
    epoch: int
    phase: str


class Worker(NamedTuple):
    """`message` is (task, fence); `attached` until its connection is lost. Frozen, it misses its lease and wakes later."""

    phase: str = "idle"
    message: tuple[int, int] = (0, 0)
    run: int = 0
    attached: bool = True
    leased: bool = True
    #: It has been frozen: it is told so when it settles, and starts nothing more until then.
    late: bool = False


class World(NamedTuple):
    rows: tuple[Row, ...]
    workers: tuple[Worker, ...]
    relay: Relay | None = None
    messages: tuple[tuple[int, int], ...] = ()
    dead_letters: tuple[int, ...] = ()
    queue: bool = True
    epoch: int = 0
    #: Whoever found the queue missing, in the epoch that it saw, and what it has done about it.
    finder: tuple[int, str] | None = None
    cursor: int = -1
    runs: int = 0
    faults: int = 0
    broken: str = ""

    def row(self, task: int, row: Row) -> World:
        return self._replace(rows=(*self.rows[:task], row, *self.rows[task + 1 :]))

    def worker(self, number: int, worker: Worker) -> World:
        return self._replace(workers=(*self.workers[:number], worker, *self.workers[number + 1 :]))

    def put(self, message: tuple[int, int]) -> World:
        return self._replace(messages=tuple(sorted((*self.messages, message))))

    def take(self, message: tuple[int, int]) -> World:
        rest = list(self.messages)
        rest.remove(message)
        return self._replace(messages=tuple(rest))

    def breaks(self, invariant: str) -> World:
        return self if self.broken else self._replace(broken=invariant)


Step = tuple[str, World]
Steps = Callable[[World, Design], Iterator[Step]]
OUTCOMES = ("succeeded", "dead")
#: A fence is told apart from those before it, and cannot be guessed.
NEXT, FORGED = 1, -1


# ---------------------------------------------------------------------- enqueue and relay


def commit(w: World, d: Design) -> Iterator[Step]:
    """In any order: an id is drawn before its transaction commits."""
    for task, row in enumerate(w.rows):
        if row.state == "absent":
            yield f"commit {task}", w.row(task, Row("pending"))


def claim_due(w: World, d: Design) -> Iterator[Step]:
    for task, row in enumerate(w.rows):
        seen = d.claim_by_state or task > w.cursor
        if w.relay is None and row.state == "pending" and seen:
            phase = "claimed" if d.confirm_before_mark else "to be marked"
            yield (
                f"claim due {task}",
                w._replace(relay=Relay(task, row.fence, w.epoch, phase), cursor=max(w.cursor, task)),
            )


def publish(w: World, d: Design) -> Iterator[Step]:
    if w.relay and w.relay.phase == "claimed":
        message = (w.relay.task, w.relay.fence)
        if w.queue:
            sent = "confirmed" if d.confirm_before_mark else ""
            yield "publish", w.put(message)._replace(relay=w.relay._replace(phase=sent) if sent else None)
        else:
            yield "returned", w._replace(relay=None)


def mark_published(w: World, d: Design) -> Iterator[Step]:
    if not w.relay or w.relay.phase not in ("confirmed", "to be marked"):
        return
    task, _, epoch, phase = w.relay
    after = w._replace(relay=None if phase == "confirmed" else w.relay._replace(phase="claimed"))
    row = w.rows[task]
    if row.state == "pending":
        state = "published" if d.keep_row_when_published else "gone"
        after = after.row(task, row._replace(state=state, epoch=epoch))
    if phase != "confirmed":
        after = after.breaks("I4")
    yield f"mark published {task}", after


# ---------------------------------------------------------------------- the broker lost it


def find_missing(w: World, d: Design) -> Iterator[Step]:
    """See that it is missing; commit the next epoch; declare it. Two of the three can be swapped."""
    if w.finder is None and not w.queue:
        yield "find queue missing", w._replace(finder=(w.epoch, "found"))
    elif w.finder is not None:
        seen, phase = w.finder
        first = "begin epoch" if d.epoch_before_declare else "declare"
        if phase == "done":
            yield "finder ends", w._replace(finder=None)
        elif (first == "begin epoch") == (phase == "found"):
            yield (
                "begin epoch",
                w._replace(epoch=max(w.epoch, seen + 1), finder=(seen, "half" if phase == "found" else "done")),
            )
        else:
            yield "declare queue", w._replace(queue=True, finder=(seen, "half" if phase == "found" else "done"))


def republish_lost(w: World, d: Design) -> Iterator[Step]:
    """Rows of older epochs are due again, with the same fence: the first copy wins."""
    for task, row in enumerate(w.rows):
        old = row.epoch < w.epoch or not d.lost_by_epoch
        if d.find_lost and row.state == "published" and old:
            fence = row.fence if d.keep_fence_when_lost else row.fence + NEXT
            after = w.row(task, row._replace(state="pending", fence=fence))
            waits = (task, row.fence) in w.messages and fence != row.fence
            yield f"republish {task}", after.breaks("first copy wins") if waits else after


# ---------------------------------------------------------------------- worker


def deliver(w: World, d: Design) -> Iterator[Step]:
    for number, worker in enumerate(w.workers):
        if worker.phase == "idle" and worker.leased:
            for message in sorted(set(w.messages)):
                after = w.take(message).worker(number, Worker("got", message, attached=d.ack_after_record))
                yield f"deliver {message} to worker {number}", after


def claim(w: World, d: Design) -> Iterator[Step]:
    for number, worker in enumerate(w.workers):
        task, fence = worker.message
        if worker.phase != "got" or not worker.leased or _locked(w, task):
            continue
        row = w.rows[task]
        free = row.state in ("pending", "published") and (row.fence == fence or not d.fences)
        if free or row.state == "gone":
            run = w.runs + 1
            after = w.row(task, row._replace(state="running", run=run)) if free else w
            after = after.worker(number, worker._replace(phase="runs", run=run))
            yield (
                f"worker {number} claims {task}",
                after.breaks("I3") if fence == FORGED else _watched(after._replace(runs=run)),
            )
        else:
            yield f"worker {number} drops a stale copy of {task}", w.worker(number, Worker())


def record(w: World, d: Design) -> Iterator[Step]:
    """Outcome first; by the run that the row names, or by whoever thinks that it has run."""
    for number, worker in enumerate(w.workers):
        if worker.phase != "runs" or not worker.leased:
            continue
        task = worker.message[0]
        row = w.rows[task]
        done = w.worker(number, worker._replace(phase="recorded"))
        if row.state == "gone" or (row.state == "running" and (row.run == worker.run or not d.settle_by_run)):
            done = done if row.state == "gone" or row.run == worker.run else done.breaks("I3")
            yield f"worker {number} records success {task}", done.row(task, Row("succeeded"))
            dead = done.row(task, Row("dead"))
            if not d.dead_in_database:
                dead = done.row(task, Row("dead letter"))._replace(dead_letters=(*w.dead_letters, task))
            yield f"worker {number} records dead {task}", dead
        else:
            yield f"worker {number} is told that {task} is not its own", done


def acknowledge(w: World, d: Design) -> Iterator[Step]:
    for number, worker in enumerate(w.workers):
        if worker.phase == "recorded":
            yield f"worker {number} acknowledges", w.worker(number, Worker())


def rescue(w: World, d: Design) -> Iterator[Step]:
    """Its worker is dead, or has missed its lease: due at once, new fence."""
    for task, row in enumerate(w.rows):
        if not d.rescue or row.state != "running":
            continue
        lives = any(
            worker.run == row.run and worker.leased for worker in w.workers if worker.phase in ("runs", "recorded")
        )
        if not lives or not d.rescue_by_lease:
            yield f"rescue {task}", w.row(task, Row("pending", row.fence + NEXT, row.epoch))


# ---------------------------------------------------------------------- faults


def forge(w: World, d: Design) -> Iterator[Step]:
    """Whoever can write to RabbitMQ knows ids, and may send other arguments with them; no fence."""
    for task in range(len(w.rows) if w.queue and w.faults else 0):
        yield f"forge a message for {task}", w.put((task, FORGED))._replace(faults=w.faults - 1)


def crash(w: World, d: Design) -> Iterator[Step]:
    if not w.faults:
        return
    after = w._replace(faults=w.faults - 1)
    if w.relay:
        yield "relay dies", after._replace(relay=None)
    if w.finder:
        yield "finder dies", after._replace(finder=None)
    for number, worker in enumerate(w.workers):
        if worker.phase != "idle":
            back = after.put(worker.message) if worker.attached and w.queue else after
            yield f"worker {number} dies", back.worker(number, Worker())


def freeze(w: World, d: Design) -> Iterator[Step]:
    """It misses its lease, and wakes with what it had in hand; the broker has given its message to somebody else."""
    for number, worker in enumerate(w.workers):
        if not worker.leased:
            yield f"worker {number} wakes", w.worker(number, worker._replace(leased=True))
        elif w.faults and worker.phase == "runs":
            back = w.put(worker.message) if worker.attached and w.queue else w
            frozen = worker._replace(leased=False, attached=False, late=True)
            yield f"worker {number} freezes", back.worker(number, frozen)._replace(faults=w.faults - 1)


def wipe(w: World, d: Design) -> Iterator[Step]:
    """RabbitMQ's disk is gone, and every connection."""
    if w.faults:
        workers = tuple(worker._replace(attached=False) for worker in w.workers)
        yield (
            "broker is wiped",
            w._replace(messages=(), dead_letters=(), queue=False, workers=workers, faults=w.faults - 1),
        )


STEPS: tuple[Steps, ...] = (
    commit, claim_due, publish, mark_published, find_missing, republish_lost, deliver, claim, record, acknowledge, rescue,
)  # fmt: skip
FAULTS: tuple[Steps, ...] = (forge, crash, freeze, wipe)
#: Of these steps, the one that is no fault: what was frozen wakes.
HEALING = "wakes"


def _locked(w: World, task: int) -> bool:
    return w.relay is not None and w.relay.task == task


def _watched(w: World) -> World:
    """I7: while a worker's lease lasts, what it runs is not started elsewhere. One that was frozen has missed its lease."""
    running = [worker.message[0] for worker in w.workers if worker.phase == "runs" and not worker.late]
    return w.breaks("I7") if len(running) != len(set(running)) else w


# ---------------------------------------------------------------------- exploring


class Finding(NamedTuple):
    """What a whole exploration found: which invariant broke first and how, or nothing."""

    states: int
    broken: str
    story: list[str]


def explore(
    design: Design, *, tasks: int = 1, workers: int = 2, faults: int = 2, kinds: Sequence[Steps] = FAULTS
) -> Finding:
    """Every state that can be reached. Broken is an invariant's name, or `lost`; the story is a shortest one to it."""
    start = World((Row(),) * tasks, (Worker(),) * workers, faults=faults)
    came: dict[World, tuple[str, World] | None] = {start: None}
    back: dict[World, list[World]] = {start: []}
    ahead = deque([start])
    while ahead:
        world = ahead.popleft()
        if world.broken or len(world.messages) > len(world.rows) + faults - world.faults:
            return Finding(len(came), world.broken or "I5", _story(came, world))
        for what, after, healed in _successors(world, design, kinds):
            if after not in came:
                came[after] = (what, world)
                back[after] = []
                ahead.append(after)
            if healed:
                back[after].append(world)
    lost = _lost(came, back)
    return Finding(len(came), "lost" if lost else "", _story(came, lost) if lost else [])


def _successors(world: World, design: Design, kinds: Sequence[Steps]) -> Iterator[tuple[str, World, bool]]:
    for step in STEPS:
        for what, after in step(world, design):
            yield what, after, True
    for fault in kinds:
        for what, after in fault(world, design):
            yield what, after, what.endswith(HEALING)


def _lost(came: dict[World, tuple[str, World] | None], back: dict[World, list[World]]) -> World | None:
    """The first state from which no healed road leads to every task's outcome."""
    ends = [world for world in came if all(_has_ended(world, task) for task in range(len(world.rows)))]
    saved = set(ends)
    ahead = deque(ends)
    while ahead:
        for before in back[ahead.popleft()]:
            if before not in saved:
                saved.add(before)
                ahead.append(before)
    return next((world for world in came if world not in saved), None)


def _has_ended(world: World, task: int) -> bool:
    return world.rows[task].state in OUTCOMES or task in world.dead_letters


def _story(came: dict[World, tuple[str, World] | None], world: World) -> list[str]:
    story: list[str] = []
    while (before := came[world]) is not None:
        story.append(before[0])
        world = before[1]
    return story[::-1]
