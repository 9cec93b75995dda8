"""I8: what was enqueued is what goes out, byte for byte: exactly Dramatiq's seven keys, the arguments untouched."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import dramatiq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outbox_rows import Outbox, a_message

from outbox import enqueue
from outbox.ledger import Due

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)
KEYS = ["queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"]


def bodies(outbox: Outbox, queue: str = "mail") -> dict[UUID, bytes]:
    """The bodies that a relay would publish now; nothing is published."""
    with outbox.conn.transaction(force_rollback=True):
        due: list[Due] = outbox.ledger.claim_due(outbox.conn, room={queue: 1000}, batch=1000)
    return {UUID(row.id): row.body for row in due}


def the_body(outbox: Outbox) -> bytes:
    (body,) = bodies(outbox).values()
    return body


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON, max_size=4), st.dictionaries(TEXT, JSON, max_size=4), st.dictionaries(TEXT, JSON, max_size=3))
def test_every_json_value_arrives_as_it_was(
    outbox: Outbox, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    for ours in ("eta", "delay", "outbox_fence"):
        options.pop(ours, None)
    outbox.conn.execute("delete from outbox.task")
    message: dramatiq.Message[Any] = dramatiq.Message("mail", "send_mail", tuple(args), kwargs, options)
    outbox.add(message=message)
    body = the_body(outbox)
    found = json.loads(body)
    fence = found["options"].pop("outbox_fence")
    assert list(found) == KEYS
    assert repr(found["args"]) == repr(args)  # repr: 1, 1.0 and True differ, and so do 0.0 and -0.0
    assert found["kwargs"] == kwargs
    assert found["options"] == options
    assert UUID(fence) == outbox.all()[0]["fence"]
    assert dramatiq.Message.decode(body).args == tuple(args)


@pytest.mark.parametrize(
    "value",
    [
        1e22,
        1e23,
        1.0,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        0.1,
        2**63,
        2**64 + 1,
        -(10**400),
        1e16,
        123456789012345680.0,
    ],
    ids=repr,
)
def test_numbers_keep_every_digit(outbox: Outbox, value: float) -> None:
    outbox.add(value, {"n": [value]})
    found = json.loads(the_body(outbox))["args"]
    assert repr(found) == repr([value, {"n": [value]}])


def test_the_order_of_keys_and_the_text_itself_are_kept(outbox: Outbox) -> None:
    outbox.add(message=a_message({"z": 1, "a": {"y": "é ü 💣", "b": 2}, "": [1.50, 2]}))
    assert '"args":[{"z":1,"a":{"y":"é ü 💣","b":2},"":[1.5,2]}]' in the_body(outbox).decode()


def test_the_body_is_exactly_dramatiq_s_own_encoding_with_our_fence(outbox: Outbox) -> None:
    message = a_message(1, "é", actor='odd "actor"\\', to="a@example.org").copy(options={"max_retries": 3})
    with outbox.session() as session:
        task = enqueue(session, message)
        session.commit()
    row = outbox.row(task.id)
    body = the_body(outbox)
    stamp = json.loads(body)["message_timestamp"]
    assert abs(stamp - row["created_at"].timestamp() * 1000) <= 1
    expected = message.copy(
        message_id=str(task.id),
        message_timestamp=stamp,
        options={"max_retries": 3, "outbox_fence": str(row["fence"])},
    )
    assert body == json.dumps(json.loads(expected.encode()), separators=(",", ":"), ensure_ascii=False).encode()
    assert dramatiq.Message.decode(body) == expected


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ("{}", {}),
        ("{ }", {}),
        (" {\n}\t", {}),
        ('{"a":1}', {"a": 1}),
        ('{ "a": 1 }', {"a": 1}),
        ('  {"a": {"b": [1, 2.50, {}]}, "c": "}"}  ', {"a": {"b": [1, 2.5, {}]}, "c": "}"}),
        ('\n{\n  "text": ",}"\n}', {"text": ",}"}),
        ('{"":""}', {"": ""}),
        ('{" }": [],"x":{ }}', {" }": [], "x": {}}),
        ('{"outbox_fence": "forged"}', {}),
        ('{ "outbox_fence": "forged", "a": 1}', {"a": 1}),
    ],
)
def test_options_in_any_spelling_make_a_valid_body(outbox: Outbox, options: str, read: dict[str, Any]) -> None:
    """Rows may be written by raw SQL, or by another language."""
    outbox.conn.execute(
        "insert into outbox.task (id, state, queue, actor, args, kwargs, options, due_at) "
        "values (gen_random_uuid(), 'pending', 'mail', 'send_mail', '[ 1 ]', '{ \"a\" : 1 }', %s, clock_timestamp())",
        [options],
    )
    found = json.loads(the_body(outbox))
    assert found["options"].pop("outbox_fence") == str(outbox.all()[0]["fence"])
    assert (found["args"], found["kwargs"], found["options"]) == ([1], {"a": 1}, read)


def test_the_body_is_the_same_at_every_publishing(outbox: Outbox) -> None:
    """The first copy wins: so every copy must say the same."""
    id = outbox.add("é", 1e22, {"a": [1]}, delay=timedelta(0))
    first = the_body(outbox)
    with outbox.conn.transaction():
        outbox.ledger.claim_due(outbox.conn, room={"mail": 10}, batch=10)
        assert outbox.ledger.mark_published(outbox.conn, [id], epochs={"mail": 1}) == 1
    outbox.ledger.register_queues(outbox.conn)
    outbox.ledger.queue_epoch(outbox.conn, "mail")
    outbox.conn.execute("update outbox.queue set epoch = 2")
    assert outbox.ledger.republish_older_epochs(outbox.conn) == 1
    assert the_body(outbox) == first
