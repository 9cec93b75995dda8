"""From an order to its receipt, and from the receipt to the mail that carries it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import dramatiq
from sqlalchemy import func
from sqlalchemy.orm import Session

from actors import mail, tables
from actors.receipts import letter
from actors.receipts.order import Line, Receipt
from outbox import Permanent, Task, current_run, enqueue


def enqueue_receipt(
    session: Session, *, order_id: UUID, email: str, currency: str, placed_at: datetime, lines: Sequence[Line]
) -> Task:
    """Render the order's receipt, then mail it to `email`, once the session's transaction commits."""
    receipt = Receipt(order_id, email, currency, placed_at, lines)
    session.add(tables.Receipt(order_id=order_id, content=_content(receipt)))
    return enqueue(session, render_receipt.message(str(order_id)))


@dramatiq.actor(queue_name="heavy", max_retries=10, min_backoff=5_000, max_backoff=3_600_000, time_limit=5 * 60_000)
def render_receipt(order_id: str) -> None:
    """Stores the PDF and, in the transaction that records this task's success, the confirmation mail and its task:
    however often this runs, one mail comes of it."""
    session = current_run().session()
    row = session.get(tables.Receipt, UUID(order_id), with_for_update=True)
    if row is None:
        raise Permanent("the receipt no longer exists")
    if row.mail_id is not None:
        return
    from actors.receipts.document import render  # loads fonts: only where receipts are made

    receipt = _receipt(UUID(order_id), row.content)
    row.pdf, row.rendered_at = render(receipt), func.clock_timestamp()
    row.mail = _confirmation(session, receipt, row.pdf)
    mail.enqueue_mail(session, row.mail)


def _confirmation(session: Session, receipt: Receipt, pdf: bytes) -> tables.Mail:
    attachment = mail.Attachment(f"receipt-{receipt.order_id}.pdf", "application/pdf", pdf)
    says = letter.confirmation(receipt)
    return mail.prepare(
        session, to=receipt.email, subject=says.subject, text=says.text, html=says.html, attachments=[attachment]
    )


def _content(receipt: Receipt) -> dict[str, Any]:
    return {
        "email": receipt.email,
        "currency": receipt.currency,
        "placed_at": receipt.placed_at.isoformat(),
        "lines": [[line.sku, line.quantity, line.unit_price_cents] for line in receipt.lines],
    }


def _receipt(order_id: UUID, content: dict[str, Any]) -> Receipt:
    return Receipt(
        order_id=order_id,
        email=content["email"],
        currency=content["currency"],
        placed_at=datetime.fromisoformat(content["placed_at"]),
        lines=[Line(*line) for line in content["lines"]],
    )
