"""The far world of the demo writes down exactly what arrives."""

from __future__ import annotations

import json
import os
import smtplib
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest
from awaiting import await_that

from deploy.local.child import Child, Command
from deploy.local.place import ROOT
from deploy.local.ports import free_ports, is_listening


@dataclass(frozen=True)
class Receivers:
    smtp_port: int
    http_port: int
    mail: Path
    webhooks: Path

    def post(self, path: str, body: bytes) -> int:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        request = urllib.request.Request(url, data=body, headers={"Webhook-Id": "msg_1"})
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            return refusal.code


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Receivers]:
    (tmp_path / "webhooks.jsonl").write_text('{"cut": "sho')  # as SIGKILL may leave it
    smtp_port, http_port = free_ports(2)
    environment = {
        **os.environ,
        "RECEIVERS_SMTP_PORT": str(smtp_port),
        "RECEIVERS_HTTP_PORT": str(http_port),
        "RECEIVERS_DIRECTORY": str(tmp_path),
    }
    child = Child("receivers", pids=tmp_path, logs=tmp_path)
    child.spawn(Command([sys.executable, "-m", "deploy.local", "receivers"], environment, directory=ROOT))
    await_that(lambda: not child.running or (is_listening(smtp_port) and is_listening(http_port)))
    assert child.running, child.last_words()
    yield Receivers(smtp_port, http_port, tmp_path / "mail", tmp_path / "webhooks.jsonl")
    child.terminate()
    await_that(lambda: not child.running)
    assert child.exit_code == 0, child.last_words()


def test_a_mail_becomes_one_file_with_its_envelope(receivers: Receivers) -> None:
    with smtplib.SMTP("127.0.0.1", receivers.smtp_port) as smtp:
        text = "To: a@example.com\r\nMessage-ID: <1@example.com>\r\n\r\n.a line that begins with a dot\r\n"
        smtp.sendmail("from@example.com", ["a@example.com", "blind@example.com"], text)
    [file] = receivers.mail.glob("*.eml")
    mail = message_from_bytes(file.read_bytes())
    assert mail.get_all("Delivered-To") == ["a@example.com", "blind@example.com"]
    assert mail["Return-Path"] == "<from@example.com>"
    assert mail["Message-ID"] == "<1@example.com>"
    assert mail.get_payload() == ".a line that begins with a dot\r\n"


def test_a_request_becomes_one_line_with_its_exact_body(receivers: Receivers) -> None:
    assert receivers.post("/hooks/a?b=c", '{"name": "Zoë"}'.encode()) == 204
    line = json.loads(receivers.webhooks.read_text().splitlines()[-1])
    assert line["path"] == "/hooks/a?b=c"
    assert line["headers"]["webhook-id"] == "msg_1"
    assert line["body"] == '{"name": "Zoë"}'
    assert line["received_at"].endswith("+00:00")


def test_a_line_that_was_cut_short_spoils_no_other(receivers: Receivers) -> None:
    receivers.post("/", b"{}")
    cut, whole = receivers.webhooks.read_text().splitlines()
    assert cut == '{"cut": "sho'
    assert json.loads(whole)["body"] == "{}"


def test_the_sender_may_ask_to_be_refused(receivers: Receivers) -> None:
    assert receivers.post("/?status=503", b"{}") == 503
    assert receivers.post("/?status=nonsense", b"{}") == 204
