"""What the service adds to the dashboard: endpoints and mail, what is known of a task's effect, and what is wrong outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import FileSystemLoader
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import actors
from outbox.dashboard import Act, Ask, Done, Panel, Role, Tab
from service.panels import acts, endpoint, endpoints, mail
from service.panels.concerns import concerns
from service.panels.evidence import evidence
from service.panels.lent import lent

__all__ = ["panel"]


def panel(engine: Engine) -> Panel:
    """`engine` is the one whose connections the dashboard uses."""

    def act(needs: Role, do: Callable[[Ask, Session], Done]) -> Act:
        def done(ask: Ask) -> Done:
            with lent(engine, ask) as session:
                return do(ask, session)

        return Act(needs, done)

    return Panel(
        tabs=[Tab("Endpoints", "/endpoints", "globe"), Tab("Mail", "/mail", "mail")],
        views={"/endpoints": endpoints.show, "/endpoints/{id}": endpoint.show, "/mail": mail.show},
        acts={
            "/endpoints/{id}/enable": act("admin", acts.enable),
            "/endpoints/{id}/disable": act("admin", acts.disable),
            "/endpoints/{id}/test": act("admin", acts.send_test),
            "/endpoints/{id}/replay": act("admin", acts.replay),
            "/deliveries/{id}/resend": act("operator", acts.resend),
            "/mail/lift": act("admin", acts.lift),
        },
        templates=FileSystemLoader(Path(__file__).parent / "templates"),
        explain=actors.explain,
        evidence=evidence,
        concerns=concerns,
    )
