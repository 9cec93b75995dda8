"""The receipt, then the mail that carries it; and counters that count once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from email import message_from_bytes, policy
from uuid import UUID, uuid4

import pytest
from actor_bench import Bench
from sqlalchemy import select

from actors import analytics, receipts
from actors.tables import Counter, Mail, Receipt
from outbox import Permanent, Task

pytestmark = pytest.mark.usefixtures("configured")
AT = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)


def ordered(bench: Bench, email: str = "ada@example.org") -> tuple[UUID, UUID]:
    order_id = uuid4()
    with bench.session() as session, session.begin():
        task = receipts.enqueue_receipt(
            session,
            order_id=order_id,
            email=email,
            currency="EUR",
            placed_at=AT,
            lines=[receipts.Line("TEA <1>", 3, 1250), receipts.Line("CUP", 1, 999)],
        )
    return order_id, task.id


class TestReceipt:
    def test_the_mail_that_carries_the_pdf_follows_from_the_receipt(self, bench: Bench) -> None:
        order_id, task_id = ordered(bench)
        bench.perform(task_id)
        with bench.session() as session:
            row = session.get_one(Receipt, order_id)
            (mail,) = session.scalars(select(Mail)).all()
        assert row.pdf is not None
        assert row.pdf.startswith(b"%PDF")
        assert row.mail_id == mail.id
        assert [task.id for task in bench.tasks("send_mail")] == [mail.id]
        message = message_from_bytes(mail.body, policy=policy.default)
        (attachment,) = message.iter_attachments()
        assert attachment.get_content_type() == "application/pdf"
        assert attachment.get_payload(decode=True) == row.pdf
        plain, html = message.get_body(("plain",)), message.get_body(("html",))
        assert plain is not None
        assert html is not None
        assert "47.49 EUR" in plain.get_content()
        assert "TEA &lt;1&gt;" in html.get_content()

    def test_however_often_it_runs_one_mail_comes_of_it(self, bench: Bench) -> None:
        _, task_id = ordered(bench)
        for attempt in (1, 2, 3):
            bench.perform(task_id, attempt=attempt)
        assert len(bench.tasks("send_mail")) == 1

    def test_a_failure_after_rendering_leaves_neither_pdf_nor_mail(
        self, bench: Bench, configured: Callable[..., None]
    ) -> None:
        order_id, task_id = ordered(bench)
        configured(MAIL_FROM="nobody")
        with pytest.raises(ValueError, match="MAIL_FROM"):
            bench.perform(task_id)
        with bench.session() as session:
            assert session.get_one(Receipt, order_id).pdf is None
            assert session.scalars(select(Mail)).all() == []
        assert bench.tasks("send_mail") == []

    def test_receipts_are_rendered_on_the_heavy_queue_and_mail_is_not(self, bench: Bench) -> None:
        _, task_id = ordered(bench)
        bench.perform(task_id)
        assert [task.queue for task in bench.tasks("render_receipt")] == ["heavy"]
        assert [task.queue for task in bench.tasks("send_mail")] == ["mail"]

    def test_a_vanished_receipt_is_a_permanent_failure(self, bench: Bench) -> None:
        order_id, task_id = ordered(bench)
        with bench.session() as session, session.begin():
            session.delete(session.get_one(Receipt, order_id))
        with pytest.raises(Permanent):
            bench.perform(task_id)


class TestCounters:
    def enqueued(self, bench: Bench, kind: str = "order", **options: object) -> Task:
        with bench.session() as session, session.begin():
            return analytics.enqueue_count(session, kind, **{"at": AT, **options})  # type: ignore[arg-type]

    def counters(self, bench: Bench) -> dict[tuple[date, str, str], tuple[int, int]]:
        with bench.session() as session:
            return {(c.day, c.kind, c.currency): (c.count, c.cents) for c in session.scalars(select(Counter))}

    def test_days_kinds_and_currencies_are_counted_apart(self, bench: Bench) -> None:
        tokyo = timezone(timedelta(hours=9))
        for task in (
            self.enqueued(bench, currency="EUR", cents=100),
            self.enqueued(bench, currency="EUR", cents=250),
            self.enqueued(bench, currency="USD", cents=7),
            self.enqueued(bench, "signup"),
            self.enqueued(bench, "signup", at=datetime(2026, 11, 24, 8, tzinfo=tokyo)),
        ):
            bench.perform(task.id)
        day = date(2026, 11, 22)
        assert self.counters(bench) == {
            (day, "order", "EUR"): (2, 350),
            (day, "order", "USD"): (1, 7),
            (day, "signup", ""): (1, 0),
            (date(2026, 11, 23), "signup", ""): (1, 0),
        }

    def test_a_sum_that_no_row_can_hold_ends_no_count(self, bench: Bench) -> None:
        """Some twenty of the largest orders that the API takes are enough."""
        for task in [self.enqueued(bench, currency="EUR", cents=5 * 10**17) for _ in range(20)]:
            bench.perform(task.id)
        assert self.counters(bench) == {(date(2026, 11, 22), "order", "EUR"): (20, 2**63 - 1)}

    def test_a_count_that_is_not_recorded_as_done_is_not_counted(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = self.enqueued(bench)
        session = bench.session()
        monkeypatch.setattr(bench, "session", lambda: session)
        monkeypatch.setattr(session, "commit", lambda: session.rollback())
        bench.perform(task.id)
        monkeypatch.undo()
        assert self.counters(bench) == {}

    def test_threads_that_count_at_once_lose_nothing(self, bench: Bench) -> None:
        tasks = [self.enqueued(bench, cents=1) for _ in range(20)]
        threads = [threading.Thread(target=bench.perform, args=(task.id,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(self.counters(bench).values()) == [(20, 20)]
