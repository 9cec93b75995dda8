"""What the confirmation mail of an order says."""

from actors.mail.render import Letter, letter
from actors.receipts.order import Receipt, amount


def confirmation(receipt: Receipt) -> Letter:
    lines = [
        {"quantity": f"{line.quantity:>6}", "sku": line.sku, "total": amount(line.total_cents)}
        for line in receipt.lines
    ]
    return letter(
        "receipt",
        order_id=str(receipt.order_id),
        lines=lines,
        total=amount(receipt.total_cents),
        currency=receipt.currency,
    )
