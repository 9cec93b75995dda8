"""The receipt of an order as a PDF. The same receipt gives the same bytes at every attempt."""

import unicodedata

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from actors.receipts.order import Receipt, amount

_COLUMNS = ((85.0, "L"), (25.0, "R"), (35.0, "R"), (45.0, "R"))
_ROW = 8.0


def render(receipt: Receipt) -> bytes:
    """The PDF, dated with the order. What the built-in fonts cannot show (beyond Latin-1) appears as `?`."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(receipt.placed_at)
    pdf.set_title(f"Receipt {receipt.order_id}")
    pdf.set_lang("en")
    pdf.add_page()
    _heading(pdf, receipt)
    _row(pdf, ("Item", "Quantity", "Unit price", f"Total {_printable(receipt.currency)}"), style="B", border="B")
    for line in receipt.lines:
        cells = (line.sku, f"{line.quantity:,}", amount(line.unit_price_cents), amount(line.total_cents))
        _row(pdf, cells)
    _row(pdf, ("Total", "", "", amount(receipt.total_cents)), style="B", border="T")
    return bytes(pdf.output())


def _heading(pdf: FPDF, receipt: Receipt) -> None:
    pdf.set_font("Helvetica", style="B", size=20)
    _write(pdf, "Receipt", height=14)
    pdf.set_font("Helvetica", size=10)
    _write(pdf, f"Order {receipt.order_id}")
    _write(pdf, f"Placed on {receipt.placed_at:%Y-%m-%d %H:%M} {receipt.placed_at.tzname() or ''}".rstrip())
    _write(pdf, f"For {receipt.email}")
    pdf.ln(6)


def _write(pdf: FPDF, text: str, *, height: float = 6) -> None:
    pdf.multi_cell(0, height, _printable(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def _row(pdf: FPDF, cells: tuple[str, str, str, str], *, style: str = "", border: str = "") -> None:
    pdf.set_font("Helvetica", style=style, size=10)
    for (width, align), text in zip(_COLUMNS, cells, strict=True):
        pdf.cell(width, _ROW, _fitting(pdf, _printable(text), width), align=align, border=border)
    pdf.ln(_ROW)


def _fitting(pdf: FPDF, text: str, width: float) -> str:
    room = width - 2 * pdf.c_margin
    if pdf.get_string_width(text) <= room:
        return text
    while text and pdf.get_string_width(text + "...") > room:
        text = text[:-1]
    return text + "..."


def _printable(text: str) -> str:
    """`text` in Latin-1: letters that it lacks lose their marks, the rest becomes `?`."""
    shown = (
        c if ord(c) < 256 else unicodedata.normalize("NFKD", c).encode("latin-1", "ignore").decode("latin-1") or "?"
        for c in unicodedata.normalize("NFC", text)
    )
    return "".join(c if c.isprintable() else "?" for piece in shown for c in piece)
