"""From the caller's transaction to the server's reply: a mail's row, its task and its evidence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from actor_bench import Bench
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.threading import raise_thread_exception
from far_smtp import DROP, HANG, HOLD, mailroom, raw_server
from sqlalchemy import func, text, update

import actors
from actors import mail, outside
from actors.database import driver_connection, transaction
from actors.mail import records
from actors.mail.outbound import RefusedForNow
from actors.mail.suppression import Reason, suppress
from actors.mail.transport_state import TROUBLES, begin_probe
from actors.tables import Mail, MailGate, TransportState
from outbox import Permanent, Snooze
from tests.awaiting import await_that

Configure = Callable[..., None]
ANOTHER_RUN = UUID("01890000-0000-7000-8000-000000000002")


def enqueued(bench: Bench, **options: Any) -> UUID:
    with bench.session() as session, session.begin():
        prepared = mail.prepare(session, **{"to": "ada@example.org", "subject": "Hello", "text": "Hi", **options})
        assert mail.enqueue_mail(session, prepared).id == prepared.id
    return prepared.id


def end_the_pause(bench: Bench) -> None:
    with bench.session() as session, session.begin():
        session.execute(
            text("update app.transport set paused_until = clock_timestamp() where paused_until is not null")
        )


def in_flight(bench: Bench, mail_id: UUID, *, copies: int, run: UUID | None = ANOTHER_RUN) -> None:
    """As a run leaves it that died after the end went out."""
    with bench.session() as session, session.begin():
        row = session.get_one(Mail, mail_id)
        row.copies, row.in_flight = copies, run


class Running(threading.Thread):
    """A run in a thread of its own, and what it raised."""

    raised: BaseException | None = None

    def __init__(self, bench: Bench, mail_id: UUID) -> None:
        super().__init__(daemon=True)
        self._bench, self._mail_id = bench, mail_id

    def run(self) -> None:
        try:
            perform(self._bench, self._mail_id)
        except BaseException as error:
            self.raised = error


@contextmanager
def running(bench: Bench, mail_id: UUID) -> Iterator[Running]:
    run = Running(bench, mail_id)
    run.start()
    yield run
    run.join(30)
    assert not run.is_alive()


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
        for expected in (Snooze, Permanent, Permanent):
            with pytest.raises(expected):
                perform(bench, mail_id)
    body = stored(bench, mail_id).body
    assert server.bodies == [body, body]
    assert (stored(bench, mail_id).status, stored(bench, mail_id).copies) == ("uncertain", 2)


def test_a_mail_that_is_to_be_held_is_not_repeated(bench: Bench, configured: Configure) -> None:
    with raw_server(DOT=DROP) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench, on_uncertain="hold")
        for _ in range(2):
            with pytest.raises(Permanent, match="may have arrived"):
                perform(bench, mail_id)
    assert len(server.bodies) == 1
    assert stored(bench, mail_id).status == "uncertain"


@pytest.mark.parametrize(("policy", "copies"), [("hold", 1), ("resend", 2)])
def test_an_operators_retry_and_nothing_else_brings_one_more_copy(
    bench: Bench, configured: Configure, policy: str, copies: int
) -> None:
    with raw_server(DOT=DROP) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench, on_uncertain=policy)
        for _ in range(4):
            with pytest.raises((Permanent, Snooze)):
                perform(bench, mail_id)
        assert len(server.bodies) == copies
        with bench.session() as session, session.begin():
            actors.broker.ledger.audit(driver_connection(session), who="ada", action="retry", subject=str(mail_id))
        for _ in range(3):
            with pytest.raises(Permanent, match="may have arrived"):
                perform(bench, mail_id)
    assert len(server.bodies) == copies + 1


def test_a_run_that_died_after_the_end_went_out_may_have_delivered(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}", MAIL_UNCERTAIN_WAIT=77)
        mail_id = enqueued(bench)
        in_flight(bench, mail_id, copies=1)
        with pytest.raises(Snooze) as snooze:
            perform(bench, mail_id)
        assert snooze.value.wait == timedelta(seconds=77)
        assert (server.connections, stored(bench, mail_id).status) == (0, "uncertain")
        perform(bench, mail_id)
    row = stored(bench, mail_id)
    assert (row.status, row.copies, row.in_flight, row.uncertain) == ("sent", 2, None, 1)


def test_a_second_run_that_died_is_followed_by_no_third(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        in_flight(bench, mail_id, copies=2)
        for _ in range(2):
            with pytest.raises(Permanent, match="may have arrived"):
                perform(bench, mail_id)
    assert server.connections == 0


def test_a_time_limit_that_strikes_while_the_last_reply_is_awaited_leaves_the_copy_counted(
    bench: Bench, configured: Configure
) -> None:
    with raw_server(DOT=HANG) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with running(bench, mail_id) as run:
            await_that(lambda: server.bodies)
            raise_thread_exception(run.ident, TimeLimitExceeded)
            server.released.set()
        assert isinstance(run.raised, TimeLimitExceeded)
    row = stored(bench, mail_id)
    assert row.copies == 1
    assert row.in_flight is not None
    with pytest.raises(Snooze, match="may have arrived"):
        perform(bench, mail_id)


@pytest.mark.parametrize(
    ("replies", "copies"), [({"RCPT": "451 later"}, 0), ({"DOT": "451 later"}, 0), ({"DOT": "550 no"}, 0)]
)
def test_a_copy_that_the_server_says_it_did_not_take_is_not_counted(
    bench: Bench, configured: Configure, replies: dict[str, str], copies: int
) -> None:
    with raw_server(**replies) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        for _ in range(3):
            with pytest.raises((RefusedForNow, Permanent)):
                perform(bench, mail_id)
    assert (stored(bench, mail_id).copies, stored(bench, mail_id).in_flight) == (copies, None)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("update app.mail set expires_at = clock_timestamp() where id = :id", "expired"),
        (
            "insert into app.suppression (recipient, reason) select recipient, 'manual' from app.mail where id = :id",
            "suppressed",
        ),
        ("update app.mail set status = 'sent', sent_at = now() where id = :id", "sent"),
    ],
)
def test_what_forbids_a_mail_between_connecting_and_its_end_is_seen_in_time(
    bench: Bench, configured: Configure, change: str, status: str
) -> None:
    with raw_server(DATA=HOLD) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with running(bench, mail_id) as run:
            await_that(lambda: server.said("DATA"))
            with bench.session() as session, session.begin():
                session.execute(text(change), {"id": mail_id})
            server.released.set()
        await_that(lambda: server.ended)
        assert isinstance(run.raised, Permanent if status == "expired" else type(None))
    assert server.bodies == []
    assert (stored(bench, mail_id).status, stored(bench, mail_id).copies) == (status, 0)


@pytest.mark.parametrize(("copies", "other", "raised"), [(1, ANOTHER_RUN, Snooze), (2, None, Permanent)])
def test_a_run_that_others_have_overtaken_sends_nothing(
    bench: Bench, configured: Configure, copies: int, other: UUID | None, raised: type[Exception]
) -> None:
    with raw_server(DATA=HOLD) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with running(bench, mail_id) as run:
            await_that(lambda: server.said("DATA"))
            in_flight(bench, mail_id, copies=copies, run=other)
            server.released.set()
        await_that(lambda: server.ended)
        assert isinstance(run.raised, raised)
    assert server.bodies == []
    assert stored(bench, mail_id).copies == copies


def test_an_overtaken_run_does_not_settle_the_flight_of_the_one_that_overtook_it(
    bench: Bench, configured: Configure
) -> None:
    """I3: a stale worker changes nothing."""
    with raw_server(DATA=HOLD) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with running(bench, mail_id) as run:
            await_that(lambda: server.said("DATA"))
            in_flight(bench, mail_id, copies=1)
            with bench.engine.begin() as conn:
                conn.execute(
                    text("update outbox.task set run_id = :run where id = :id"), {"run": ANOTHER_RUN, "id": mail_id}
                )
            server.released.set()
        assert isinstance(run.raised, Snooze)
    row = stored(bench, mail_id)
    assert (row.status, row.in_flight, row.copies, row.reply) == ("queued", ANOTHER_RUN, 1, None)


def test_one_word_of_an_operator_allows_one_copy_whoever_else_heard_it(bench: Bench, configured: Configure) -> None:
    configured(SMTP_URL="smtp://127.0.0.1:9")
    mail_id = enqueued(bench)
    with bench.session() as session, session.begin():
        session.execute(update(Mail).where(Mail.id == mail_id).values(reply_at=func.clock_timestamp()))
        actors.broker.ledger.audit(driver_connection(session), who="ada", action="retry", subject=str(mail_id))
    in_flight(bench, mail_id, copies=2, run=None)
    with transaction() as session:
        letter = records.open_letter(session, mail_id, server="any")
        assert letter is not None
        assert records.allow_one_more(session, letter)
        assert records.begin_copy(session, letter, ANOTHER_RUN)
        assert not records.allow_one_more(session, letter)
    assert stored(bench, mail_id).copies == 2


def test_a_task_that_ended_while_the_server_may_have_had_its_mail_leaves_it_in_doubt(
    bench: Bench, configured: Configure
) -> None:
    mail_id = enqueued(bench)
    in_flight(bench, mail_id, copies=1)
    with bench.engine.begin() as conn:
        conn.execute(text("delete from outbox.task"))
    with transaction() as session:
        assert records.close_ended(session) == {"failed": 0, "expired": 0, "uncertain": 1}
    row = stored(bench, mail_id)
    assert (row.status, row.in_flight) == ("uncertain", None)


def test_a_mail_to_a_suppressed_address_is_not_sent_and_that_is_no_failure(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench, to="Ada@example.org")
        with bench.session() as session, session.begin():
            suppress(session, "ada@example.org", reason=Reason.MANUAL)
        perform(bench, mail_id)
    assert (server.connections, stored(bench, mail_id).status) == (0, "suppressed")


def test_the_last_failure_is_the_mails_own(bench: Bench, configured: Configure) -> None:
    with raw_server(RCPT="451 later") as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        for attempt, status in ((24, "queued"), (25, "failed")):
            with pytest.raises(RefusedForNow):
                bench.perform(mail_id, attempt=attempt)
            assert stored(bench, mail_id).status == status


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


@pytest.mark.parametrize(
    ("attempt", "text", "delay"),
    [
        (1, "451 4.7.1 Greylisted, try again in 300 seconds", 310_000),
        (1, "451 4.7.1 later", None),
        (20, "451 4.7.1 try again in 1 second", 6 * 3_600_000),
    ],
)
def test_a_greylist_that_names_its_time_is_visited_then_and_counts_as_a_failure(
    bench: Bench, configured: Configure, attempt: int, text: str, delay: int | None
) -> None:
    with raw_server(RCPT=text) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with pytest.raises(RefusedForNow) as refused:
            bench.perform(mail_id, attempt=attempt)
    assert refused.value.delay == delay


@pytest.mark.parametrize(
    ("days", "reply", "raised"),
    [
        (4, "554 5.7.1 too many messages", Snooze),
        (6, "554 5.7.1 too many messages", Permanent),
        (6, "454 Throttling failure", RefusedForNow),
    ],
)
def test_a_throttle_is_waited_for_five_days_and_not_for_ever(
    bench: Bench, configured: Configure, days: int, reply: str, raised: type[Exception]
) -> None:
    with raw_server(DOT=reply) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        mail_id = enqueued(bench)
        with bench.session() as session, session.begin():
            session.get_one(Mail, mail_id).created_at = datetime.now(UTC) - timedelta(days=days)
        with pytest.raises(raised):
            perform(bench, mail_id)
    with bench.session() as session:
        assert session.query(TransportState).count() == 0


def test_a_server_that_refuses_the_login_is_asked_once_however_many_mails_wait(
    bench: Bench, configured: Configure
) -> None:
    with raw_server(AUTH="535 5.7.8 no") as server:
        configured(SMTP_URL=f"smtp://ada:wrong@127.0.0.1:{server.port}")
        ids = [enqueued(bench) for _ in range(30)]
        before = TROUBLES._value.get()
        for asked in (1, 2):
            waits = set()
            for mail_id in ids:
                with pytest.raises(Snooze) as snooze:
                    perform(bench, mail_id)
                waits.add(snooze.value.wait)
            assert server.said("AUTH") == asked
            assert len(waits) > 20
            end_the_pause(bench)
        assert sum(stored(bench, each).attempts for each in ids) == 2
        assert TROUBLES._value.get() == before + 2
        server.replies.clear()
        for mail_id in ids:
            perform(bench, mail_id)
    assert len(server.bodies) == 30
    with bench.session() as session:
        state = session.query(TransportState).one()
    assert (state.paused_until, state.troubles) == (None, 0)


@pytest.mark.parametrize("moved", ["MAIL_FROM", "MAIL_RETURN_PATH"])
def test_a_sender_that_is_no_longer_ours_and_is_refused_stops_no_other_mail(
    bench: Bench, configured: Configure, moved: str
) -> None:
    with raw_server(MAIL="550 5.7.1 no such sender") as server:
        address = f"smtp://127.0.0.1:{server.port}"
        configured(SMTP_URL=address, **{moved: "old@old.example"})
        old = enqueued(bench)
        with pytest.raises(Snooze):
            perform(bench, old)
        end_the_pause(bench)
        configured(SMTP_URL=address, **{moved: "new@new.example"})
        with pytest.raises(Permanent, match="no such sender"):
            perform(bench, old)
        assert stored(bench, old).status == "refused"
        server.replies.clear()
        perform(bench, enqueued(bench))
    assert len(server.bodies) == 1


def test_one_mail_at_a_time_finds_out_whether_the_server_is_back(bench: Bench, configured: Configure) -> None:
    with raw_server(greeting="421 closed") as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        ids = [enqueued(bench) for _ in range(5)]
        with pytest.raises(Snooze):
            perform(bench, ids[0])
        end_the_pause(bench)
        server.replies["greeting"] = HOLD
        with running(bench, ids[0]) as probe:
            await_that(lambda: server.connections == 2)
            for mail_id in ids[1:]:
                with pytest.raises(Snooze):
                    perform(bench, mail_id)
            assert server.connections == 2
            server.released.set()
        assert probe.raised is None
        perform(bench, ids[1])
    assert len(server.bodies) == 2


def test_of_two_that_saw_the_pause_end_one_finds_out(bench: Bench, configured: Configure) -> None:
    with bench.session() as session, session.begin():
        session.add(TransportState(name="smtp://a:25", paused_until=datetime.now(UTC) - timedelta(minutes=1)))
    probes = []
    for _ in range(2):
        with bench.session() as session, session.begin():
            probes.append(begin_probe(session, "smtp://a:25"))
    assert [probe is None for probe in probes] == [False, True]


def test_trouble_that_began_before_the_pause_does_not_lengthen_it(bench: Bench, configured: Configure) -> None:
    with raw_server(greeting=HANG) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        with running(bench, enqueued(bench)), running(bench, enqueued(bench)):
            await_that(lambda: server.connections == 2)
            server.released.set()
    with bench.session() as session:
        assert session.query(TransportState).one().troubles == 1


def test_a_domain_with_a_limit_has_a_lane_and_others_have_none(bench: Bench, configured: Configure) -> None:
    configured(MAIL_DOMAIN_LIMITS="Gmail.com=20/s:10, example.org=5/s")
    for to in ("a@gmail.com", "b@example.org", "c@example.net"):
        enqueued(bench, to=to)
    tasks = bench.tasks("send_mail")
    assert [(task.lane, task.lane_limit) for task in tasks] == [
        ("limit/mail/gmail.com", 10),
        (None, None),
        (None, None),
    ]


def test_mails_of_a_domain_get_slots_one_interval_apart_and_wait_once(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}", MAIL_DOMAIN_LIMITS="example.org=6/m")
        ids = [enqueued(bench) for _ in range(4)]
        perform(bench, ids[0])
        for number, mail_id in enumerate(ids[1:], 1):
            with pytest.raises(Snooze) as snooze:
                perform(bench, mail_id)
            assert snooze.value.wait <= timedelta(seconds=10 * number)
        slots = [stored(bench, mail_id).slot_at for mail_id in ids[1:]]
        assert [b - a for a, b in pairwise(filter(None, slots))] == [timedelta(seconds=10)] * 2
        with bench.session() as session, session.begin():
            session.execute(text("update app.mail set slot_at = clock_timestamp() where slot_at is not null"))
        for mail_id in ids[1:]:
            perform(bench, mail_id)
    assert len(server.bodies) == 4


def test_slots_given_at_another_pace_hold_nobody_back(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        address = f"smtp://127.0.0.1:{server.port}"
        configured(SMTP_URL=address, MAIL_DOMAIN_LIMITS="example.org=1/h")
        ids = [enqueued(bench) for _ in range(3)]
        perform(bench, ids[0])
        for mail_id in ids[1:]:
            with pytest.raises(Snooze) as snooze:
                perform(bench, mail_id)
            assert snooze.value.wait == timedelta(minutes=15), "then it looks again"
        configured(SMTP_URL=address, MAIL_DOMAIN_LIMITS="example.org=1000/s")
        later = enqueued(bench)
        for mail_id in (later, *ids[1:]):
            await_that(lambda: goes(bench, mail_id))  # noqa: B023
    assert len(server.bodies) == 4


def goes(bench: Bench, mail_id: UUID) -> bool:
    try:
        perform(bench, mail_id)
    except Snooze:
        return False
    return True


def test_without_a_limit_nothing_is_reserved(bench: Bench, configured: Configure) -> None:
    with raw_server() as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}", MAIL_DOMAIN_LIMITS="example.net=1/h")
        perform(bench, enqueued(bench))
    with bench.session() as session:
        assert session.query(MailGate).count() == 0


@pytest.mark.parametrize("wrong", ["gmail.com", "gmail.com=", "=5/s", "gmail.com=0/s", "a b=5/s", "gmail.com=5/d:1"])
def test_a_limit_that_is_not_understood_says_how_it_is_written(configured: Configure, wrong: str) -> None:
    configured(MAIL_DOMAIN_LIMITS=wrong)
    with pytest.raises(ValueError, match=r"MAIL_DOMAIN_LIMITS: .* write domain="):
        outside.domain_limits()


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
