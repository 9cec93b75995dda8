"""Mails over HTTP: what they may carry, templates, and what is told of them afterwards."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_eyes import MARK, Database, problem_of

from actors import outside
from service.app import check_surroundings

MAIL = {"to": "ada@example.org", "subject": "Hello", "text": "Hi"}
PDF = base64.b64encode(b"%PDF-1.7").decode()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch, surroundings: None) -> Iterator[None]:
    """The world reaches the API."""
    monkeypatch.setenv("PUBLIC_URL", "https://api.example.com")
    outside.forget()
    yield
    monkeypatch.undo()
    outside.forget()


def sent(api: TestClient, database: Database, **changes: Any) -> EmailMessage:
    answer = api.post("/v1/mails", json={**MAIL, **changes})
    assert answer.status_code == 202, answer.text
    body = database.one("select body from app.mail where id = %s", answer.json()["mail_id"])["body"]
    message = message_from_bytes(body, policy=policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    return message


def refusals_of(api: TestClient, database: Database, **changes: Any) -> dict[str, str]:
    """What the 422 says, by pointer. It repeats nothing, and nothing was written."""
    before = database.rows()
    answer = api.post("/v1/mails", json={**MAIL, **changes})
    assert problem_of(answer)["status"] == 422, answer.text
    assert MARK not in answer.text
    assert database.rows() == before
    return {each["pointer"]: each["detail"] for each in answer.json().get("errors", ())} or {
        "": answer.json()["detail"]
    }


def text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).rstrip("\r\n")


class TestWhatAMailMayCarry:
    def test_all_of_it_is_in_the_stored_bytes(self, api: TestClient, database: Database, public: None) -> None:
        message = sent(
            api, database, html="<p>Hi</p>", reply_to="desk@example.org", headers={"X-Campaign": "spring"},
            stream="news", attachments=[
                {"filename": "Rechnung Жук.pdf", "content_type": "Application/PDF", "content": PDF},
                {"filename": "a.txt", "content_type": "text/plain", "content": ""},
            ],
        )  # fmt: skip
        assert (message["Reply-To"], message["X-Campaign"]) == ("desk@example.org", "spring")
        assert message["List-Unsubscribe"].startswith("<https://api.example.com/v1/unsubscribe/")
        first, second = message.iter_attachments()
        assert (first.get_filename(), first.get_content_type()) == ("Rechnung Жук.pdf", "application/pdf")
        assert (first.get_payload(decode=True), second.get_payload(decode=True)) == (b"%PDF-1.7", b"")

    def test_options_go_to_the_row_and_to_the_task(self, api: TestClient, database: Database) -> None:
        times = {"send_at": "2027-01-01T00:00:00Z", "expires_at": "2027-01-01T00:05:00Z"}
        mail_id = api.post("/v1/mails", json={**MAIL, **times, "on_uncertain": "hold"}).json()["mail_id"]
        row = database.one("select * from app.mail where id = %s", mail_id)
        task = database.one("select * from outbox.task where id = %s", mail_id)
        assert (row["on_uncertain"], row["stream"]) == ("hold", "transactional")
        assert row["expires_at"] == task["expires_at"]
        assert row["send_at"] == task["due_at"]
        assert (row["expires_at"] - row["send_at"]).total_seconds() == 300

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"attachments": [{"filename": "../a", "content_type": "a/b", "content": ""}]}, "/attachments/0/filename"),
            ({"attachments": [{"filename": "a\r\nB: c", "content_type": "a/b", "content": ""}]}, "/attachments/0/filename"),
            ({"attachments": [{"filename": "a\u202efdp.exe", "content_type": "a/b", "content": ""}]}, "/attachments/0/filename"),
            ({"attachments": [{"filename": "é" * 101, "content_type": "a/b", "content": ""}]}, "/attachments/0/filename"),
            ({"attachments": [{"filename": "a", "content_type": "multipart/mixed", "content": ""}]}, "/attachments/0/content_type"),
            ({"attachments": [{"filename": "a", "content_type": "message/rfc822", "content": ""}]}, "/attachments/0/content_type"),
            ({"attachments": [{"filename": "a", "content_type": "a/b; c=d", "content": ""}]}, "/attachments/0/content_type"),
            ({"attachments": [{"filename": "a", "content_type": "a/b\r\nX: y", "content": ""}]}, "/attachments/0/content_type"),
            ({"attachments": [{"filename": "a", "content_type": "a/b", "content": MARK + "!"}]}, "/attachments/0/content"),
            ({"attachments": [{"filename": "a", "content_type": "a/b", "content": 5}]}, "/attachments/0/content"),
            ({"attachments": [{"filename": "a", "content_type": "a/b", "content": ""}] * 21}, "/attachments"),
            ({"reply_to": "a@example.org, b@example.org"}, "/reply_to"),
            ({"reply_to": "a@example.org\r\nBcc: b@example.org"}, "/reply_to"),
            ({"headers": {"Bcc": "b@example.org"}}, "/headers"),
            ({"headers": {"X-A: b\r\nBcc": "b@example.org"}}, "/headers"),
            ({"headers": {"X-A": "b\r\nBcc: b@example.org"}}, "/headers"),
            ({"headers": {"X-A": "b", "x-a": "c"}}, "/headers"),
            ({"headers": {f"X-{n}": "b" for n in range(21)}}, "/headers"),
            ({"stream": "*"}, "/stream"),
            ({"stream": "News"}, "/stream"),
            ({"stream": "x" * 33}, "/stream"),
            ({"on_uncertain": "guess"}, "/on_uncertain"),
            ({"send_at": "2027-01-01T00:00:00Z", "expires_at": "2027-01-01T00:00:00Z"}, ""),
            ({"expires_at": "2999-01-01T00:00:00Z"}, "/expires_at"),
            ({"variables": []}, "/variables"),
            ({"variables": {"a": "\x00"}}, "/variables"),
            ({"variables": {"a": ["\x08" + MARK]}}, "/variables"),
            ({"variables": {"\x07": 1}}, "/variables"),
        ],
    )  # fmt: skip
    def test_what_no_mail_may_carry_is_refused_and_pointed_to(
        self, api: TestClient, database: Database, changes: dict[str, Any], pointer: str
    ) -> None:
        assert pointer in refusals_of(api, database, **changes)

    def test_a_stream_that_nobody_could_leave_is_refused(self, api: TestClient, database: Database) -> None:
        assert "PUBLIC_URL" in refusals_of(api, database, stream="news")[""]

    @given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_no_text_adds_a_header_or_a_recipient(
        self, api: TestClient, database: Database, subject: str, filename: str, name: str, value: str
    ) -> None:
        file = {"filename": filename, "content_type": "text/plain", "content": ""}
        changes = {"subject": "{{ s }}", "variables": {"s": subject}, "attachments": [file], "headers": {name: value}}
        try:
            answer = api.post("/v1/mails", json={**MAIL, **changes})
        except UnicodeEncodeError:  # no client can send half a character in UTF-8
            return
        if answer.status_code == 422:
            return
        assert answer.status_code == 202
        body = database.one("select body from app.mail where id = %s", answer.json()["mail_id"])["body"]
        message = message_from_bytes(body, policy=policy.SMTPUTF8)
        ours = {"From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"}
        assert set(message.keys()) == ours | {name}
        assert message["To"] == MAIL["to"]


class TestTemplates:
    def test_subject_text_and_html_are_filled_in(self, api: TestClient, database: Database) -> None:
        message = sent(
            api, database, subject="Order {{ order.id }}", text="{% for x in order.lines %}{{ x }}.{% endfor %}",
            html="<p>{{ name }}</p>", variables={"order": {"id": 7, "lines": ["a", "b"]}, "name": "<Ada>"},
        )  # fmt: skip
        assert message["Subject"] == "Order 7"
        assert text_of(message, "plain") == "a.b."
        assert text_of(message, "html") == "<p>&lt;Ada&gt;</p>"

    def test_without_variables_nothing_is_a_template(self, api: TestClient, database: Database) -> None:
        message = sent(api, database, subject="{{ a }}", text="{% b %}")
        assert (message["Subject"], text_of(message, "plain")) == ("{{ a }}", "{% b %}")

    def test_the_way_out_is_among_the_variables(self, api: TestClient, database: Database, public: None) -> None:
        message = sent(api, database, text="{{ unsubscribe_url }}", stream="news", variables={})
        assert text_of(message, "plain").startswith("https://api.example.com/v1/unsubscribe/")

    @pytest.mark.parametrize(
        ("member", "template"),
        [
            ("subject", "{{ zq7marker }}"), ("subject", "{{ empty }}"), ("subject", "{{ lines }}"),
            ("text", "a\n{{ zq7marker }}"), ("html", "{% zq7marker %}"), ("html", "{{ a.__class__ }}"),
            ("text", "{{ 'zq7marker' * 9 }}"), ("subject", "{{ long }}"), ("html", "{{ zq7marker"),
            ("text", '{{ "\\x1b[2J" }}'), ("text", '{{ "\\x00" }}'), ("html", '{{ "\\ud800" }}'), ("subject", '{{ "a\\nBcc: b" }}'),
        ],
    )  # fmt: skip
    def test_a_template_that_cannot_be_filled_in_is_pointed_to(
        self, api: TestClient, database: Database, member: str, template: str
    ) -> None:
        variables = {"empty": " ", "lines": "a\nb", "a": MARK, "long": "x" * 5000}
        assert list(refusals_of(api, database, variables=variables, **{member: template})) == [f"/{member}"]

    def test_every_template_that_is_wrong_is_told(self, api: TestClient, database: Database) -> None:
        wrong = {"subject": "{{ a }}", "text": "{{ b }}", "html": "x", "variables": {}}
        assert list(refusals_of(api, database, **wrong)) == ["/subject", "/text"]

    def test_the_variables_have_a_bound(self, api: TestClient, database: Database) -> None:
        assert list(refusals_of(api, database, variables={"a": [0] * 30_000})) == ["/variables"]


class TestReading:
    def test_a_mail_tells_what_became_of_it_and_not_what_it_says(self, api: TestClient, database: Database) -> None:
        mail_id = api.post("/v1/mails", json={**MAIL, "subject": MARK, "text": MARK}).json()["mail_id"]
        fresh = api.get(f"/v1/mails/{mail_id}")
        assert fresh.status_code == 200
        assert fresh.json()["status"] == "queued"
        database.execute(
            """update app.mail set status = 'bounced', sent_at = now(), reply = 'dot: 250 ok', reply_at = now(),
            attempts = 2 where id = %s""",
            mail_id,
        )
        database.execute(
            "insert into app.mail_event (id, mail_id, kind, status) values ('e1', %s, 'bounced', '5.1.1')", mail_id
        )
        told = api.get(f"/v1/mails/{mail_id}")
        assert MARK not in told.text
        view = told.json()
        assert (view["mail_id"], view["to"], view["attempts"]) == (mail_id, "ada@example.org", 2)
        assert view["message_id"] == f"<{mail_id}@example.org>"
        assert (view["status"], view["reply"]) == ("bounced", "dot: 250 ok")
        assert view["sent_at"] is not None
        assert [(each["kind"], each["status"]) for each in view["events"]] == [("bounced", "5.1.1")]

    def test_a_mail_that_never_was_is_not_found(self, api: TestClient) -> None:
        assert problem_of(api.get(f"/v1/mails/{uuid4()}"))["status"] == 404
        assert problem_of(api.get("/v1/mails/x"))["status"] == 422


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DKIM_KEY_FILE", "/nowhere/key.pem"), ("MAIL_RETURN_PATH", "no address"), ("PUBLIC_URL", "api.example.com")],
)
def test_a_setting_that_makes_no_sense_is_told_at_start_up(
    monkeypatch: pytest.MonkeyPatch, surroundings: None, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    outside.forget()
    with pytest.raises(ValueError, match=variable):
        check_surroundings()
    monkeypatch.undo()
    outside.forget()
