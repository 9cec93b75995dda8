"""docs/mail.md, held against the code that it describes."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import dkim
import pytest
from pages import code, rows

from actors.mail import replies
from actors.mail.dkim import signer
from actors.mail.suppression import Reason
from service.mails import MailView, NewMail

MAIL = b"From: shop@example.com\r\nTo: ada@example.org\r\nSubject: Hello\r\n\r\nHello.\r\n"


def test_the_table_of_replies_is_that_of_the_code() -> None:
    lines = [line for line in (replies.__doc__ or "").splitlines() if line.startswith("|")]
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:3] for row in rows("mail", "phase")] == told


def test_every_status_of_a_mail_is_explained() -> None:
    known = get_args(MailView.model_fields["status"].annotation)
    assert {row[0].strip("`") for row in rows("mail", "status of a mail")} == set(known)


def test_every_member_of_a_mail_is_told() -> None:
    told = {name.strip("` ") for row in rows("mail", "member") for name in row[0].split(",")}
    assert told == set(NewMail.model_fields)


def test_every_reason_of_a_suppression_is_told() -> None:
    assert [row[0].strip("`") for row in rows("mail", "reason")] == [reason.value for reason in Reason]


@pytest.mark.skipif(not shutil.which("openssl"), reason="wants openssl")
def test_the_key_and_the_record_that_the_page_makes_belong_together(tmp_path: Path) -> None:
    script = ["sh", "-eu", "-c", code("mail", "dkim.sh")]
    told = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True)
    name, _, record = told.stdout.strip().partition(" IN TXT ")
    strings = re.findall(r'"([^"]*)"', record)
    assert name == "mail._domainkey"
    assert max(map(len, strings)) <= 255
    signed = signer(str(tmp_path / "dkim.pem"), selector="mail", domain="example.com").signed(MAIL)
    assert dkim.verify(signed, dnsfunc=lambda _name, timeout=5: "".join(strings).encode())
