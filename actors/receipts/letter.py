"""What the confirmation mail of an order says."""

from html import escape

from actors.receipts.order import Receipt, amount


def subject(receipt: Receipt) -> str:
    return f"Your order {receipt.order_id}"


def text(receipt: Receipt) -> str:
    lines = "\n".join(f"{line.quantity:>6} x {line.sku}  {amount(line.total_cents)}" for line in receipt.lines)
    return (
        f"Thank you for your order.\n\n{lines}\n\n"
        f"Total: {amount(receipt.total_cents)} {receipt.currency}\n\nThe receipt is attached.\n"
    )


def html(receipt: Receipt) -> str:
    rows = "".join(
        f"<tr><td>{line.quantity}</td><td>{escape(line.sku)}</td><td>{amount(line.total_cents)}</td></tr>"
        for line in receipt.lines
    )
    return (
        f"<p>Thank you for your order.</p><table>{rows}</table>"
        f"<p>Total: {amount(receipt.total_cents)} {escape(receipt.currency)}</p><p>The receipt is attached.</p>"
    )
