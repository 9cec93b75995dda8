"""An outage costs no attempt, needs no hand, and bounds memory (I5). Servers and relays are killed, blocked and wiped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import (
    MARKS,
    Launch,
    MakeRelay,
    Queues,
    count,
    fence_of,
    id_of,
    insert,
    let_marks_wait,
    let_promotions_wait,
)

from deploy.local.servers import Postgres, RabbitMQ
from outbox import database

MINUTE = timedelta(seconds=60)


def _costless(outbox: Outbox) -> bool:
    found = outbox.conn.execute(
        "select count(*) from outbox.task where failures > 0 or refusals > 0 or attempts <> '[]'"
    )
    return found.fetchall() == [(0,)]


def test_while_the_broker_is_short_of_memory_the_rows_wait(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, own_rabbitmq: RabbitMQ
) -> None:
    """I5: blocked by an alarm, not refused; it goes on by itself when the alarm is over."""
    relay = make_relay(confirm_timeout=timedelta(seconds=2))
    first = outbox.add()
    await_that(lambda: outbox.state(first) == "published")
    own_rabbitmq.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        ids = outbox.add_many(100)
        await_that(lambda: relay.publisher.blocked)
        assert not relay.publisher.ready
        assert {outbox.state(id) for id in ids} == {"pending"}
    finally:
        own_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        began = time.monotonic()
    await_that(lambda: outbox.count("published") == 101)
    print(f"all published {time.monotonic() - began:.1f} s after the alarm")
    assert _costless(outbox)
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    assert {id_of(body): fence_of(body) for body in queues.take()} == fences


def test_a_broker_that_was_killed_is_served_again_as_soon_as_it_is_back(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, own_rabbitmq: RabbitMQ
) -> None:
    """I4, I5: SIGKILL in the middle of a drain. RabbitMQ 3.10 killed so soon after a queue's declaration has it without

    a leader afterwards: it has lost what it confirmed, and takes messages without a word. Other queues must go on."""
    make_relay(relay_batch=50, relay_window=50_000, confirm_timeout=timedelta(seconds=1), lease=timedelta(seconds=2))
    insert(outbox, 3_000)
    await_that(lambda: count(outbox, "published") > 200)
    own_rabbitmq.kill()
    late = outbox.add()
    assert outbox.state(late) == "pending"
    own_rabbitmq.start()
    began = time.monotonic()
    await_that(lambda: outbox.state(late) == "published" and count(outbox, "published") == 3_000, MINUTE)
    print(f"all published {time.monotonic() - began:.1f} s after RabbitMQ was back")
    tried = "select count(*) from outbox.task where failures > 0 or attempts <> '[]'"
    assert outbox.conn.execute(tried).fetchall() == [(0,)]  # a queue declared anew may refuse what was on its way to it
    fences = dict(outbox.conn.execute("select id, fence from outbox.task").fetchall())
    taken = queues.take("bulk") + queues.take()
    assert {id_of(body): fence_of(body) for body in taken} == fences


def test_what_a_wiped_disk_lost_is_published_again(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, own_rabbitmq: RabbitMQ
) -> None:
    """I2: everything that was published of the older epoch, in every queue, also where nothing new comes; same fences."""
    relay = make_relay()
    ids = outbox.add_many(200) + outbox.add_many(200, queue="other")
    await_that(lambda: outbox.count("published") == 400)
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    epochs = dict(outbox.conn.execute("select name, epoch from outbox.queue").fetchall())
    own_rabbitmq.kill()
    own_rabbitmq.wipe()
    own_rabbitmq.start()
    began = time.monotonic()
    await_that(lambda: (queues.depth(), queues.depth("other")) == (200, 200), MINUTE)
    print(f"all published again {time.monotonic() - began:.1f} s after RabbitMQ was back, with an empty disk")
    await_that(lambda: outbox.count("published") == 400)
    bodies = queues.take() + queues.take("other")
    assert {id_of(body): fence_of(body) for body in bodies} == fences
    assert set(fences) == set(ids)
    assert dict(outbox.conn.execute("select name, epoch from outbox.queue").fetchall()) == {
        name: epoch + 1 for name, epoch in epochs.items()
    }
    assert {(row["losses"], row["failures"]) for row in outbox.all()} == {(1, 0)}
    assert relay.alive


@pytest.mark.parametrize("part", ["keeper", "registry", "chronicle", "carrier"])
def test_a_relay_without_one_of_its_parts_is_not_alive(make_relay: MakeRelay, part: str) -> None:
    relay = make_relay()
    assert relay.alive
    getattr(relay, part).stop()
    await_that(lambda: not relay.alive)


def test_a_database_that_was_killed_is_served_again_as_soon_as_it_is_back(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay, own_postgres: Postgres
) -> None:
    """I4, I5: SIGKILL in the middle of a drain: what was confirmed and not yet marked goes again with its fence,

    and so does a mark that did not wait for the disk. Nothing goes more than once again."""
    relay = make_relay(relay_batch=50, relay_window=50_000)
    insert(outbox, 3_000)
    await_that(lambda: count(outbox, "published") > 200)
    own_postgres.kill()
    own_postgres.start()
    began = time.monotonic()
    outbox.conn.close()
    outbox.conn = database.connect(outbox.url, name="test")
    await_that(lambda: count(outbox, "published") == 3_000, MINUTE)
    print(f"all published {time.monotonic() - began:.1f} s after PostgreSQL was back")
    assert relay.alive
    assert _costless(outbox)
    fences = dict(outbox.conn.execute("select id, fence from outbox.task").fetchall())
    bodies = queues.take("bulk")
    assert {(id_of(body), fence_of(body)) for body in bodies} == set(fences.items())
    assert max(Counter(id_of(body) for body in bodies).values()) <= 2
    outbox.engine.dispose()
    late = outbox.add()  # and wake-ups, promotion and registry work again too
    await_that(lambda: outbox.state(late) == "published")


def test_a_relay_killed_between_confirm_and_mark_leaves_its_rows_due(
    outbox: Outbox, queues: Queues, launch: Launch, make_relay: MakeRelay
) -> None:
    """I3, I4: the next relay publishes them again, with the same fences. A worker takes the first copy, the other is stale."""
    lock = let_marks_wait(outbox)
    ids = outbox.add_many(20)
    relay = launch()
    await_that(lambda: outbox.conn.execute(MARKS).fetchall())
    assert queues.depth() == 20
    relay.send_signal(signal.SIGKILL)
    relay.wait()
    lock.close()
    await_that(lambda: not outbox.conn.execute(MARKS).fetchall())
    assert {outbox.state(id) for id in ids} == {"pending"}
    make_relay()
    await_that(lambda: outbox.count("published") == 20)
    fences = {row["id"]: row["fence"] for row in outbox.all()}
    bodies = queues.take()
    assert len(bodies) == 40
    assert {(id_of(body), fence_of(body)) for body in bodies} == set(fences.items())
    assert _costless(outbox)


def test_a_relay_frozen_while_it_promotes_lets_go_of_its_rows_after_a_lease(
    outbox: Outbox, launch: Launch, make_relay: MakeRelay
) -> None:
    """I5: else nobody else could promote, cancel or move them until it wakes."""
    lock = let_promotions_wait(outbox)
    id = outbox.add(delay=timedelta(seconds=0.1))
    frozen = launch(OUTBOX_LEASE="1")
    await_that(lambda: outbox.conn.execute(MARKS).fetchall())
    frozen.send_signal(signal.SIGSTOP)
    lock.close()  # its statement ends, and nobody commits it
    await_that(lambda: not outbox.conn.execute(MARKS).fetchall())
    make_relay()
    await_that(lambda: outbox.state(id) == "published", timedelta(seconds=10))


def test_sigterm_ends_a_relay_in_order_and_at_once(outbox: Outbox, queues: Queues, launch: Launch) -> None:
    relay = launch()
    first = outbox.add()
    await_that(lambda: outbox.state(first) == "published")
    assert [kind for (kind,) in outbox.conn.execute("select kind from outbox.worker").fetchall()] == ["relay"]
    began = time.monotonic()
    relay.terminate()
    assert relay.wait(10) == 0
    print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")
    assert outbox.conn.execute("select from outbox.worker").fetchall() == []


def test_while_the_broker_is_away_memory_stays_bounded_and_sigterm_ends_the_relay(
    outbox: Outbox, queues: Queues, launch: Launch
) -> None:
    """I5: with 100,000 rows that wait, through many attempts to connect; then it exits 0 within seconds."""
    with _Refusing() as broker:
        relay = launch(RABBITMQ_URL=broker.in_place_of(queues.url))
        await_that(lambda: broker.attempts >= 4)
        memory, files = _memory(relay), _open_files(relay)
        insert(outbox, 100_000)
        outbox.add()
        known = "select count(*) from outbox.queue"
        await_that(lambda: outbox.conn.execute(known).fetchall() == [(2,)])  # the relay has seen them
        before = broker.attempts
        await_that(lambda: broker.attempts >= before + 8)
        grown, more = _memory(relay) - memory, _open_files(relay) - files
        print(f"{grown / 2**20:.1f} MiB and {more} open files more, with 100,000 rows waiting")
        assert grown < 30 * 2**20
        assert more < 20
        assert count(outbox, "pending") == 100_000
        began = time.monotonic()
        relay.terminate()
        assert relay.wait(10) == 0
        print(f"ended {time.monotonic() - began:.1f} s after SIGTERM, with the broker away")
        assert time.monotonic() - began < 8


class _Refusing:
    """Something listens where the broker was, and hangs up on everybody."""

    def __enter__(self) -> _Refusing:
        self.attempts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._refuse, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def in_place_of(self, url: str) -> str:
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self._listener.getsockname()[1]}"))

    def _refuse(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.attempts += 1
            client.close()


def _memory(process: subprocess.Popen[str]) -> int:
    [line] = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def _open_files(process: subprocess.Popen[str]) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))
