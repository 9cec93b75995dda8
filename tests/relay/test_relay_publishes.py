"""What is due is published: as Dramatiq's message, in order, soon after the commit, in few statements."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dramatiq
import pytest
from awaiting import await_that
from outbox_rows import Outbox
from relay_eyes import MakeRelay, Queues, Tap, count, id_of, insert

FIELDS = {"queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"}
FOREVER = timedelta(hours=1)


@pytest.fixture
def tap(outbox: Outbox) -> Iterator[Tap]:
    tap = Tap(outbox.url)
    yield tap
    tap.close()


def test_a_due_task_becomes_dramatiqs_own_message_under_its_own_id_and_fence(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I8."""
    message: dramatiq.Message[None] = dramatiq.Message(
        "mail", "send_mail", (1, "två"), {"to": {"a": [None, 1.5]}}, {"max_retries": 3}
    )
    id = outbox.add(message=message)
    fence = outbox.row(id)["fence"]
    make_relay()
    await_that(lambda: outbox.state(id) == "published")
    [body] = queues.take()
    assert set(json.loads(body)) == FIELDS
    decoded: dramatiq.Message[None] = dramatiq.Message.decode(body)
    assert (decoded.queue_name, decoded.actor_name) == ("mail", "send_mail")
    assert (list(decoded.args), decoded.kwargs) == ([1, "två"], {"to": {"a": [None, 1.5]}})
    assert decoded.message_id == str(id)
    assert decoded.options == {"max_retries": 3, "outbox_fence": str(fence)}
    assert abs(decoded.message_timestamp / 1000 - datetime.now(UTC).timestamp()) < 60


def test_text_arrives_as_it_was_given(outbox: Outbox, queues: Queues, make_relay: MakeRelay) -> None:
    """I8: also where AMQP splits the body into several frames."""
    empty = outbox.add("")
    make_relay()
    await_that(lambda: outbox.state(empty) == "published")
    room = 131_064 - len(queues.take()[0])  # for the text of a body of one frame
    texts = ["\N{SNOWMAN} 日本語 \U0001f600", 'quotes " and \\ and \x01', "e\u0301 \u2028 \ufeff", "x" * 140_000]
    texts += ["x" * (room + near) for near in range(-3, 4)]
    texts += ["日" * 300_000]
    given = {outbox.add(text): text for text in texts}
    await_that(lambda: outbox.count("published") == len(given) + 1)
    bodies = queues.take()
    assert {id_of(body): json.loads(body)["args"] for body in bodies} == {id: [text] for id, text in given.items()}
    assert {len(body) - 131_064 for body in bodies} >= set(range(-3, 4))


def test_the_largest_bodies_allowed_go_out_together(outbox: Outbox, queues: Queues, make_relay: MakeRelay) -> None:
    """1 MiB each, in several frames of one write, neighbours of small ones; persistent all of them."""
    text = "x" * (1_048_576 - 100)
    ids = [outbox.add(n, text if n % 2 else "small") for n in range(10)]
    make_relay()
    await_that(lambda: outbox.count("published") == 10)
    bodies = queues.take()
    assert {id_of(body) for body in bodies} == set(ids)
    assert sorted(len(body) > 1_000_000 for body in bodies) == [False] * 5 + [True] * 5
    assert {properties.delivery_mode for properties in queues.properties} == {2}


def test_lower_priorities_go_first_and_then_the_longest_due(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    ids = {number: outbox.add(number, priority=10 - number // 3) for number in range(9)}
    due = "update outbox.task set due_at = clock_timestamp() + %s * interval '1 second' where id = %s"
    for place, number in enumerate((2, 0, 1, 5, 3, 4, 8, 6, 7)):
        outbox.conn.execute(due, [place - 60, ids[number]])
    make_relay(relay_lanes=1)
    await_that(lambda: outbox.count("published") == 9)
    order = [json.loads(body)["args"][0] for body in queues.take()]
    assert order == [8, 6, 7, 5, 3, 4, 2, 0, 1]


def test_what_is_not_yet_due_stays_in_the_outbox_until_it_is(
    outbox: Outbox, queues: Queues, make_relay: MakeRelay
) -> None:
    """I10: by the database's clock, through the promotion."""
    late = outbox.add(delay=timedelta(hours=1))
    soon = outbox.add(delay=timedelta(milliseconds=400))
    due_at = outbox.row(soon)["due_at"]
    make_relay()
    await_that(lambda: outbox.state(soon) == "published")
    assert outbox.row(soon)["published_at"] >= due_at
    assert outbox.state(late) == "scheduled"
    assert [id_of(body) for body in queues.take()] == [soon]


def test_a_commit_wakes_the_relay(outbox: Outbox, make_relay: MakeRelay) -> None:
    """The relay polls once an hour here: only the NOTIFY after the commit can have woken it (I11: not in it)."""
    make_relay(relay_poll=FOREVER)
    first = outbox.add()  # makes the queue known, which wakes the relay too
    await_that(lambda: outbox.state(first) == "published")
    for _ in range(5):
        began = time.monotonic()
        id = outbox.add()
        await_that(lambda: outbox.state(id) == "published", timedelta(seconds=5))  # noqa: B023
        print(f"published {time.monotonic() - began:.3f} s after the call")


def test_without_wake_ups_the_poll_finds_the_rows(outbox: Outbox, make_relay: MakeRelay) -> None:
    """As behind PgBouncer in transaction mode; and rows of a plain INSERT, which wakes nobody, are found as well."""
    relay = make_relay(listen=False)
    assert not relay._listener.is_alive()
    id = outbox.add()
    await_that(lambda: outbox.state(id) == "published")
    insert(outbox, 3, queue="mail")
    await_that(lambda: outbox.count("published") == 4)


def test_a_lost_listening_connection_is_replaced(outbox: Outbox, make_relay: MakeRelay) -> None:
    make_relay(relay_poll=FOREVER)
    first = outbox.add()
    await_that(lambda: outbox.state(first) == "published")
    ended = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'outbox relay listen'"
    assert outbox.conn.execute(ended).fetchall()
    id = outbox.add()
    await_that(lambda: outbox.state(id) == "published", timedelta(seconds=5))


def test_a_drain_takes_at_most_one_statement_for_twenty_tasks(
    outbox: Outbox, queues: Queues, tap: Tap, make_relay: MakeRelay
) -> None:
    """I12, I4. Counted on the wire: every statement of the whole relay, BEGIN and COMMIT included."""
    insert(outbox, 10_000)
    make_relay(database_url=tap.url, relay_window=20_000)
    await_that(lambda: count(outbox, "published") == 10_000)
    print(f"{tap.statements} statements for 10,000 tasks")
    assert 40 < tap.statements <= 500
    assert queues.depth("bulk") == 10_000
