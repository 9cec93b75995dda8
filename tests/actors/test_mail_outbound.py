"""From the caller's transaction to the server's reply: a mail's row, its task and its evidence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from actor_bench import Bench
from far_smtp import DROP, mailroom, raw_server
from sqlalchemy import text

from actors import mail, outside
from actors.mail.outbound import RefusedForNow
from actors.tables import Mail
from outbox import Permanent, Snooze

Configure = Callable[..., None]


def enqueued(bench: Bench, **options: Any) -> UUID:
    with bench.session() as session, session.begin():
        prepared = mail.prepare(session, **{"to": "ada@example.org", "subject": "Hello", "text": "Hi", **options})
        assert mail.enqueue_mail(session, prepared).id == prepared.id
    return prepared.id


def end_the_pause(bench: Bench) -> None:
    with bench.session() as session, session.begin():
        session.execute(text("update app.transport set paused_until = clock_timestamp() where paused_until is not null"))


def stored(bench: Bench, mail_id: UUID) -> Mail:
    with bench.session() as session:
        return session.get_one(Mail, mail_id)


def perform(bench: Bench, mail_id: UUID) -> None:
    bench.perform(mail_id)
    outside.transport().close()


def test_one_id_names_the_row_the_task_and_the_message(bench: Bench, configured: Configure) -> None:
    with mailroom() as (room, port):
        configured(SMTP_URL=f"smtp://127.0.0.1:{port}")
        mail_id = enqueued(bench)
        assert [task.id for task in bench.tasks("send_mail")] == [mail_id]
        perform(bench, mail_id)
    row = stored(bench, mail_id)
    assert row.message_id == f"<{mail_id}@example.com>"
    assert room.envelopes[0].content == row.body
    assert f"Message-ID: {row.message_id}\r\n".encode() in row.body
    assert (room.envelopes[0].mail_from, room.envelopes[0].rcpt_tos) == ("shop@example.com", ["ada@example.org"])


def test_the_reply_is_kept_as_evidence(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        perform(bench, mail_id)
    row = stored(bench, mail_id)
    assert (row.status, row.attempts, row.reply) == ("sent", 1, "dot: 250 2.0.0 queued as RAW")
    assert row.sent_at is not None


def test_a_rolled_back_transaction_leaves_neither_mail_nor_task(bench: Bench, configured: Configure) -> None:
    with bench.session() as session:
        mail.enqueue_mail(session, mail.prepare(session, to="ada@example.org", subject="Hello", text="Hi"))
        session.flush()
        session.rollback()
    with bench.session() as session:
        assert session.query(Mail).count() == 0
    assert bench.tasks("send_mail") == []


@pytest.mark.parametrize(
    ("replies", "status", "raised"),
    [
        ({"RCPT": "550 5.1.1 no such user"}, "refused", Permanent),
        ({"DOT": "554 5.7.1 spam"}, "refused", Permanent),
        ({"RCPT": "451 later"}, "queued", RefusedForNow),
        ({"DATA": DROP}, "queued", RefusedForNow),
        ({"MAIL": "550 sender refused"}, "queued", Snooze),
        ({"greeting": "421 closed"}, "queued", Snooze),
        ({"DOT": DROP}, "uncertain", Snooze),
    ],
)
def test_what_went_wrong_decides_and_is_kept(
    bench: Bench, configured: Configure, replies: dict[str, str], status: str, raised: type[Exception]
) -> None:
    with raw_server(**replies) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with pytest.raises(raised) as outcome:
            perform(bench, mail_id)
    row = stored(bench, mail_id)
    assert (row.status, row.attempts, row.sent_at) == (status, 1, None)
    assert row.reply is not None
    assert row.reply in str(outcome.value)


def test_an_uncertain_mail_is_repeated_once_with_the_same_bytes_and_then_held(
    bench: Bench, configured: Configure
) -> None:
    with raw_server(DOT=DROP) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        for expected in (Snooze, Permanent):
            with pytest.raises(expected):
                perform(bench, mail_id)
    body = stored(bench, mail_id).body
    assert server.bodies == [body, body]
    assert stored(bench, mail_id).status == "uncertain"


def test_an_uncertain_mail_whose_repeat_is_accepted_is_sent(bench: Bench, configured: Configure) -> None:
    with raw_server(DOT=DROP) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with pytest.raises(Snooze):
            perform(bench, mail_id)
        server.replies.clear()
        perform(bench, mail_id)
    assert stored(bench, mail_id).status == "sent"


def test_trouble_of_the_transport_waits_longer_each_time(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        pass
    configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
    mail_id = enqueued(bench)
    waits = []
    for _ in range(3):
        end_the_pause(bench)
        with pytest.raises(Snooze) as snooze:
            perform(bench, mail_id)
        waits.append(round(snooze.value.wait.total_seconds()))
    assert waits == [5, 10, 20]


def test_a_wait_that_the_server_names_is_kept(bench: Bench, configured: Configure) -> None:
    with raw_server(MAIL="451 4.7.1 please try again in 120 seconds") as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with pytest.raises(Snooze) as snooze:
            perform(bench, mail_id)
    assert round(snooze.value.wait.total_seconds()) == 130


def test_a_sent_mail_is_not_sent_again(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        perform(bench, mail_id)
        perform(bench, mail_id)
    assert len(server.bodies) == 1


def test_an_expired_mail_is_never_sent(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench, expires_at=datetime.now(UTC) + timedelta(hours=1))
        assert bench.tasks("send_mail")[0].expires_at is not None
        with bench.session() as session, session.begin():
            session.get_one(Mail, mail_id).expires_at = datetime.now(UTC) - timedelta(seconds=1)
        with pytest.raises(Permanent, match="expired"):
            perform(bench, mail_id)
    assert server.connections == 0


def test_a_mail_for_later_is_due_later_and_dated_then(bench: Bench, configured: Configure) -> None:
    later = datetime(2999, 1, 1, 12, tzinfo=UTC)
    mail_id = enqueued(bench, send_at=later)
    assert bench.tasks("send_mail")[0].due_at == later
    assert b"Date: Tue, 01 Jan 2999 12:00:00 +0000\r\n" in stored(bench, mail_id).body


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"to": "a@x.com,b@y.com"}, mail.AddressRefused),
        ({"subject": "a\r\nBcc: b@y.com"}, mail.HeaderRefused),
        ({"text": None}, mail.MessageRefused),
    ],
)
def test_a_bad_mail_is_refused_before_anything_is_written(
    bench: Bench, configured: Configure, changes: dict[str, Any], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        enqueued(bench, **changes)
    assert bench.tasks("send_mail") == []


def test_a_vanished_mail_is_a_permanent_failure(bench: Bench, configured: Configure) -> None:
    mail_id = enqueued(bench)
    with bench.session() as session, session.begin():
        session.delete(session.get_one(Mail, mail_id))
    with pytest.raises(Permanent, match="no longer exists"):
        perform(bench, mail_id)
