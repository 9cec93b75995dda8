"""What is told of mails after they were sent, over HTTP: a provider's words, and reports as they came."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from service_eyes import MARK, Database, problem_of

from actors import outside
from actors.mail.address import parse
from actors.mail.return_path import return_path_for

PATH = "/v1/mail-events"
SAMPLES = Path(__file__).parents[1] / "actors" / "samples" / "bounces"


@pytest.fixture
def mail_id(api: TestClient) -> str:
    mail = {"to": "ada@example.org", "subject": "s", "text": "t"}
    return str(api.post("/v1/mails", json=mail).json()["mail_id"])


def report(name: str, mail_id: str) -> bytes:
    path = return_path_for(UUID(mail_id), parse("bounces@example.org"), outside.vault())
    text = (SAMPLES / f"{name}.eml").read_text("utf-8")
    return text.replace("{return_path}", str(path)).replace("{message_id}", f"<{mail_id}@example.org>").encode()


def post_report(api: TestClient, raw: bytes) -> Any:
    return api.post(PATH, content=raw, headers={"Content-Type": "message/rfc822"})


def suppressions(database: Database) -> list[tuple[str, str, str]]:
    found = database.query("select recipient, stream, reason from app.suppression")
    return [(row["recipient"], row["stream"], row["reason"]) for row in found]


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        ({"event_type": "bounced", "status": "5.1.1"}, "bounced", "hard_bounce"),
        ({"event_type": "bounced", "reject_reason": "invalid"}, "bounced", "hard_bounce"),
        ({"event_type": "bounced", "status": "5.0.0", "reject_reason": "bounced"}, "bounced", "hard_bounce"),
        ({"event_type": "bounced", "status": "5.7.1", "reject_reason": "blocked"}, "bounced", None),
        ({"event_type": "bounced", "reject_reason": "timed_out"}, "bounced", None),
        ({"event_type": "complained"}, "queued", "complaint"),
        ({"event_type": "delivered"}, "queued", None),
        ({"event_type": "deferred", "status": "5.1.1"}, "queued", None),
    ],
)
def test_what_follows_from_a_providers_event(
    api: TestClient, database: Database, mail_id: str, told: dict[str, Any], status: str, reason: str | None
) -> None:
    answer = api.post(PATH, json={"event_id": "ev-1", "mail_id": mail_id, "description": "said so", **told})
    assert answer.status_code == 200
    assert answer.json() == {"event_id": "ev-1", "mail_id": mail_id, "acted_upon": True}
    assert api.get(f"/v1/mails/{mail_id}").json()["status"] == status
    assert suppressions(database) == ([("ada@example.org", "*", reason)] if reason else [])


def test_who_unsubscribed_at_the_provider_gets_no_more_of_the_stream(
    api: TestClient, database: Database, mail_id: str
) -> None:
    database.execute("update app.mail set stream = 'news'")
    named = {"event_id": "1", "event_type": "unsubscribed", "message_id": f"<{mail_id}@example.org>"}
    assert api.post(PATH, json=named).json()["acted_upon"]
    assert suppressions(database) == [("ada@example.org", "news", "unsubscribe")]


def test_an_event_counts_once(api: TestClient, database: Database, mail_id: str) -> None:
    event = {"event_id": "ev-1", "event_type": "complained", "mail_id": mail_id}
    assert api.post(PATH, json=event).json()["acted_upon"]
    database.execute("delete from app.suppression")
    assert not api.post(PATH, json=event).json()["acted_upon"]
    assert suppressions(database) == []
    assert len(database.query("select * from app.mail_event")) == 1


def test_an_event_of_no_mail_of_ours_is_kept(api: TestClient, database: Database) -> None:
    for id, of in (("1", {"mail_id": str(uuid4())}), ("2", {"message_id": "<x@example.net>"}), ("3", {})):
        answer = api.post(PATH, json={"event_id": id, "event_type": "complained", **of})
        assert answer.json() == {"event_id": id, "mail_id": None, "acted_upon": False}
    assert len(database.query("select * from app.mail_event")) == 3
    assert suppressions(database) == []


def test_a_bounce_marks_its_mail_and_spares_the_address(api: TestClient, database: Database, mail_id: str) -> None:
    answer = post_report(api, report("postfix_no_such_user", mail_id))
    assert answer.status_code == 200
    assert (answer.json()["mail_id"], answer.json()["acted_upon"]) == (mail_id, True)
    told = api.get(f"/v1/mails/{mail_id}").json()
    assert told["status"] == "bounced"
    assert [(each["kind"], each["status"]) for each in told["events"]] == [("bounced", "5.1.1")]
    assert suppressions(database) == [("ada@example.org", "*", "hard_bounce")]
    assert not post_report(api, report("postfix_no_such_user", mail_id)).json()["acted_upon"]


def test_a_complaint_ends_all_mail_to_its_recipient(api: TestClient, database: Database, mail_id: str) -> None:
    assert post_report(api, report("complaint", mail_id)).json()["acted_upon"]
    assert suppressions(database) == [("ada@example.org", "*", "complaint")]


def test_a_forged_bounce_is_kept_and_nothing_follows(api: TestClient, database: Database, mail_id: str) -> None:
    of_no_mail = report("postfix_no_such_user", str(uuid4()))
    forged = report("postfix_no_such_user", mail_id).replace(
        UUID(mail_id).hex.encode() + b".", uuid4().hex.encode() + b"."
    )
    for raw in (of_no_mail, forged):
        assert not post_report(api, raw).json()["acted_upon"]
    assert api.get(f"/v1/mails/{mail_id}").json()["status"] == "queued"
    assert suppressions(database) == []
    assert len(database.query("select * from app.mail_event")) == 2


@pytest.mark.parametrize(
    ("declared", "body", "status"),
    [
        ("application/json", b"", 400),
        ("application/json", b"[]", 422),
        ("application/json", b'{"event_id": "1"}', 422),
        ("application/json", b'{"event_id": "zq7marker 1", "event_type": "bounced"}', 422),
        ("application/json", b'{"event_id": "1", "event_type": "zq7marker"}', 422),
        ("application/json", b'{"event_id": "1", "event_type": "bounced", "status": "5.1"}', 422),
        ("application/json", b'{"event_id": "1", "event_type": "bounced", "mail_id": "zq7marker"}', 422),
        ("application/json", b'{"event_id": "1", "event_type": "bounced", "zq7marker": 1}', 422),
        ("application/json", b'{"event_id": "1", "event_type": "bounced", "description": "a\\u0000"}', 422),
        ("text/plain", b"zq7marker", 415),
        ("message/rfc822", b'Content-Type: multipart/report; a="' + b';"' * 5000, 422),
    ],
)
def test_what_is_no_event_is_refused(
    api: TestClient, database: Database, declared: str, body: bytes, status: int
) -> None:
    answer = api.post(PATH, content=body, headers={"Content-Type": declared})
    assert problem_of(answer)["status"] == status
    assert MARK not in answer.text
    assert database.query("select * from app.mail_event") == []


def test_nothing_of_a_body_is_read_before_its_sender_is_known(running: TestClient) -> None:
    stranger = TestClient(running.app)
    answer = stranger.post(PATH, content=b"x" * 100_000, headers={"Content-Type": "message/rfc822"})
    assert answer.status_code in (401, 413)
