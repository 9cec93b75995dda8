"""What the document shows: bodies that the API accepts as they stand, and what it answers to them."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ANSWERS", "ENDPOINT", "FRAMES", "ORDER", "OTHER_REQUESTS", "REQUESTS", "SECRET", "Example"]

_USER = "0198c4a0-1f3b-7c52-9a54-3f6c1d0e8b11"
ORDER = "0198c4a0-2b7e-7d10-8c3d-5a9be2f4c622"
_EVENT = "0198c4a0-36d2-7a41-b0f7-91c2ad7e5d33"
_MAIL = "0198c4a0-4418-7e93-a6c8-2d4f8b1e7a44"
ENDPOINT = "0198c4a0-51c6-7b25-95ea-c07d3f6a9b55"
_TASKS = ["0198c4a0-5e07-7f68-8d12-64be0a3c1f66", "0198c4a0-6a9d-7c0b-9e45-b8d17f2e4c77"]
_RUN = "5d1f7a3e-90b4-4c26-8e7d-1a2b3c4d5e6f"
_WORKER = "b7c2d940-3e1f-4a58-9c60-7f8e9d0a1b2c"


class Example(NamedTuple):
    """A name that says what is special about it, and the value."""

    summary: str
    value: Any


#: Bodies by operation.
REQUESTS: dict[str, list[Example]] = {
    "sign_up": [Example("A new user", {"email": "ada@example.org", "name": "Ada Lovelace"})],
    "place_order": [
        Example(
            "Two lines, with an id of the caller's own",
            {
                "email": "ada@example.org",
                "items": [
                    {"sku": "TEA-1", "quantity": 3, "unit_price_cents": 450},
                    {"sku": "CUP", "quantity": 1, "unit_price_cents": 1290},
                ],
                "currency": "EUR",
                "client_id": "cart-7731",
            },
        )
    ],
    "publish_event": [
        Example("Something happened", {"type": "user.created", "data": {"id": 7, "email": "ada@example.org"}}),
        Example("At most once for this client_id", {"type": "build.done", "data": "v1.4", "client_id": "build:14"}),
    ],
    "send_mail": [
        Example("Now, as text", {"to": "ada@example.org", "subject": "Your code", "text": "It is 4711."}),
        Example(
            "Text and HTML",
            {"to": "ada@example.org", "subject": "Hello", "text": "Hello Ada", "html": "<p>Hello <b>Ada</b></p>"},
        ),
        Example(
            "Templates, and what to fill in",
            {
                "to": "ada@example.org",
                "subject": "{{ month }} at the shop",
                "text": "Hello {{ name }},\n\nhere is what was new.\n",
                "variables": {"name": "Ada", "month": "June"},
            },
        ),
    ],
    "take_mail_event": [
        Example(
            "A provider tells of a bounce",
            {
                "event_id": "ev_7d1f",
                "event_type": "bounced",
                "mail_id": "0198c4a0-4418-7e93-a6c8-2d4f8b1e7a44",
                "reject_reason": "invalid",
                "status": "5.1.1",
            },
        )
    ],
    "suppress_address": [
        Example("Nothing at all any more", {"recipient": "ada@example.org"}),
        Example("One stream, for a month", {"recipient": "ada@example.org", "stream": "newsletter", "days": 30}),
    ],
    "create_endpoint": [
        Example(
            "Orders, and one more type",
            {
                "url": "https://hooks.example.org/in",
                "event_types": ["order.*", "user.created"],
                "description": "The warehouse",
                "headers": {"X-Tenant": "blue"},
            },
        )
    ],
    "change_endpoint": [
        Example("Deliver nothing more for now", {"enabled": False}),
        Example("Everything, elsewhere", {"url": "https://hooks.example.org/v2", "event_types": ["*"]}),
    ],
    "rotate_secret": [Example("The old one signs for another hour", {"overlap_seconds": 3600})],
    "replay_missed": [
        Example("What was missed since", {"since": "2026-11-25T08:00:00Z"}),
        Example(
            "A period, orders only, also what arrived",
            {
                "since": "2026-11-24T00:00:00Z",
                "until": "2026-11-25T00:00:00Z",
                "event_types": ["order.*"],
                "which": "all",
            },
        ),
    ],
    "cancel_task": [Example("With the reason", {"reason": "wrong recipient"})],
    "reschedule_task": [
        Example("In an hour", {"delay_seconds": 3600}),
        Example("At a time", {"run_at": "2030-01-31T12:00:00Z"}),
    ],
    "edit_task": [
        Example("To another mail", {"args": [_MAIL]}),
        Example("One argument by its name", {"args": [], "kwargs": {"mail_id": _MAIL}}),
        Example("As it was", {}),
    ],
    "begin_bulk_action": [
        Example(
            "All that died of one error, fifty a second",
            {
                "action": "retry",
                "query": 'actor:send_mail error:"timed out" since:2h',
                "reason": "the mail server is back",
                "rate": 50,
            },
        ),
        Example("What it would meet", {"action": "cancel", "query": "queue:reports", "dry_run": True}),
        Example("To another time", {"action": "reschedule", "query": "queue:reports", "delay_seconds": 3600}),
        Example("All that is dead", {"action": "retry", "query": "", "everything": True}),
    ],
}

#: Bodies that are not JSON, by operation and media type.
OTHER_REQUESTS: dict[tuple[str, str], list[Example]] = {
    ("unsubscribe_at_once", "application/x-www-form-urlencoded"): [
        Example("As mail providers send it", "List-Unsubscribe=One-Click")
    ],
    ("take_mail_event", "message/rfc822"): [
        Example(
            "A mail server's report",
            """\
