"""Receipts: rendered as PDF on the heavy queue, then mailed."""

from actors.receipts.order import Line
from actors.receipts.outbound import enqueue_receipt, render_receipt

__all__ = ["Line", "enqueue_receipt", "render_receipt"]
