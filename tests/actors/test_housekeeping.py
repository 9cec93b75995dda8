"""Every night, what is past its retention goes, and nothing that a task may still need (I2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from secrets import randbits
from uuid import UUID, uuid4

import psycopg
import pytest
from actor_bench import Bench
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

import actors
from actors import housekeeping, mail
from actors.tables import (
    Base,
    Delivery,
    DeliveryAttempt,
    Endpoint,
    EndpointSecret,
    Mail,
    MailEvent,
    Payload,
    Receipt,
    Replay,
    Suppression,
)
from outbox import Task
from outbox.cron import schedule_of

pytestmark = pytest.mark.usefixtures("configured")
DAY = timedelta(days=1)


def ago(days: float) -> datetime:
    return datetime.now(UTC) - days * DAY


def an_id(days: float) -> UUID:
    """As it was given to a row that many days ago."""
    return UUID(int=int(ago(days).timestamp() * 1000) << 80 | randbits(74))


@pytest.fixture
def house(bench: Bench, database_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    settings = actors.broker.settings.model_copy(update={"database_url": database_url})
    monkeypatch.setattr(actors.broker, "settings", settings)
    return House(bench)


class House:
    """Puts aged rows where the actors would have put them, with their tasks wherever those have got to."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def begin(self) -> Session:
        return self.bench.session()

    def mail(self, days: float, task: str = "purged", **columns: object) -> UUID:
        with self.begin() as session, session.begin():
            made = mail.prepare(session, to="ada@example.org", subject="Hello", text="Hello")
            session.flush()
            values = {"id": an_id(days), "created_at": ago(days), **columns}
            session.execute(update(Mail).where(Mail.id == made.id).values(values))
            self._task(session, UUID(str(values["id"])), task)
        return UUID(str(values["id"]))

    def endpoint(self) -> UUID:
        with self.begin() as session, session.begin():
            made = Endpoint(id=uuid7(), url="https://a.example/", event_types=["*"])
            session.add(made)
        return made.id

    def delivery(self, endpoint: UUID, days: float, task: str = "purged", attempted: float | None = None) -> UUID:
        event, made = self.payload(days), an_id(days)
        with self.begin() as session, session.begin():
            session.add(
                Delivery(
                    id=made, endpoint_id=endpoint, event_id=event, event_type="a.b", created_at=ago(days),
                    attempted_at=None if attempted is None else ago(attempted),
                )
            )  # fmt: skip
            self._task(session, made, task)
        return made

    def payload(self, days: float) -> UUID:
        event = an_id(days)
        with self.begin() as session, session.begin():
            session.add(Payload(event_id=event, event_type="a.b", body=b"{}", created_at=ago(days)))
        return event

    def receipt(self, days: float, mail_id: UUID | None, *, rendered: bool = True) -> UUID:
        order = an_id(days)
        pdf, at = (b"%PDF", ago(days)) if rendered else (None, None)
        with self.begin() as session, session.begin():
            session.add(
                Receipt(order_id=order, content={}, created_at=ago(days), pdf=pdf, rendered_at=at, mail_id=mail_id)
            )
        return order

    def secret(self, endpoint: UUID, expires_at: datetime | None) -> UUID:
        with self.begin() as session, session.begin():
            made = EndpointSecret(id=uuid7(), endpoint_id=endpoint, sealed=b"x", expires_at=expires_at)
            session.add(made)
        return made.id

    def replay(self, endpoint: UUID, days: float, *, ended: float | None) -> UUID:
        made, status, at = an_id(days), "running" if ended is None else "done", None if ended is None else ago(ended)
        span = {"since": ago(days + 1), "until": ago(days)}
        self.add([Replay(id=made, endpoint_id=endpoint, who="ada", status=status, ended_at=at, **span)])
        return made

    def add(self, rows: Iterable[Base]) -> None:
        with self.begin() as session, session.begin():
            session.add_all(rows)

    def _task(self, session: Session, id: UUID, where: str) -> None:
        if where == "unfinished":
            row = {"id": id, "queue": "mail", "actor": "send_mail", "due_at": datetime.now(UTC), "state": "pending"}
            session.execute(Task.__table__.insert().values(args=[], kwargs={}, options={}, **row))  # type: ignore[attr-defined]
        elif where != "purged":
            table = "dead" if where == "dead" else "history"
            session.execute(text(ENDED.format(table=table)), {"id": id, "state": where, "at": datetime.now(UTC)})

    def ids(
        self, model: type[Mail | Delivery | Payload | Receipt | EndpointSecret | Replay], key: str = "id"
    ) -> set[UUID]:
        with self.begin() as session:
            return {getattr(row, key) for row in session.query(model)}

    def ended(self, table: str, days: float) -> UUID:
        id = uuid7()
        state = "dead" if table == "dead" else "succeeded"
        with self.begin() as session, session.begin():
            session.execute(text(ENDED.format(table=table)), {"id": id, "state": state, "at": ago(days)})
        return id

    def audited(self, days: float) -> None:
        with self.begin() as session, session.begin():
            line = "insert into outbox.audit (at, who, action, subject) values (:at, 'ada', 'retry', 'x')"
            session.execute(text(line), {"at": ago(days)})

    def count(self, table: str) -> int:
        with self.begin() as session:
            return int(session.scalar(text(f"select count(*) from {table}")) or 0)


