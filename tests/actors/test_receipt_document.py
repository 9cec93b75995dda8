"""The receipt PDF."""

import io
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from actors.receipts.document import render
from actors.receipts.order import Line, Receipt, amount


def receipt(*lines: Line, email: str = "ada@example.com") -> Receipt:
    return Receipt(
        order_id=UUID("0199a5b0-0000-7000-8000-000000000001"),
        email=email,
        currency="EUR",
        placed_at=datetime(2026, 11, 22, 12, 30, tzinfo=UTC),
        lines=lines,
    )


def text_of(pdf: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)


def test_it_names_the_order_its_items_and_the_total() -> None:
    shown = text_of(render(receipt(Line("TEA-1", 3, 1250), Line("CUP-9", 2, 999_99))))
    for expected in ("0199a5b0-0000-7000-8000-000000000001", "2026-11-22 12:30 UTC", "ada@example.com"):
        assert expected in shown
    for expected in ("TEA-1", "12.50", "37.50", "CUP-9", "999.99", "1,999.98", "2,037.48", "Total EUR"):
        assert expected in shown


def test_the_same_receipt_gives_the_same_bytes() -> None:
    assert render(receipt(Line("TEA", 1, 1))) == render(receipt(Line("TEA", 1, 1)))


@pytest.mark.parametrize(
    ("cents", "shown"), [(0, "0.00"), (5, "0.05"), (123456789, "1,234,567.89"), (-5, "-0.05"), (10**18 + 1, None)]
)
def test_money_is_exact(cents: int, shown: str | None) -> None:
    assert amount(cents) == (shown or "10,000,000,000,000,000.01")


def test_many_items_flow_over_several_pages() -> None:
    pdf = render(receipt(*(Line(f"SKU-{n}", 1, 100) for n in range(200))))
    shown = text_of(pdf)
    assert len(PdfReader(io.BytesIO(pdf)).pages) > 1
    assert "SKU-199" in shown
    assert "200.00" in shown


def test_letters_beyond_latin_1_are_replaced_and_never_fail() -> None:
    shown = text_of(render(receipt(Line("Łódź ﬁ Жук 茶 é", 1, 1))))
    assert "ódz fi ??? ? é" in shown


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300), st.integers(1, 10**9), st.integers(0, 10**12))
def test_no_text_or_number_breaks_it(sku: str, quantity: int, cents: int) -> None:
    assert render(receipt(Line(sku, quantity, cents))).startswith(b"%PDF")
