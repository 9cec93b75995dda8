"""Worker processes that are killed, frozen, and told to stop (I5, I6, I7)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
from awaiting import await_that
from workshop import Fate, MakeWorkshop, Workshop

pytestmark = pytest.mark.system
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEASE = timedelta(seconds=2)


class Plant:
    """Worker processes, what they leave behind, and a relay in this process."""

    def __init__(self, workshop: Workshop, logs: Path) -> None:
        self.workshop = workshop
        self.logs = logs
        self.hired: list[subprocess.Popen[bytes]] = []
        workshop.db.execute(
            "create table trace (label text, what text, pid int, at timestamptz default clock_timestamp())"
        )
        workshop.db.execute("create table permit (label text)")
        workshop.db.execute("create table tally (label text)")
        workshop.publish()

    def hire(
        self, *, threads: int = 2, command: tuple[str, ...] | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a worker process; returns once it consumes."""
        settings = self.workshop.settings
        environment = {
            **os.environ,
            "DATABASE_URL": settings.database_url,
            "RABBITMQ_URL": settings.rabbitmq_url,
            "OUTBOX_QUEUE_PREFIX": settings.queue_prefix,
            "OUTBOX_LEASE": str(LEASE.total_seconds()),
            "OUTBOX_APP": "plant",
            "PYTHONPATH": f"{HERE}:{ROOT}",
            **variables,
        }
        command = command or (sys.executable, "-m", "outbox.cli", "worker", "--threads", str(threads))
        log = (self.logs / f"worker-{len(self.hired)}.log").open("wb")
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.hired.append(process)
        await_that(lambda: self.at_work(process) or process.poll() is not None)
        return process

    def at_work(self, process: subprocess.Popen[bytes]) -> bool:
        found = self.workshop.db.execute(
            "select from outbox.worker where kind = 'worker' and cardinality(queues) > 0 and (pid = %s or pid in ("
            "select unnest(%s::int[])))",
            [process.pid, children_of(process.pid)],
        )
        return found.fetchone() is not None

    def send(self, actor: str, *args: Any, queue: str = "default") -> str:
        message: dramatiq.Message[Any] = dramatiq.Message(queue, actor, args, {}, {})
        return self.workshop.broker.enqueue(message).message_id

    def traces(self, what: str = "ran") -> list[tuple[str, int]]:
        rows = self.workshop.db.execute("select label, pid from trace where what = %s order by at", [what])
        return [(label, pid) for label, pid in rows.fetchall()]

    def labels(self, what: str = "ran") -> list[str]:
        return [label for label, _ in self.traces(what)]

    def permit(self, *labels: str) -> None:
        for label in labels:
            self.workshop.db.execute("insert into permit values (%s)", [label])

    def fate(self, id: str) -> Fate:
        return self.workshop.fate(id)

    def log(self, number: int) -> str:
        """What the worker hired as that number has said."""
        return (self.logs / f"worker-{number}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in self.hired:
            process.kill()
            process.wait()


def children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture
def plant(make_workshop: MakeWorkshop, tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(make_workshop(lease=LEASE), tmp_path)
    yield plant
    plant.close()
    for log in sorted(tmp_path.glob("*.log")):
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")


def restarted_when_dead(start: Callable[[], subprocess.Popen[bytes]], stop: threading.Event) -> None:
    """As an orchestrator does it."""
    process = start()
    while not stop.wait(0.05):
        if process.poll() is not None:
            process = start()


def test_tasks_of_a_killed_worker_start_again_in_seconds_and_no_failure_is_counted(plant: Plant) -> None:
    first, second = plant.hire(threads=1), plant.hire(threads=1)
    tasks = [plant.send("hold", label) for label in ("a", "b")]
    await_that(lambda: sorted(plant.labels("started")) == ["a", "b"])
    victim = dict(plant.traces("started"))["a"]
    died = time.monotonic()
    (first if first.pid == victim else second).kill()
    plant.permit("b")
    await_that(lambda: plant.labels("started").count("a") == 2)
    assert time.monotonic() - died < 3 * LEASE.total_seconds() + 2
    plant.permit("a")
    fate = plant.workshop.await_state(tasks[0], "succeeded")
    assert (fate.failures, fate.crashes, fate.outcomes) == (0, 0, ["interrupted"])
    assert plant.fate(tasks[1]).attempts == []


def test_a_frozen_worker_that_wakes_late_settles_nothing_starts_nothing_and_works_on(plant: Plant) -> None:
    frozen = plant.hire(threads=1)
    task = plant.send("hold_and_count", "a")
    await_that(lambda: plant.labels("started") == ["a"])
    held = plant.send("quick", "held")  # claimed behind it, not started
    plant.workshop.await_state(held, "running")
    os.kill(frozen.pid, signal.SIGSTOP)
    other = plant.hire(threads=1)
    await_that(lambda: plant.labels("started") == ["a", "a"])
    plant.permit("a")
    fate = plant.workshop.await_state(task, "succeeded")
    plant.workshop.await_all("succeeded", 2)
    before = plant.workshop.fates()

    os.kill(frozen.pid, signal.SIGCONT)
    await_that(lambda: plant.labels("ended").count("a") == 2)  # it ends its run, late
    await_that(lambda: plant.at_work(frozen))  # and joins again
    assert plant.workshop.fates() == before
    assert plant.traces() == [("held", other.pid)]
    assert plant.workshop.db.execute("select count(*) from tally").fetchone() == (1,)
    assert (fate.failures, fate.crashes) == (0, 0)

    other.terminate()
    assert other.wait(10) == 0
    plant.send("quick", "again")
    await_that(lambda: ("again", frozen.pid) in plant.traces())


@pytest.mark.timeout(90)
def test_a_task_that_kills_its_process_ends_dead_and_costs_its_neighbours_nothing_but_time(plant: Plant) -> None:
    stop = threading.Event()
    orchestrator = threading.Thread(
        target=restarted_when_dead, args=(lambda: plant.hire(threads=4, OUTBOX_LEASE="1.5"), stop)
    )
    neighbours = [plant.send("hold", f"n{n}") for n in range(3)]
    orchestrator.start()
    try:
        await_that(lambda: len(plant.labels("started")) == 3)
        poison = plant.send("kill", "poison")
        neighbours += [plant.send("quick", f"q{n}") for n in range(20)]
        plant.permit("n0", "n1", "n2")
        fate = plant.workshop.await_state(poison, "dead", timeout=timedelta(seconds=60))
        for id in neighbours:
            plant.workshop.await_state(id, "succeeded", timeout=timedelta(seconds=30))
    finally:
        stop.set()
        orchestrator.join()
    assert (fate.crashes, fate.failures) == (3, 0)
    assert plant.labels("started").count("poison") in (3, 4)  # once among others, three times alone; or alone at once
    fates = plant.workshop.fates()
    assert {(fates[id].failures, fates[id].crashes) for id in fates if str(id) in neighbours} == {(0, 0)}


def test_sigterm_lets_run_what_runs_and_hands_over_what_waits(plant: Plant) -> None:
    leaving = plant.hire(threads=1)
    running = plant.send("hold", "a")
    await_that(lambda: plant.labels("started") == ["a"])
    waiting = [plant.send("quick", f"w{n}") for n in range(6)]  # more than a worker of one thread may hold
    await_that(lambda: {plant.fate(id).state for id in waiting} == {"running", "published"})
    leaving.terminate()
    await_that(lambda: "running" not in {plant.fate(id).state for id in waiting}, timedelta(seconds=1.5))
    staying = plant.hire(threads=1)
    for id in waiting:  # while the first worker still runs its task
        plant.workshop.await_state(id, "succeeded", timeout=timedelta(seconds=3))
    assert leaving.poll() is None
    assert {pid for _, pid in plant.traces()} == {staying.pid}
    plant.permit("a")
    assert leaving.wait(10) == 0
    fate = plant.workshop.await_state(running, "succeeded")
    assert plant.labels("started") == ["a"]
    assert (fate.failures, fate.attempts) == (0, [])


def test_a_worker_that_exceeds_its_grace_leaves_its_task_to_others_at_once(plant: Plant) -> None:
    leaving = plant.hire(threads=1, OUTBOX_SHUTDOWN_GRACE="0.5", OUTBOX_LEASE="30")
    task = plant.send("hold", "a")
    await_that(lambda: plant.labels("started") == ["a"])
    plant.hire(threads=1)
    leaving.terminate()
    assert leaving.wait(10) == 0
    await_that(lambda: plant.labels("started") == ["a", "a"], timedelta(seconds=5))
    plant.permit("a")
    fate = plant.workshop.await_state(task, "succeeded")
    assert (fate.failures, fate.crashes, fate.suspect) == (0, 0, False)


def test_a_worker_that_exceeds_its_grace_ends_although_a_thread_of_its_task_runs_on(plant: Plant) -> None:
    """Its tasks are somebody else's from then on: nothing of them may go on here."""
    leaving = plant.hire(threads=1, OUTBOX_SHUTDOWN_GRACE="0.2", OUTBOX_LEASE="30")
    task = plant.send("hold_its_process", "a")
    await_that(lambda: plant.labels("started") == ["a"])
    leaving.terminate()
    assert leaving.wait(10) == 0
    fate = plant.workshop.await_state(task, "pending", "published", timeout=timedelta(seconds=5))  # it has left
    assert (fate.failures, fate.suspect) == (0, False)


def test_an_async_actor_that_blocks_its_event_loop_cannot_hold_up_the_end(plant: Plant) -> None:
    """Dramatiq waits for its loop without an end."""
    soon = (
        "from datetime import timedelta; from outbox import cli, worker; worker.LAST = timedelta(seconds=1); cli.main()"
    )
    leaving = plant.hire(command=(sys.executable, "-c", soon, "worker", "--threads", "1"), OUTBOX_SHUTDOWN_GRACE="0.2")
    plant.send("hold_the_loop", "a")
    await_that(lambda: plant.labels("started") == ["a"])
    leaving.terminate()
    assert leaving.wait(15) == 0


def test_a_worker_that_can_record_no_outcome_any_more_says_that_it_does_not_live(plant: Plant) -> None:
    plant.hire(threads=1, OUTBOX_HEALTH_PORT="0")
    served = await_that(lambda: re.search(r"health is served.*?port=\D*(\d+)", plant.log(0)))
    livez = f"http://127.0.0.1:{served[1]}/livez"
    assert status(livez) == 200
    plant.send("end_settling", "a")
    await_that(lambda: status(livez) == 503)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_second_signal_ends_the_process_now(plant: Plant) -> None:
    worker = plant.hire(threads=1)
    plant.send("hold", "a")
    await_that(lambda: plant.labels("started") == ["a"])
    worker.terminate()
    await_that(lambda: "worker stops" in plant.log(0))
    worker.terminate()
    assert worker.wait(3) != 0


def test_plain_dramatiq_runs_the_actors_and_stops_in_order(plant: Plant) -> None:
    master = plant.hire(
        command=(str(Path(sys.executable).with_name("dramatiq")), "plant", "-p", "1", "-t", "2"), OUTBOX_LEASE="10"
    )
    tasks = [plant.send("quick", f"q{n}") for n in range(5)] + [plant.send("hold", "a")]
    await_that(lambda: plant.labels("started") == ["a"])
    master.terminate()
    plant.permit("a")
    assert master.wait(15) == 0
    for id in tasks:
        assert plant.workshop.await_state(id, "succeeded").failures == 0
