"""The receivers of docs/webhooks.md, run as they stand there against what we send."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pages import code

from actors.webhooks.address import parse
from actors.webhooks.delivery import Answered, Courier
from actors.webhooks.guard import Policy
from actors.webhooks.signing import AsymmetricKey, generate_key_pair, generate_secret, parse_secret, sign

BODY = '{"type":"order.placed","timestamp":"2026-11-25T12:00:00Z","data":{"name": "Zoë",  "cents":4200.0}}'.encode()
ID = "01a20000-0000-7000-8000-000000000001"
SECRET = generate_secret()

Verify = Callable[[str, dict[str, str], bytes], Any]


def signed(*secrets: str, age: timedelta = timedelta(), body: bytes = BODY, webhook_id: str = ID) -> dict[str, str]:
    keys = [parse_secret(each) for each in secrets]
    return sign(keys, webhook_id=webhook_id, at=datetime.now(UTC) - age, body=body)


@pytest.fixture
def run_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], SimpleNamespace]:
    """Runs a block of the page as a module in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)

    def run(title: str) -> SimpleNamespace:
        path = tmp_path / title
        path.write_text(code("webhooks", title))
        return SimpleNamespace(**runpy.run_path(str(path)))

    return run


@pytest.fixture(params=["receiver.py", "with_library.py"])
def verify(request: pytest.FixtureRequest, run_block: Callable[[str], SimpleNamespace]) -> Verify:
    function: Verify = run_block(request.param).verify
    return function


def test_the_receiver_accepts_what_we_sign(verify: Verify) -> None:
    assert verify(SECRET, signed(SECRET), BODY)


@pytest.mark.parametrize("age", [timedelta(minutes=-4), timedelta(minutes=4)])
def test_the_receiver_bears_clocks_that_differ_by_less_than_five_minutes(verify: Verify, age: timedelta) -> None:
    assert verify(SECRET, signed(SECRET, age=age), BODY)


@pytest.mark.parametrize("age", [timedelta(minutes=-6), timedelta(minutes=6)])
def test_the_receiver_refuses_what_is_old_or_from_the_future(verify: Verify, age: timedelta) -> None:
    with pytest.raises(Exception, match=r"too old|too new"):
        verify(SECRET, signed(SECRET, age=age), BODY)


@pytest.mark.parametrize(
    "body", [BODY + b"\n", BODY.replace(b"4200.0", b"4200"), json.dumps(json.loads(BODY)).encode()]
)
def test_the_receiver_refuses_a_body_that_was_changed(verify: Verify, body: bytes) -> None:
    with pytest.raises(Exception, match=r"(?i)no .*signature"):
        verify(SECRET, signed(SECRET), body)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_the_receiver_refuses_a_signed_header_that_was_changed(verify: Verify, name: str) -> None:
    headers = signed(SECRET)
    headers[name] = headers[name][:-1] + ("1" if headers[name][-1] != "1" else "2")
    with pytest.raises(Exception, match=r"(?i)no .*signature"):
        verify(SECRET, headers, BODY)


@pytest.mark.parametrize("known", [0, 1])
def test_the_receiver_accepts_either_secret_while_they_are_rotated(verify: Verify, known: int) -> None:
    secrets = [SECRET, generate_secret()]
    assert verify(secrets[known], signed(*secrets), BODY)


def test_the_receiver_passes_over_signatures_of_a_version_that_it_does_not_know(verify: Verify) -> None:
    assert verify(SECRET, signed(generate_key_pair(), SECRET), BODY)


def test_the_receiver_refuses_what_another_secret_signed(verify: Verify) -> None:
    with pytest.raises(Exception, match=r"(?i)no .*signature"):
        verify(SECRET, signed(generate_secret()), BODY)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, "", "v1", "v1,%%%", "ä", "1e9"])
def test_the_receiver_refuses_headers_that_are_missing_or_malformed(
    verify: Verify, name: str, value: str | None
) -> None:
    headers = signed(SECRET)
    headers.pop(name)
    with pytest.raises(Exception):  # noqa: B017  the library raises what it likes
        verify(SECRET, headers | ({name: value} if value is not None else {}), BODY)


@contextmanager
def serving(receiver: SimpleNamespace) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), receiver.Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_the_receiver_acts_once_on_what_comes_twice_and_never_on_what_is_not_ours(
    run_block: Callable[[str], SimpleNamespace], capfd: pytest.CaptureFixture[str]
) -> None:
    policy = Policy(allowed_networks=(ip_network("127.0.0.0/8"),))
    courier = Courier(policy=policy, deadline=timedelta(seconds=15))
    other = ID[:-1] + "2"
    with serving(run_block("receiver.py")) as port:
        url = parse(f"http://127.0.0.1:{port}/in", policy=policy)
        posts = [signed(SECRET), signed(SECRET), signed(SECRET, webhook_id=other), signed(generate_secret())]
        answers = [courier.post(url, headers=headers, body=BODY) for headers in posts]
    assert [each.status for each in answers if isinstance(each, Answered)] == [204, 204, 204, 400]
    assert capfd.readouterr().out.count("order.placed") == 2


def test_the_public_key_is_enough_to_verify(run_block: Callable[[str], SimpleNamespace]) -> None:
    fits, pair = run_block("with_public_key.py").fits, generate_key_pair()
    key = parse_secret(pair)
    assert isinstance(key, AsymmetricKey)
    assert fits(key.public, signed(SECRET, pair), BODY)
    assert not fits(key.public, signed(SECRET, pair), BODY + b" ")
    assert not fits(key.public, signed(SECRET, generate_key_pair()), BODY)
    assert not fits(key.public, signed(SECRET) | {"webhook-signature": "v1a v1a,%%% v1a,"}, BODY)


@pytest.mark.skipif(not shutil.which("openssl"), reason="wants openssl")
def test_the_signature_comes_out_by_hand_as_the_page_says(tmp_path: Path) -> None:
    script = code("webhooks", "by-hand.sh")
    told = subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout == script.splitlines()[-1].removeprefix("# ")
