"""Whoever can write to RabbitMQ gets no code run, blocks no worker, and changes no task: with OUTBOX_FOREIGN=refuse."""

from __future__ import annotations

import base64
import os
import resource
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from awaiting import SOON, await_that
from broker_side import admin, depth
from dramatiq.errors import DecodeError
from hostile import ACTOR, PROPERTIES, bodies, body, fenced, nasty
from hypothesis import given, settings
from hypothesis import strategies as st
from workshop import MakeWorkshop, Workshop

from outbox import foreign

SEED = int(os.environ.get("SEED", "0")) or secrets.randbelow(2**31)


class Besieged:
    """A workshop with an actor of ours, and one that only an attacker calls."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.ran: list[int] = []
        self.paid: list[Any] = []
        self.good = workshop.actor(actor_name="good", max_retries=0)(self.ran.append)
        workshop.actor(actor_name=ACTOR, max_retries=0)(lambda *args, **kwargs: self.paid.append((args, kwargs)))
        self.consumer = workshop.broker.station._consumers["default"]

    def put(self, *bodies: bytes, queue: str = "default", dead: bool = False) -> None:
        names = self.workshop.broker.topology
        with admin(self.workshop.settings.rabbitmq_url) as channel:
            for number, each in enumerate(bodies):
                name = names.dead_letters(queue) if dead else names.queue(queue)
                channel.basic_publish("", name, each, PROPERTIES[number % len(PROPERTIES)])

    def good_tasks_between(self, hostile: list[bytes], *, every: int) -> list[UUID]:
        """Sends all of them, and answers the good tasks' ids, once each has succeeded."""
        sent = []
        for start in range(0, len(hostile), every):
            sent.append(UUID(self.good.send(len(sent)).message_id))
            self.put(*hostile[start : start + every])
        soon = SOON + timedelta(milliseconds=5) * len(hostile)
        self.workshop.await_all("succeeded", len(sent), soon)
        self.await_quiet(soon)
        return sent

    def await_quiet(self, soon: timedelta = SOON) -> None:
        station, names = self.workshop.broker.station, self.workshop.broker.topology
        with admin(self.workshop.settings.rabbitmq_url) as channel:
            self.workshop.await_that(
                lambda: (
                    not depth(channel, names.queue("default")) and not depth(channel, names.dead_letters("default"))
                ),
                soon,
            )
        self.workshop.await_that(
            lambda: not station._runs and not self.consumer.unclaimed and not self.consumer._unanswered
        )

    def assert_untouched(self, sent: list[UUID]) -> None:
        """Each good task ran once, nothing else did, and every thread and consumer is the one that it was."""
        worker = self.workshop.worker
        assert worker is not None
        assert all(thread.is_alive() for thread in worker.workers)
        assert self.workshop.broker.station._consumers["default"] is self.consumer
        assert self.paid == []
        assert sorted(self.ran) == list(range(len(sent)))
        fates = self.workshop.fates()
        assert set(fates) == set(sent)
        assert {(f.state, f.failures, f.crashes, f.losses, len(f.outcomes)) for f in fates.values()} == {
            ("succeeded", 0, 0, 0, 0)
        }


@pytest.fixture
def besieged(shop: Workshop) -> Besieged:
    return Besieged(shop)


def test_every_known_trick_between_good_tasks_changes_none_of_them(besieged: Besieged, tmp_path: Path) -> None:
    hostile = list(nasty(tmp_path / "bomb"))
    besieged.assert_untouched(besieged.good_tasks_between(hostile, every=10))
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("number", [1000, pytest.param(30_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_thousands_drawn_at_random_block_nobody_and_fill_no_memory(besieged: Besieged, number: int) -> None:
    print(f"SEED={SEED}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    besieged.assert_untouched(besieged.good_tasks_between(list(bodies(SEED, number)), every=100))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_refused_message_is_kept_whole_counted_and_never_becomes_a_row(besieged: Besieged) -> None:
    refused = body(args=[1])
    count = foreign.FOREIGN.labels("refused")
    before = count._value.get()
    besieged.put(refused)
    besieged.assert_untouched(besieged.good_tasks_between([refused], every=1))
    first, _ = kept = besieged.workshop.audit()
    assert [each["action"] for each in kept] == ["message refused"] * 2
    assert (first["subject"], first["actor"]) == ("queue default", ACTOR)
    assert base64.b64decode(first["body_base64"]) == refused
    assert count._value.get() == before + 2


def test_dead_letters_that_nobody_of_ours_wrote_are_refused_too(besieged: Besieged, tmp_path: Path) -> None:
    besieged.put(*nasty(tmp_path / "bomb"), dead=True)
    besieged.assert_untouched(besieged.good_tasks_between([fenced()], every=1))
    assert {each["action"] for each in besieged.workshop.audit()} == {"message refused", "message set aside"}
    assert not (tmp_path / "bomb").exists()


def test_neither_a_known_id_nor_an_old_fence_starts_or_moves_a_task(besieged: Besieged) -> None:
    shop = besieged.workshop
    id = UUID(besieged.good.send_with_options(args=(99,), delay=3_600_000).message_id)
    fence = "select fence from outbox.task where id = %s"
    ((current,),) = shop.db.execute(fence, [id]).fetchall()
    forged = [
        fenced(actor_name="good", args=[7], message_id=str(id)),
        body(actor_name="good", args=[7], message_id=str(id)),
        body(
            actor_name="good", args=[7], message_id=str(id), options={"outbox_fence": str(current)}
        ),  # not its time yet
    ]
    before = shop.db.execute("select to_jsonb(t) from outbox.task t").fetchall()
    besieged.put(*forged)
    besieged.put(*forged, dead=True)
    besieged.await_quiet()
    assert shop.db.execute("select to_jsonb(t) from outbox.task t").fetchall() == before
    assert (besieged.ran, besieged.paid) == ([], [])


def test_where_foreign_messages_are_adopted_they_run_registered_actors_only(
    make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    shop = make_workshop(foreign="adopt")
    shop.broker.declare_queue("default")
    shop.open()
    besieged = Besieged(shop)
    besieged.put(*(body(actor_name=name) for name in ("os.system", "builtins.exec", "outbox.cli:main")), body())
    await_that(lambda: len(besieged.paid) == 1)
    unknown = [fate for fate in shop.fates().values() if fate.actor != ACTOR]
    assert {fate.failures for fate in unknown} == {0}
    assert len(unknown) == 3


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.dictionaries(
            st.sampled_from(["queue_name", "actor_name", "args", "kwargs", "options", "message_id", "x"]),
            st.recursive(
                st.none() | st.integers() | st.floats() | st.text() | st.just(str(uuid4())),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("outbox_fence"), inner),
                max_leaves=6,
            ),
        ).map(lambda fields: body(**fields)),
    )
)
def test_any_bytes_are_a_message_or_a_decode_error_and_its_token_two_uuids_or_none(content: bytes) -> None:
    try:
        message = foreign.decode(content)
    except DecodeError:
        return
    assert "throws" not in message.options
    token = foreign.token_of(message)
    assert token is None or [str(UUID(each)) for each in token] == list(token)
