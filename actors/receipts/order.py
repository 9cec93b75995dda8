"""What a receipt says: an order's lines, and money in whole cents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Line:
    """One position of an order. Money is counted in whole cents."""

    sku: str
    quantity: int
    unit_price_cents: int

    @property
    def total_cents(self) -> int:
        return self.quantity * self.unit_price_cents


@dataclass(frozen=True, slots=True)
class Receipt:
    order_id: UUID
    email: str
    currency: str
    placed_at: datetime
    lines: Sequence[Line]

    @property
    def total_cents(self) -> int:
        return sum(line.total_cents for line in self.lines)


def amount(cents: int) -> str:
    """`123456` as `1,234.56`."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02}"
