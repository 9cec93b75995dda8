"""`make demo`: the whole system under real traffic, a worker and the relay killed in the middle, nothing lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from deploy.local.child import write_atomically
from deploy.local.evidence import FarWorld, Ledger
from deploy.local.place import Place
from deploy.local.screen import Screen, View, summary
from deploy.local.sign_in import dashboard_link
from deploy.local.signals import Signals
from deploy.local.supervisor import Interrupted, Supervisor
from deploy.local.system import Surroundings
from deploy.local.traffic import Refused, Traffic

VICTIMS = ("worker-1", "relay")
BURST_AFTER = timedelta(seconds=15)
BURST = {"sign-ups": 40, "orders": 20, "events": 60}
SENDERS = 4
ONE_LOAD = {"sign-ups": 60, "orders": 30, "events": 60}
ONE_LOAD_LIMIT = timedelta(minutes=4)
LIVE_RATE = 6.0  # requests a second


def run_demo(place: Place, signals: Signals, *, once: bool) -> int:
    """The exit code: 0 when everything promised has arrived, or when Ctrl-C ended the endless demo."""
    with Screen() as screen:
        supervisor = Supervisor(place, tell=screen.tell, stopping=signals.stopping, hurried=signals.hurried)
        try:
            began = time.monotonic()
            screen.tell("starting PostgreSQL, RabbitMQ, the API, relay, workers and scheduler ...")
            surroundings = supervisor.start()
            screen.tell(f"ready after {time.monotonic() - began:.1f} s: {surroundings.api_url}")
            screen.tell(f"dashboard: {dashboard_link(surroundings)}")
            demo = Demo(place, supervisor, surroundings, screen, signals)
            return demo.send_one_load() if once else demo.go_on()
        except Interrupted:
            return 1 if once else 0
        finally:
            screen.close()
            screen.tell("stopping ...")
            supervisor.stop()


class Demo:
    def __init__(
        self, place: Place, supervisor: Supervisor, surroundings: Surroundings, screen: Screen, signals: Signals
    ) -> None:
        self._supervisor = supervisor
        self._surroundings = surroundings
        self._screen = screen
        self._signals = signals
        self._traffic = Traffic(surroundings, give_up=signals.stopping)
        self._ledger = Ledger(surroundings.database_url)
        self._far_world = FarWorld(place)
        self._trial: Trial | None = None
        self._register_endpoint(place)

    def go_on(self) -> int:
        """Traffic until Ctrl-C. After a while comes a burst, and the kill in its middle."""
        stream = Sender(self._endless(), self._screen.tell)
        burst: Sender | None = None
        burst_at = time.monotonic() + BURST_AFTER.total_seconds()
        while not self._signals.stopping():
            self._look()
            if burst is None and time.monotonic() > burst_at:
                burst = Sender(self._requests(BURST), self._screen.tell, threads=SENDERS)
            if burst:
                self._kill_in_the_middle(burst, of=sum(BURST.values()))
        stream.join()
        return 0

    def send_one_load(self) -> int:
        """A fixed load with the kill in its middle, then the verdict."""
        sender = Sender(self._requests(ONE_LOAD), self._screen.tell, threads=SENDERS)
        deadline = time.monotonic() + ONE_LOAD_LIMIT.total_seconds()
        while not self._signals.stopping() and time.monotonic() < deadline:
            self._look()
            self._kill_in_the_middle(sender, of=sum(ONE_LOAD.values()))
            if sender.failed or (sender.done and self._all_arrived()):
                break
        sender.join()
        return self._verdict(sender)

    def _look(self) -> None:
        """About five times a second: tend, read, draw."""
        tasks = self._ledger.read(self._traffic.promises)
        self._far_world.read()
        if self._trial and self._trial.just_survived(tasks.settled):
            self._screen.tell(
                f"all {len(self._trial.unfinished)} tasks that were unfinished then have been carried out"
            )
        restarts = self._supervisor.restarts
        self._screen.show(View(self._surroundings, self._traffic.promises, tasks, self._far_world, restarts))
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            self._supervisor.tend()
            time.sleep(0.05)

    def _kill_in_the_middle(self, sender: Sender, *, of: int) -> None:
        """Once, when half is sent: at the first moment that finds a promised task unfinished, or when all is sent."""
        while self._trial is None and sender.sent >= of // 2:
            unfinished = frozenset(self._ledger.read(self._traffic.promises).unsettled)
            if unfinished or sender.done or sender.failed:
                self._strike(Trial(unfinished))

    def _strike(self, trial: Trial) -> None:
        self._trial = trial
        self._screen.tell(f"kill -9 {' and '.join(VICTIMS)}, with {len(trial.unfinished)} promised tasks unfinished")
        for name in VICTIMS:
            self._supervisor.kill(name)

    def _all_arrived(self) -> bool:
        tasks = self._ledger.tasks
        if tasks.failed:
            return True
        return not (tasks.unsettled or tasks.unfinished or self._far_world.missing(self._traffic.promises))

    def _verdict(self, sender: Sender) -> int:
        promises, tasks = self._traffic.promises, self._ledger.tasks
        missing = self._far_world.missing(promises)
        good = (
            sender.done
            and promises.answered == ONE_LOAD
            and self._all_arrived()
            and not tasks.failed
            and not tasks.by_state["dead"]
        )
        self._screen.close()
        for line in summary(promises, tasks, self._far_world, missing):
            self._screen.tell(line)
        self._screen.tell("everything promised was carried out" if good else "NOT everything was carried out")
        return 0 if good else 1

    def _endless(self) -> Iterator[Callable[[], None]]:
        kinds = (self._traffic.sign_up, self._traffic.order, self._traffic.event)
        while not self._signals.stopping():
            yield random.choices(kinds, weights=(2, 1, 3))[0]
            time.sleep(random.expovariate(LIVE_RATE))

    def _requests(self, load: Mapping[str, int]) -> Iterator[Callable[[], None]]:
        kinds = {"sign-ups": self._traffic.sign_up, "orders": self._traffic.order, "events": self._traffic.event}
        requests = [kinds[kind] for kind, count in load.items() for _ in range(count)]
        random.shuffle(requests)
        return iter(requests)

    def _register_endpoint(self, place: Place) -> None:
        file = place.directory / "demo_endpoint"
        known = file.read_text().strip() if file.exists() else None
        write_atomically(file, self._traffic.register_endpoint(known) + "\n")


class Sender:
    """Sends requests beside the screen, in one thread or a few. The first refusal ends it."""

    def __init__(
        self, requests: Iterator[Callable[[], None]], tell: Callable[[str], None], *, threads: int = 1
    ) -> None:
        self.sent = 0
        self.failed = False
        self._requests = requests
        self._tell = tell
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        """Everything was sent and answered."""
        return not self.failed and not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        try:
            while not self.failed and (request := self._next()):
                request()
                with self._lock:
                    self.sent += 1
        except Exception as error:
            self.failed = True
            self._tell(f"the API refused: {error}" if isinstance(error, Refused) else f"the sender broke: {error!r}")

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            return next(self._requests, None)


@dataclass
class Trial:
    """A kill in the middle of work: which promised tasks were unfinished then, and whether all of them ended well."""

    unfinished: frozenset[str]
    survived: bool = False

    def just_survived(self, settled: dict[str, str]) -> bool:
        """True once, when the last of them has succeeded."""
        if self.survived or any(settled.get(id) != "succeeded" for id in self.unfinished):
            return False
        self.survived = True
        return True
