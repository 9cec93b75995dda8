"""docs/parity.md, written from this list: python -m deploy.parity_page"""

from __future__ import annotations

from typing import NamedTuple

from deploy.local.place import ROOT

__all__ = ["PAGE", "PARTS", "Way", "written"]

PAGE = ROOT / "docs" / "parity.md"

_HEAD = """# The same act at every door

What can be seen and done, on the dashboard (paths below where it is mounted), on the command line, and over HTTP. A test
holds this list against all three: what one of them can do stands here, and so does where it cannot be done. All of them
take the same ledger, and each act has its line in the audit. This page is written by `python -m deploy.parity_page`.

Over HTTP, seeing needs the role `reader`, acting on tasks, queues and schedules `operator`; other arguments, and what
changes endpoints or suppressions, `admin`.
"""


class Way(NamedTuple):
    """What somebody wants, and each door at which they get it; several on the command line and over HTTP where they are."""

    wanted: str
    dashboard: str = ""
    cli: tuple[str, ...] = ()
    api: tuple[str, ...] = ()


PARTS: dict[str, list[Way]] = {
    "Tasks": [
        Way("Find tasks", "GET /tasks", ("outbox tasks list",), ("GET /v1/tasks",)),
        Way("One task: why it does not run, its attempts", "GET /tasks/{id}", ("outbox tasks show",), ("GET /v1/tasks/{task_id}",)),
        Way("Follow one task", "GET /tasks/{id}", (), ("GET /v1/tasks/{task_id}/stream",)),
        Way("Retry", "POST /tasks/{id}/retry", ("outbox tasks retry",), ("POST /v1/tasks/{task_id}/retry",)),
        Way("Cancel", "POST /tasks/{id}/cancel", ("outbox tasks cancel",), ("POST /v1/tasks/{task_id}/cancel",)),
        Way("Another time", "POST /tasks/{id}/reschedule", ("outbox tasks reschedule",), ("POST /v1/tasks/{task_id}/reschedule",)),
        Way("The form for other arguments", "GET /tasks/{id}/edit"),
        Way("Run again with other arguments", "POST /tasks/{id}/edit", ("outbox tasks edit",), ("POST /v1/tasks/{task_id}/edit",)),
    ],
    "Many tasks": [
        Way("Retry those that are ticked", "POST /tasks/retry", ("outbox tasks retry",), ("POST /v1/bulk-actions",)),
        Way("Cancel those that are ticked", "POST /tasks/cancel", ("outbox tasks cancel",), ("POST /v1/bulk-actions",)),
        Way("What an act would meet", "GET /bulk/new", ("outbox tasks retry",), ("POST /v1/bulk-actions",)),
        Way(
            "Begin an act on all that fit", "POST /bulk",
            ("outbox tasks retry", "outbox tasks cancel", "outbox tasks reschedule"), ("POST /v1/bulk-actions",),
        ),
        Way("The acts", "GET /bulk", ("outbox bulk list",), ("GET /v1/bulk-actions",)),
        Way("How far one is", "GET /bulk/{id}", ("outbox bulk show", "outbox bulk watch"), ("GET /v1/bulk-actions/{bulk_id}",)),
        Way("End one", "POST /bulk/{id}/abort", ("outbox bulk abort",), ("POST /v1/bulk-actions/{bulk_id}/abort",)),
    ],
    "Failures": [
        Way("What fails, by its kind", "GET /failures", ("outbox failures list",), ("GET /v1/failures",)),
        Way("One kind", "GET /failures/{failure}", ("outbox failures show",), ("GET /v1/failures/{failure}",)),
        Way("Retry all of a kind", "POST /bulk", ("outbox failures retry",), ("POST /v1/bulk-actions",)),
    ],
    "Queues, schedules, processes": [
        Way("Queues", "GET /queues", ("outbox queues list",), ("GET /v1/queues",)),
        Way("Pause a queue", "POST /queues/{name}/pause", ("outbox queues pause",), ("POST /v1/queues/{name}/pause",)),
        Way("Let it go on", "POST /queues/{name}/resume", ("outbox queues resume",), ("POST /v1/queues/{name}/resume",)),
        Way("Schedules", "GET /schedules", ("outbox schedules list",), ("GET /v1/schedules",)),
        Way("A schedule: its last and next fires", "GET /schedules/{name}", ("outbox schedules show",), ("GET /v1/schedules/{name}",)),
        Way("Run one now", "POST /schedules/{name}/run", ("outbox schedules run",), ("POST /v1/schedules/{name}/run",)),
        Way("Pause a schedule", "POST /schedules/{name}/pause", ("outbox schedules pause",), ("POST /v1/schedules/{name}/pause",)),
        Way("Let it fire again", "POST /schedules/{name}/resume", ("outbox schedules resume",), ("POST /v1/schedules/{name}/resume",)),
        Way("Workers, relays, schedulers", "GET /processes", ("outbox workers",), ("GET /v1/processes",)),
    ],
    "How it stands": [
        Way("What needs attention", "GET /", ("outbox attention",), ("GET /v1/attention",)),
        Way("Figures", "GET /", ("outbox stats",), ("GET /v1/stats",)),
        Way("All of it, live", "GET /", ("outbox top",)),
        Way("What people did", "GET /audit", ("outbox audit list",), ("GET /v1/audit",)),
        Way("Is all set up as it should be", "", ("outbox doctor",)),
        Way("Is it alive, is it ready, how is it doing", "", (), ("GET /livez", "GET /readyz", "GET /metrics")),
    ],
    "Endpoints and deliveries": [
        Way("Endpoints", "GET /endpoints", (), ("GET /v1/endpoints",)),
        Way("One endpoint", "GET /endpoints/{id}", (), ("GET /v1/endpoints/{endpoint_id}", "GET /v1/endpoints/{endpoint_id}/deliveries")),
        Way("Enable one", "POST /endpoints/{id}/enable", (), ("PATCH /v1/endpoints/{endpoint_id}",)),
        Way("Disable one", "POST /endpoints/{id}/disable", (), ("PATCH /v1/endpoints/{endpoint_id}",)),
        Way("A test", "POST /endpoints/{id}/test", (), ("POST /v1/endpoints/{endpoint_id}/test",)),
        Way("What it missed, again", "POST /endpoints/{id}/replay", (), ("POST /v1/endpoints/{endpoint_id}/replay",)),
        Way(
            "How replays go; end one", "", (),
            ("GET /v1/endpoints/{endpoint_id}/replays", "GET /v1/replays/{replay_id}", "POST /v1/replays/{replay_id}/abort"),
        ),
        Way("One delivery", "", (), ("GET /v1/deliveries/{delivery_id}",)),
        Way("Deliver once more", "POST /deliveries/{id}/resend", (), ("POST /v1/deliveries/{delivery_id}/resend",)),
        Way(
            "Make, change, delete one; another secret", "", (),
            (
                "POST /v1/endpoints", "PATCH /v1/endpoints/{endpoint_id}", "DELETE /v1/endpoints/{endpoint_id}",
                "POST /v1/endpoints/{endpoint_id}/rotate-secret",
            ),
        ),
    ],
    "Mail": [
        Way("Mails and suppressions", "GET /mail", (), ("GET /v1/mails/{mail_id}", "GET /v1/suppressions")),
        Way("Lift a suppression", "POST /mail/lift", (), ("DELETE /v1/suppressions",)),
        Way("Suppress an address", "", (), ("POST /v1/suppressions",)),
        Way("Unsubscribe, by the link in a mail", "", (), ("GET /v1/unsubscribe/{token}", "POST /v1/unsubscribe/{token}")),
        Way("A mail server's report", "", (), ("POST /v1/mail-events",)),
    ],
    "What applications do": [
        Way("Enqueue, with what they keep", "", (), ("POST /v1/signups", "POST /v1/orders", "POST /v1/events", "POST /v1/mails")),
    ],
    "What whoever runs it does": [
        Way("Run a process", "", ("outbox relay", "outbox worker", "outbox scheduler")),
        Way("The tables", "", ("outbox db upgrade", "outbox db current", "outbox db check", "outbox db downgrade", "outbox db sql")),
        Way("Delete what is past its retention", "", ("outbox purge",)),
    ],
}  # fmt: skip


def written() -> str:
    """The page as it should be."""
    return "\n".join([_HEAD, *(_part(title, ways) for title, ways in PARTS.items())])


def _part(title: str, ways: list[Way]) -> str:
    rows = [f"| {way.wanted} | {_cell([way.dashboard])} | {_cell(way.cli)} | {_cell(way.api)} |" for way in ways]
    return "\n".join(
        [f"## {title}", "", "| wanted | dashboard | command line | HTTP |", "|---|---|---|---|", *rows, ""]
    )


def _cell(doors: list[str] | tuple[str, ...]) -> str:
    return "<br>".join(f"`{door}`" for door in doors if door) or "—"


if __name__ == "__main__":
    PAGE.write_text(written())
