"""docs/mail.md, held against the code that it describes."""

import re
import shutil
import subprocess
from pathlib import Path

import dkim
import pytest
from pages import code, rows

from actors.mail import replies
from actors.mail.dkim import signer

MAIL = b"From: shop@example.com\r\nTo: ada@example.org\r\nSubject: Hello\r\n\r\nHello.\r\n"


def test_the_table_of_replies_is_that_of_the_code() -> None:
    lines = [line for line in (replies.__doc__ or "").splitlines() if line.startswith("|")]
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:3] for row in rows("mail", "phase")] == told


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