ENDED = """
insert into outbox.{table} (id, state, queue, actor, args, kwargs, options, priority, created_at, due_at,
    finished_at, lane_holds, failures, crashes, losses, attempts)
values (:id, :state, 'mail', 'send_mail', '[]', '{{}}', '{{}}', 0, :at, :at, :at, false, 0, 0, 0, '[]')
"""


def test_both_are_scheduled_every_night_and_made_up_for_once() -> None:
    schedules = [schedule_of(actor) for actor in (housekeeping.purge_outbox, housekeeping.purge_sent)]
    assert [(each.cron, each.missed) for each in schedules if each] == [("17 3 * * *", "last"), ("47 3 * * *", "last")]


class TestTheOutbox:
    def test_what_is_over_goes_and_nothing_else(self, house: House) -> None:
        for table in ("history", "dead"):
            for days in (1, 29, 31, 179, 181):
                house.ended(table, days)
        for days in (179, 181):
            house.audited(days)
        old = house.mail(400, "unfinished")
        housekeeping.purge_outbox.fn()
        assert (house.count("outbox.history"), house.count("outbox.dead"), house.count("outbox.audit")) == (2, 4, 1)
        assert house.ids(Mail) == {old}
        assert house.count("outbox.task") == 1

    def test_a_reader_that_holds_a_day_all_night_fails_nothing(
        self, house: House, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        day = ago(40).date()
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute(
                f"create table outbox.history_{day:%Y%m%d} partition of outbox.history"
                f" for values from ('{day}T00:00:00Z') to ('{day + DAY}T00:00:00Z')".encode()
            )
        house.ended("dead", 181)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        monkeypatch.setattr("outbox.purge.TRIES", 1)
        with psycopg.connect(database_url) as reader:
            reader.execute("select count(*) from outbox.history")
            housekeeping.purge_outbox.fn()
            assert house.count("outbox.dead") == 0
        housekeeping.purge_outbox.fn()
        assert house.count(f"pg_class where relname = 'history_{day:%Y%m%d}'") == 0


class TestMails:
    def test_old_ones_whose_tasks_ended_go(self, house: House) -> None:
        house.mail(31)
        house.mail(31, "succeeded")
        young = house.mail(29)
        housekeeping.purge_sent.fn()
        assert house.ids(Mail) == {young}

    @pytest.mark.parametrize("task", ["unfinished", "dead", "cancelled"])
    def test_one_that_a_task_may_still_send_stays_however_old(self, house: House, task: str) -> None:
        kept = house.mail(400, task)
        housekeeping.purge_sent.fn()
        assert house.ids(Mail) == {kept}

    def test_one_whose_task_died_or_expired_says_so(self, house: House) -> None:
        over, later = ago(0.5), ago(-1)
        for task, expires_at in (("dead", None), ("cancelled", over), ("cancelled", later), ("unfinished", over)):
            house.mail(1, task, expires_at=expires_at, subject=f"{task} {expires_at and expires_at < ago(0)}")
        house.mail(1, "dead", status="uncertain", subject="in doubt")
        housekeeping.purge_sent.fn()
        with house.begin() as session:
            became = {row.subject: row.status for row in session.execute(select(Mail.subject, Mail.status))}
        assert became == {
            "dead None": "failed",
            "cancelled True": "expired",
            "cancelled False": "queued",
            "unfinished True": "queued",
            "in doubt": "uncertain",
        }

    def test_its_time_begins_when_it_was_last_heard_of(self, house: House) -> None:
        late = house.mail(60, send_at=ago(5))
        tried = house.mail(61, reply_at=ago(5), reply="250 ok")
        housekeeping.purge_sent.fn()
        assert house.ids(Mail) == {late, tried}

    def test_more_than_a_page_goes_past_those_that_stay(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(housekeeping, "_PAGE", 2)
        kept = {house.mail(days, "dead") for days in (90, 80, 70)}
        for days in (100, 85, 75, 65, 60):
            house.mail(days)
        housekeeping.purge_sent.fn()
        assert house.ids(Mail) == kept

    def test_a_row_that_somebody_holds_is_left_for_another_night(self, house: House) -> None:
        held = house.mail(50)
        house.mail(51)
        with house.begin() as session, session.begin():
            session.execute(text("select from app.mail where id = :id for update"), {"id": held})
            housekeeping.purge_sent.fn()
            assert house.ids(Mail) == {held}
        housekeeping.purge_sent.fn()
        assert house.ids(Mail) == set()


class TestDeliveries:
    def test_old_ones_go_and_their_bodies_when_nobody_needs_them_any_more(self, house: House) -> None:
        endpoint = house.endpoint()
        house.delivery(endpoint, 31)
        kept = {house.delivery(endpoint, 40, task) for task in ("unfinished", "dead", "cancelled")}
        kept |= {house.delivery(endpoint, 29), house.delivery(endpoint, 35, attempted=20)}
        house.payload(31)
        young = house.payload(29)
        housekeeping.purge_sent.fn()
        assert house.ids(Delivery) == kept
        with house.begin() as session:
            needed = {row.event_id for row in session.query(Delivery)}
        assert house.ids(Payload, "event_id") == needed | {young}

    def test_one_whose_task_ended_without_a_word_has_failed(self, house: House) -> None:
        endpoint, ids = house.endpoint(), {}
        for task in ("unfinished", "dead", "cancelled", "purged"):
            for status in ("queued", "failing", "refused", "missed", "delivered"):
                ids[house.delivery(endpoint, 1, task)] = (task, status)
        with house.begin() as session, session.begin():
            for id, (_, status) in ids.items():
                delivered_at = ago(1) if status == "delivered" else None
                changed = update(Delivery).where(Delivery.id == id)
                session.execute(changed.values(status=status, delivered_at=delivered_at))
        housekeeping.purge_sent.fn()
        with house.begin() as session:
            rows = {row.id: row for row in session.query(Delivery)}
        for id, (task, status) in ids.items():
            closed = task != "unfinished" and status in {"queued", "failing"}
            assert rows[id].status == ("failed" if closed else status), (task, status)
            assert (rows[id].reason is not None) == closed, (task, status)

    def test_what_did_not_arrive_is_found_by_an_index_of_its_own(self, house: House) -> None:
        queries = {
            "delivery_open": "endpoint_id = :id and status in ('failing') order by id desc limit 51",
            "delivery_event": "event_id in (:id, :other) and endpoint_id = :id",
        }
        with house.begin() as session:
            for setting in ("enable_seqscan", "enable_bitmapscan"):
                session.execute(text(f"set local {setting} = off"))
            for index, which in queries.items():
                query = text(f"explain select id from app.delivery where {which}")
                plan = session.scalars(query, {"id": uuid7(), "other": uuid7()}).all()
                assert index in "".join(plan), plan

    def test_secrets_that_expired_go(self, house: House) -> None:
        endpoint = house.endpoint()
        house.secret(endpoint, ago(0.01))
        valid = {house.secret(endpoint, None), house.secret(endpoint, ago(-1))}
        housekeeping.purge_sent.fn()
        assert house.ids(EndpointSecret) == valid

    def test_the_attempts_go_with_their_delivery(self, house: House) -> None:
        endpoint = house.endpoint()
        gone, kept = house.delivery(endpoint, 31), house.delivery(endpoint, 29)
        house.add(DeliveryAttempt(delivery_id=each, number=1, at=ago(31), outcome="retry") for each in (gone, kept))
        housekeeping.purge_sent.fn()
        with house.begin() as session:
            assert [row.delivery_id for row in session.query(DeliveryAttempt)] == [kept]

    def test_replays_go_their_time_after_they_ended_and_never_while_they_run(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(housekeeping, "_PAGE", 2)
        endpoint = house.endpoint()
        for days in (32, 40, 50):
            house.replay(endpoint, days, ended=days - 0.5)
        kept = {house.replay(endpoint, 400, ended=None), house.replay(endpoint, 60, ended=20)}
        kept.add(house.replay(endpoint, 29, ended=29))
        housekeeping.purge_sent.fn()
        assert house.ids(Replay) == kept


class TestWhatIsKnownOfAddresses:
    def test_suppressions_go_when_they_expire_and_the_others_never(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(housekeeping, "_PAGE", 2)
        said = [
            ("ada", "*", "complaint", None),
            ("ada", "*", "hard_bounce", ago(1)),
            ("ada", "news", "manual", ago(-1)),
        ]
        said += [(name, "news", "hard_bounce", ago(0.01)) for name in ("bob", "carol", "dan", "eve")]
        house.add(
            Suppression(
                recipient=f"{name}@example.org", stream=stream, reason=reason, created_at=ago(400), expires_at=at
            )
            for name, stream, reason, at in said
        )
        housekeeping.purge_sent.fn()
        with house.begin() as session:
            left = {(row.recipient, row.stream, row.reason) for row in session.query(Suppression)}
        assert left == {("ada@example.org", "*", "complaint"), ("ada@example.org", "news", "manual")}

    def test_what_was_told_of_mails_goes_after_the_time_of_mails(
        self, house: House, configured: Callable[..., None]
    ) -> None:
        configured(MAIL_DAYS=10)
        house.add(MailEvent(id=f"{days}", kind="bounce", at=ago(days)) for days in (9, 11, 12))
        housekeeping.purge_sent.fn()
        with house.begin() as session:
            assert [row.id for row in session.query(MailEvent)] == ["9"]


class TestReceipts:
    def test_rendered_ones_go_after_their_own_time(self, house: House) -> None:
        house.receipt(366, None)
        kept = {house.receipt(364, None), house.receipt(400, None, rendered=False)}
        kept |= {house.receipt(401, house.mail(401, "dead")), house.receipt(402, house.mail(402, "unfinished"))}
        house.receipt(403, house.mail(403))
        housekeeping.purge_sent.fn()
        assert house.ids(Receipt, "order_id") == kept
        assert house.count("app.mail") == 2

    def test_a_receipt_outlives_its_mail(self, house: House) -> None:
        order = house.receipt(100, house.mail(100))
        housekeeping.purge_sent.fn()
        assert house.ids(Mail) == set()
        assert house.ids(Receipt, "order_id") == {order}

    def test_its_time_is_a_setting(self, house: House, configured: Callable[..., None]) -> None:
        configured(RECEIPT_DAYS=10)
        house.receipt(11, None)
        housekeeping.purge_sent.fn()
        assert house.ids(Receipt, "order_id") == set()


def test_a_second_night_finds_nothing(house: House) -> None:
    house.mail(31)
    for _ in range(2):
        housekeeping.purge_sent.fn()
        housekeeping.purge_outbox.fn()
    assert house.count("app.mail") == 0


def test_ids_of_orders_made_elsewhere_do_no_harm(house: House) -> None:
    with house.begin() as session, session.begin():
        session.add(Receipt(order_id=uuid4(), content={}, created_at=ago(1), pdf=b"x", rendered_at=ago(1)))
    housekeeping.purge_sent.fn()
    assert house.count("app.receipt") == 1