From: MAILER-DAEMON@mx.example.org
To: bounces@example.org
Subject: Undelivered mail
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

The address does not exist.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org

Final-Recipient: rfc822; ada@example.org
Action: failed
Status: 5.1.1
--b--
""",
        )
    ],
}

_ITEM: dict[str, Any] = {
    "id": _MAIL,
    "state": "retrying",
    "actor": "send_mail",
    "queue": "mail",
    "args": [_MAIL],
    "kwargs": {},
    "priority": 0,
    "created_at": "2026-11-25T08:00:00Z",
    "due_at": "2026-11-25T08:00:31Z",
    "published_at": None,
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
    "failures": 1,
    "crashes": 0,
    "max_attempts": 13,
    "ordering_key": None,
    "concurrency_key": None,
    "unique_key": None,
    "cancel_requested": False,
    "reason": None,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
_WHY = {
    "cause": "retry_wait",
    "told": "It failed once, and is tried again at 2026-11-25 08:00:31 UTC: SMTPError: 450 mailbox busy",
    "since": "2026-11-25T08:00:01.480Z",
    "until": "2026-11-25T08:00:31Z",
    "mend": f"outbox tasks retry {_MAIL}",
}
_ATTEMPT = {
    "run": _RUN,
    "worker": _WORKER,
    "outcome": "failed",
    "error": "SMTPError: 450 mailbox busy",
    "traceback": None,
    "started_at": "2026-11-25T08:00:00.120Z",
    "finished_at": "2026-11-25T08:00:01.480Z",
    "failure": "5b1c0e7a92d4",
    "logs": "08:00:01.479Z WARNING actors.mail: mailbox busy",
}
_FAILURE = {
    "failure": "5b1c0e7a92d4",
    "error": "SMTPError: 450 mailbox busy",
    "actors": ["send_mail"],
    "count": 31,
    "at_least": False,
    "dead": 19,
    "retrying": 12,
    "first_at": "2026-11-25T06:12:08Z",
    "last_at": "2026-11-25T08:00:01.480Z",
    "hours": [*[0] * 22, 11, 20],
    "example": _MAIL,
    "query": "failure:5b1c0e7a92d4",
}


_DELIVERY: dict[str, Any] = {
    "delivery_id": _TASKS[0],
    "webhook_id": _TASKS[0],
    "endpoint_id": ENDPOINT,
    "event_id": _EVENT,
    "event_type": "order.placed",
    "status": "failing",
    "created_at": "2026-11-25T08:00:00Z",
    "delivered_at": None,
    "attempt_count": 1,
    "attempted_at": "2026-11-25T08:00:00.310Z",
    "phase": "answer",
    "status_code": 503,
    "reason": "HTTP 503: the endpoint failed",
    "duration_ms": 41.7,
}
_MET = {
    "number": 1,
    "at": "2026-11-25T08:00:00.310Z",
    "outcome": "retry",
    "phase": "answer",
    "status_code": 503,
    "reason": "HTTP 503: the endpoint failed",
    "excerpt": "come back later",
    "duration_ms": 41.7,
}


def _detail(**changed: Any) -> dict[str, Any]:
    return {**_ITEM, **changed, "attempts": [_ATTEMPT], "why": _WHY}


_VIEW: dict[str, Any] = {
    "endpoint_id": ENDPOINT,
    "url": "https://hooks.example.org/in",
    "event_types": ["order.*", "user.created"],
    "description": "The warehouse",
    "header_names": ["X-Tenant"],
    "metadata": {},
    "concurrency": 4,
    "rate_per_second": None,
    "fifo": False,
    "schedule": None,
    "other_4xx": "refuse",
    "notify": None,
    "signing_keys": [{"public_key": None, "created_at": "2026-11-25T08:00:00Z", "expires_at": None}],
    "enabled": True,
    "disabled_reason": None,
    "disabled_at": None,
    "missed_since": None,
    "created_at": "2026-11-25T08:00:00Z",
    "updated_at": "2026-11-25T08:00:00Z",
}
#: Signs the examples, so that a receiver can be tried out with them.
SECRET = "whsec_bmV2ZXIgdXNlIHRoaXMgb25lLCBpdCBpcyBwdWJsaWM="  # noqa: S105 - it is public
_REPLAY: dict[str, Any] = {
    "replay_id": "0198c4a0-8d41-7a06-b7f2-1e9c3a5d7f99",
    "endpoint_id": ENDPOINT,
    "status": "running",
    "which": "missed",
    "event_types": None,
    "since": "2026-11-25T08:00:00Z",
    "until": "2026-11-25T09:00:00Z",
    "seen": 200,
    "enqueued": 17,
    "total": 731,
    "reason": None,
    "who": "ops",
    "created_at": "2026-11-25T09:00:00Z",
    "ended_at": None,
}
_SUPPRESSION = {
    "recipient": "ada@example.org",
    "stream": "*",
    "reason": "manual",
    "source": "api",
    "created_at": "2026-11-25T08:00:00Z",
    "expires_at": None,
}
_BULK: dict[str, Any] = {
    "bulk_id": "0198c4a0-9c2d-7b18-a4e6-3d5f7a9b1caa",
    "action": "retry",
    "query": 'state:dead actor:send_mail error:"timed out" since:2026-11-25T06:00:00Z until:2026-11-25T08:00:00Z',
    "state": "running",
    "matched": 731,
    "matched_at_least": False,
    "done": 0,
    "refused": 0,
    "error": None,
    "who": "ops",
    "reason": "the mail server is back",
    "due_at": None,
    "rate": 50,
    "created_at": "2026-11-25T08:00:00Z",
    "finished_at": None,
}
_QUEUE: dict[str, Any] = {
    "name": "mail",
    "paused": False,
    "paused_by": None,
    "paused_at": None,
    "epoch": 3,
    "workers": 2,
    "oldest_due": 0.412,
    "counts": {"pending": {"number": 12, "at_least": False}, "running": {"number": 8, "at_least": False}},
}
_SCHEDULE: dict[str, Any] = {
    "name": "nightly_report",
    "actor": "nightly_report",
    "queue": "reports",
    "cron": "30 2 * * mon-fri",
    "zone": "Europe/Paris",
    "missed": "last",
    "missed_limit": 10,
    "paused": False,
    "retired": False,
    "declared_at": "2026-11-25T08:00:00Z",
    "fired_through": "2026-11-25T08:00:00Z",
    "last_fire_at": "2026-11-25T01:30:00Z",
    "last_outcome": "fired",
    "last_task_id": _TASKS[0],
    "next_fire_at": "2026-11-26T01:30:00Z",
}
_SCHEDULED: dict[str, Any] = {
    **_SCHEDULE,
    "next_fires": ["2026-11-26T01:30:00Z", "2026-11-27T01:30:00Z"],
    "fires": [
        {
            "fire_at": "2026-11-25T01:30:00Z",
            "outcome": "fired",
            "fired_at": "2026-11-25T01:30:00.210Z",
            "task_id": _TASKS[0],
        }
    ],
}
_PAUSED: dict[str, Any] = {"paused": True, "next_fire_at": None, "next_fires": []}
_STATS = {"succeeded": 420, "dead": 1, "cancelled": 0, "failures": 7, "p50": 0.11, "p95": 0.42}
_PLACED = {"order_id": ORDER, "total_cents": 2640, "task_ids": _TASKS}
_PUBLISHED = {"event_id": _EVENT, "task_ids": _TASKS}

#: Answers by operation and status.
ANSWERS: dict[tuple[str, int], Any] = {
    ("sign_up", 201): {"user_id": _USER, "task_ids": [_MAIL]},
    ("place_order", 201): _PLACED,
    ("place_order", 200): _PLACED,
    ("publish_event", 202): _PUBLISHED,
    ("publish_event", 200): _PUBLISHED,
    ("send_mail", 202): {"mail_id": _MAIL, "task_ids": [_MAIL]},
    ("read_mail", 200): {
        "mail_id": _MAIL,
        "to": "ada@example.org",
        "status": "bounced",
        "stream": "transactional",
        "message_id": f"<{_MAIL}@example.org>",
        "created_at": "2026-11-25T08:00:00Z",
        "send_at": None,
        "expires_at": None,
        "sent_at": "2026-11-25T08:00:01.480Z",
        "attempts": 1,
        "on_uncertain": "resend",
        "reply": "250 2.0.0 Ok: queued as 4F2A91",
        "reply_at": "2026-11-25T08:00:01.480Z",
        "events": [{"kind": "bounced", "status": "5.1.1", "at": "2026-11-25T08:02:40Z"}],
    },
    ("take_mail_event", 200): {"event_id": "ev_7d1f", "mail_id": _MAIL, "acted_upon": True},
    ("ask_to_unsubscribe", 200): "<!doctype html>…<button>Unsubscribe</button>…",
    ("unsubscribe_at_once", 200): "<!doctype html>…<p>You are unsubscribed.</p>…",
    ("list_suppressions", 200): {"items": [_SUPPRESSION], "next_cursor": None},
    ("suppress_address", 201): _SUPPRESSION,
    ("list_deliveries", 200): {"items": [_DELIVERY], "next_cursor": None},
    ("read_delivery", 200): {**_DELIVERY, "attempts": [_MET]},
    ("resend_delivery", 202): {"delivery_id": _TASKS[1], "task_ids": _TASKS[1:]},
    ("create_endpoint", 201): {**_VIEW, "secret": SECRET},
    ("list_endpoints", 200): {"items": [_VIEW], "next_cursor": None},
    ("read_endpoint", 200): _VIEW,
    ("change_endpoint", 200): {**_VIEW, "updated_at": "2026-11-25T09:30:00Z"},
    ("rotate_secret", 200): {"endpoint_id": ENDPOINT, "secret": SECRET, "public_key": None},
    ("send_test", 202): {"endpoint_id": ENDPOINT, "task_ids": _TASKS[:1]},
    ("replay_missed", 202): {
        **_REPLAY,
        "status": "running",
        "seen": 0,
        "enqueued": 0,
        "total": None,
        "task_ids": _TASKS[:1],
    },
    ("list_replays", 200): {"items": [_REPLAY], "next_cursor": None},
    ("read_replay", 200): _REPLAY,
    ("abort_replay", 200): {
        **_REPLAY,
        "status": "aborted",
        "reason": "aborted by ops",
        "ended_at": "2026-11-25T09:00:04Z",
    },
    ("list_tasks", 200): {"items": [_ITEM], "next_cursor": "AZjEoEQYfpOmyC1Pix56RA"},
    ("read_task", 200): _detail(),
    ("retry_task", 200): _detail(state="pending", due_at="2026-11-25T08:00:07Z"),
    ("cancel_task", 200): _detail(
        state="cancelled", finished_at="2026-11-25T08:00:09Z", reason="wrong recipient", max_attempts=13
    ),
    ("cancel_task", 202): _detail(state="running", started_at="2026-11-25T08:00:31.200Z", cancel_requested=True),
    ("reschedule_task", 200): _detail(due_at="2030-01-31T12:00:00Z"),
    ("list_failures", 200): {"items": [_FAILURE]},
    ("read_failure", 200): {
        **_FAILURE,
        "traceback": 'Traceback (most recent call last):\n  File "/app/actors/mail.py", line 90, in send_mail\n…',
        "logs": _ATTEMPT["logs"],
    },
    ("begin_bulk_action", 202): _BULK,
    ("begin_bulk_action", 200): {
        "query": 'state:dead actor:send_mail error:"timed out" since:2h',
        "states": ["dead"],
        "matched": 731,
        "matched_at_least": False,
        "sample": [{**_ITEM, "state": "dead", "finished_at": "2026-11-25T08:00:01.480Z"}],
    },
    ("list_bulk_actions", 200): {"items": [{**_BULK, "done": 450, "refused": 2}], "next_cursor": None},
    ("read_bulk_action", 200): {**_BULK, "done": 450, "refused": 2},
    ("abort_bulk_action", 200): {
        **_BULK,
        "state": "aborted",
        "done": 450,
        "refused": 2,
        "finished_at": "2026-11-25T08:00:09Z",
    },
    ("edit_task", 201): _detail(
        id=_TASKS[1],
        state="pending",
        failures=0,
        attempts=[],
        why={**_WHY, "cause": "queued", "told": "It is due.", "mend": None},
    ),
    ("list_queues", 200): {"items": [_QUEUE]},
    ("pause_queue", 200): {"queue": "mail", "paused": True, "taken_back": 4},
    ("resume_queue", 200): {"queue": "mail", "paused": False, "taken_back": 0},
    ("list_schedules", 200): {"items": [_SCHEDULE]},
    ("read_schedule", 200): _SCHEDULED,
    ("run_schedule", 202): {"schedule": "nightly_report", "task_id": _TASKS[0]},
    ("pause_schedule", 200): {**_SCHEDULED, **_PAUSED},
    ("resume_schedule", 200): _SCHEDULED,
    ("list_processes", 200): {
        "items": [
            {
                "id": _WORKER,
                "kind": "worker",
                "host": "worker-1",
                "pid": 7,
                "queues": ["mail"],
                "threads": 8,
                "started_at": "2026-11-25T07:00:00Z",
                "beat_at": "2026-11-25T08:00:00Z",
                "silent": 0.8,
                "lease": 10.0,
                "alive": True,
                "held": 1,
                "running": [_MAIL],
            }
        ]
    },
    ("list_audit", 200): {
        "items": [
            {
                "id": 42,
                "at": "2026-11-25T08:00:00Z",
                "who": "ops",
                "action": "cancel",
                "subject": _MAIL,
                "detail": {"outcome": "cancelled", "reason": "wrong recipient"},
            }
        ],
        "next_cursor": None,
    },
    ("read_stats", 200): {
        "since": "2026-11-25T07:00:00Z",
        "until": "2026-11-25T08:00:00Z",
        "per_minute": 7.017,
        "total": {"actor": "", **_STATS},
        "actors": [{"actor": "send_mail", **_STATS}],
    },
    ("read_attention", 200): {
        "items": [
            {
                "cause": "no_worker",
                "told": "The queue mail has 12 tasks and no worker.",
                "severity": "serious",
                "runbook": "OutboxQueueWithoutWorkers",
                "since": "2026-11-25T07:58:00Z",
                "mend": "Start: outbox worker --queues mail",
                "query": "queue:mail",
                "subject": "mail",
            }
        ]
    },
    ("live", 200): {"live": True},
    ("ready", 200): {"ready": True},
    (
        "metrics",
        200,
    ): "# HELP http_requests_total Requests answered, by route and status.\nhttp_requests_total{…} 7.0\n",
}

#: What a stream of a task's progress holds.
FRAMES = """\
event: task
data: {"id":"0198c4a0-4418-7e93-a6c8-2d4f8b1e7a44","state":"running",…,"attempts":0}
id: 5f0c9d1ab37e2468

: nothing new

event: task
data: {"id":"0198c4a0-4418-7e93-a6c8-2d4f8b1e7a44","state":"succeeded",…,"attempts":1}
id: 90ab34cd12ef5678

event: end
data: {"state": "succeeded"}
id: 90ab34cd12ef5678

"""
