"""A dashboard as a browser meets it, and a road that puts a task into every state."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, NamedTuple, Self, cast
from uuid import UUID, uuid4

from httpx2 import Response
from outbox_rows import Outbox, a_message, failure
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.testclient import TestClient

from outbox.dashboard import Dashboard, Role, Visitor

__all__ = ["Eyes", "Served", "a_house_in_use", "by_header", "links_of"]

HERE = {"Sec-Fetch-Site": "same-origin"}


async def by_header(request: HTTPConnection) -> Visitor | None:
    """Whoever the request says; an application's own way of knowing its people."""
    role = request.headers.get("x-role")
    return Visitor(request.headers.get("x-name", "ann"), cast(Role, role)) if role else None


class Eyes:
    """The dashboard below `prefix`, looked at as somebody of a role."""

    def __init__(self, engine: Engine, *, prefix: str = "/ops", **options: Any) -> None:
        self.engine = engine
        self.prefix = prefix
        self.dashboard = Dashboard(engine, **{"gate": by_header, **options})
        app = Starlette(routes=[Mount(prefix, self.dashboard)]) if prefix else self.dashboard
        self.client = TestClient(app, follow_redirects=False)

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.__exit__()

    def get(self, path: str, role: str | None = "admin", **headers: str) -> Response:
        told = {"X-Role": role} if role else {}
        return self.client.get(f"{self.prefix}{path}", headers={**told, **headers})

    def page(self, path: str, role: str = "admin") -> str:
        """The page's text; it must be there."""
        answer = self.get(path, role)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[-2000:])
        return answer.text

    def act(
        self, path: str, role: str | None = "admin", headers: dict[str, str] | None = None, **form: Any
    ) -> Response:
        """Press a button of a page of the dashboard."""
        told = {"X-Role": role} if role else {}
        sent = HERE if headers is None else headers
        self.client.cookies.clear()
        return self.client.post(f"{self.prefix}{path}", data=form, headers={**told, **sent})

    def told(self, answer: Response) -> str:
        """What the page says after an act."""
        assert answer.status_code == 303, (answer.status_code, answer.text[-500:])
        page = self.client.get(answer.headers["location"], headers={"X-Role": "admin"})
        assert page.status_code == 200
        found = re.search(r'<p class="said (\w+)".*?</svg>(.*?)</p>', page.text, re.DOTALL)
        assert found is not None, page.text[:1500]
        return f"{found[1]}: {found[2]}"


class Served(NamedTuple):
    """A dashboard behind a server, and where."""

    address: str
    dashboard: Dashboard

    def nobody_follows(self) -> bool:
        return not self.dashboard._hub._watched


def links_of(html: str) -> list[str]:
    return re.findall(r'(?:href|src|action|formaction)="([^"#][^"]*)"', html)


def a_house_in_use(outbox: Outbox) -> dict[str, UUID]:
    """A task in every state, by that state; a worker, a relay, a schedule, queues, a line of audit."""
    worker = outbox.a_worker(queues=["mail", "a/queue & <u>"])
    outbox.ledger.join(
        outbox.conn,
        worker=uuid4(),
        kind="relay",
        host="there",
        pid=7,
        queues=[],
        threads=0,
        lease=timedelta(seconds=10),
    )
    hour = timedelta(hours=1)
    found = {
        "pending": outbox.add("<script>alert(1)</script>"),
        "scheduled": outbox.add("later", delay=hour),
        "retrying": outbox.add("again"),
        "dead": outbox.add("broken"),
        "succeeded": outbox.add("well"),
        "cancelled": outbox.add("unwanted"),
        "running": outbox.add("busy"),
        "published": outbox.add("on its way"),
        "odd": outbox.add(
            message=a_message("x", actor='"><img src=x>', queue="a/queue & <u>", password="hunter2-of-ann")
        ),
        "head": outbox.add("first", ordering_key="k"),
        "waiting": outbox.add("second", ordering_key="k"),
    }
    outbox.ledger.queue_epoch(outbox.conn, "mail")
    ready = [found[name] for name in ("retrying", "dead", "succeeded", "running", "published")]
    outbox.ledger.mark_published(outbox.conn, ready, epochs={"mail": 0})
    outbox.fail(outbox.must_claim(found["retrying"], worker), wait=hour)
    with outbox.conn.transaction():
        broken = failure(outbox.must_claim(found["dead"], worker))
        outbox.ledger.record_dead(outbox.conn, [broken])
    outbox.succeed(outbox.must_claim(found["succeeded"], worker))
    claimed = outbox.must_claim(found["running"], worker)
    outbox.ledger.beat(
        outbox.conn, worker=worker, runs=[claimed.run_id], running=[claimed.run_id], queues=["mail", "a/queue & <u>"],
        unclaimed=[], claimed_through={},
    )  # fmt: skip
    outbox.ledger.cancel(outbox.conn, found["cancelled"], reason="unwanted")
    outbox.ledger.audit(outbox.conn, who="<i>ben</i>", action="cancel", subject=str(found["cancelled"]))
    outbox.conn.execute(
        "insert into outbox.schedule (name, actor, queue, cron, fired_through) values ('nightly/digest <u>', 'digest', 'mail', "
        "'30 2 * * *', clock_timestamp())"
    )
    return found
