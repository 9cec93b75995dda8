"""What pages and acts are made of: a question from a visitor, an answer for a template, a thing that was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import BaseLoader
from starlette.datastructures import QueryParams

from outbox.dashboard.gate import Role, Visitor
from outbox.ledger import Conn, Ledger
from outbox.reads import Reader, TaskView
from outbox.why import Explains

__all__ = ["Act", "Ask", "Done", "Evidence", "NotThere", "Page", "Panel", "Refused", "Tab", "View"]


class NotThere(Exception):
    """What the address names is not there. The message says what, for people."""


class Refused(Exception):
    """An act that cannot be done, and nothing was: the message says why, and what would do."""


class Evidence(NamedTuple):
    """What is known of a task's effect in the world: an SMTP reply, an HTTP answer."""

    title: str
    facts: Sequence[tuple[str, object]]
    excerpt: str | None = None
    curl: str | None = None


class Tab(NamedTuple):
    """An entry of the navigation: its title, its path below the dashboard, its icon."""

    title: str
    path: str
    icon: str


@dataclass(frozen=True)
class Ask:
    """What a visitor asks: a page by its path and query, or an act with its form. `conn` is theirs until they are answered."""

    conn: Conn
    visitor: Visitor
    base: str
    path: Mapping[str, str]
    params: QueryParams
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)
    schema: str = "outbox"
    panels: Sequence[Panel] = ()

    @property
    def reader(self) -> Reader:
        return Reader(self.schema)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.schema)

    def given(self, name: str) -> str:
        """A field of the form, without the spaces around it; "" when it is absent."""
        return (self.form.get(name) or [""])[0].strip()

    def now(self) -> datetime:
        return self.reader.now(self.conn)


class Page(NamedTuple):
    """A template, and what it is filled with. Blocks of it whose names begin with `live_` are kept fresh."""

    template: str
    title: str
    values: Mapping[str, Any]
    status: int = 200


class Done(NamedTuple):
    """What was done, in a sentence, and the path below the dashboard to go to; None: back where the visitor was."""

    told: str
    to: str | None = None


#: Makes a page. Raises NotThere.
View = Callable[[Ask], Page]


class Act(NamedTuple):
    """Something that a visitor with this role can do. Its transaction is committed when `do` returns. Raises Refused, NotThere."""

    needs: Role
    do: Callable[[Ask], Done]


@dataclass(frozen=True)
class Panel:
    """What an application adds: pages, acts, and what it knows of tasks. Paths begin with a slash and are below the dashboard."""

    tabs: Sequence[Tab] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    acts: Mapping[str, Act] = field(default_factory=dict)
    templates: BaseLoader | None = None
    explain: Explains | None = None
    evidence: Callable[[Conn, TaskView], Sequence[Evidence]] | None = None
    concerns: Callable[[Conn], Sequence[Any]] | None = None
