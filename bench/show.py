"""A report as a table: what was measured, its median and spread, and whether it meets its target."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.figures import Report, Series


def show(report: Report, out: Console, *, took: float) -> None:
    table = Table(title=report.title, title_justify="left", title_style="bold", caption_justify="left")
    for name in ("", "median", "min - max", "rounds", "target", ""):
        table.add_column(name, justify="left" if not name else "right")
    for series in report.series:
        table.add_row(*_row(series))
    table.caption = "\n".join([*report.settings, f"took {took:.0f} s", *report.notes])
    out.print(table)
    out.print()


def _row(series: Series) -> tuple[str, ...]:
    if not series.values:
        return series.name, "-", "", "0", _target(series), "[yellow]not measured[/]"
    spread = f"{_number(min(series.values))} - {_number(max(series.values))}"
    verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[series.met]
    middle = f"{_number(series.median)} {series.unit}"
    return series.name, middle, spread, str(len(series.values)), _target(series), verdict


def _target(series: Series) -> str:
    if series.at_least is not None and series.at_least == series.at_most:
        return f"= {_number(series.at_least)}"
    if series.at_least is not None:
        return f"≥ {_number(series.at_least)}"
    return f"≤ {_number(series.at_most)}" if series.at_most is not None else ""


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
