"""Standard Webhooks signatures: published vectors, foreign receivers, strict secrets."""

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import standardwebhooks
import svix.webhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from actors.webhooks.signing import (
    AsymmetricKey,
    SecretRefused,
    generate_key_pair,
    generate_secret,
    parse_secret,
    sign,
)

VECTORS = json.loads((Path(__file__).parent / "samples" / "signature_vectors.json").read_text())
EACH_VECTOR = VECTORS["published"] + VECTORS["computed"]
VALID = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAIR = VECTORS["published"][1]["secret"]


def body_of(vector: dict[str, str]) -> bytes:
    return vector["body"].encode() if "body" in vector else base64.b64decode(vector["body_b64"])


@pytest.mark.parametrize("vector", EACH_VECTOR, ids=lambda vector: vector["source"][:40])
def test_every_vector_is_reproduced(vector: dict[str, str]) -> None:
    at = datetime.fromtimestamp(int(vector["timestamp"]), tz=UTC)
    headers = sign([parse_secret(vector["secret"])], webhook_id=vector["id"], at=at, body=body_of(vector))
    assert headers == {
        "webhook-id": vector["id"],
        "webhook-timestamp": str(vector["timestamp"]),
        "webhook-signature": vector["expected"],
    }


def test_the_public_key_of_a_pair_is_the_published_one() -> None:
    key = parse_secret(PAIR)
    assert isinstance(key, AsymmetricKey)
    assert key.public == VECTORS["published"][1]["public"]


def test_the_zone_of_the_clock_does_not_change_the_signature() -> None:
    key = parse_secret(generate_secret())
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    elsewhere = at.astimezone(timezone(timedelta(hours=9)))
    assert sign([key], webhook_id="a", at=at, body=b"{}") == sign([key], webhook_id="a", at=elsewhere, body=b"{}")


@pytest.mark.parametrize("receiver", [standardwebhooks.Webhook, svix.webhooks.Webhook])
def test_official_receivers_accept_old_and_new_secret_during_a_rotation(receiver: type) -> None:
    old, new = generate_secret(), generate_secret()
    body = '{"type":"order.placed","data":{"name":"Жук"}}'.encode()
    keys = [parse_secret(new), parse_secret(old), parse_secret(generate_key_pair())]
    headers = sign(keys, webhook_id="0199-a_b", at=datetime.now(UTC), body=body)
    for secret in (old, new):
        receiver(secret).verify(body, headers)
    with pytest.raises(Exception, match="No matching signature"):
        receiver(generate_secret()).verify(body, headers)
    with pytest.raises(Exception, match="No matching signature"):
        receiver(new).verify(body + b" ", headers)


def test_an_ed25519_signature_verifies_with_the_public_key() -> None:
    key = parse_secret(generate_key_pair())
    assert isinstance(key, AsymmetricKey)
    headers = sign([key], webhook_id="a", at=datetime.now(UTC), body=b"\x00\xff")
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public.removeprefix("whpk_")))
    signature = base64.b64decode(headers["webhook-signature"].removeprefix("v1a,"))
    public.verify(signature, f"a.{headers['webhook-timestamp']}.".encode() + b"\x00\xff")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        VALID,
        "whsec_",
        "whsec_ab c",
        "whsec_%%%",
        f"whsec_{VALID} ",
        f"whsec_{VALID}\n",
        f" whsec_{VALID}",
        f"whsec_{VALID[:-1]}",
        f"WHSEC_{VALID}",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_" + base64.b64encode(b"x" * 25).decode().rstrip("="),
        "whsec_" + base64.urlsafe_b64encode(b"\xfb" * 24).decode(),
        "whsec_ж" + VALID,
        VECTORS["published"][1]["public"],
        "whsk_AAAA",
        "whsk_" + base64.b64encode(base64.b64decode(PAIR[5:])[:32] + b"x" * 32).decode(),
    ],
)
def test_a_bad_secret_is_refused_and_never_repeated(secret: str) -> None:
    with pytest.raises(SecretRefused) as refusal:
        parse_secret(secret)
    assert not secret or secret not in str(refusal.value)


@pytest.mark.parametrize("octets", [24, 32, 64])
def test_secrets_of_24_to_64_octets_are_accepted(octets: int) -> None:
    parse_secret("whsec_" + base64.b64encode(b"k" * octets).decode())


@pytest.mark.parametrize("webhook_id", ["", "a.b", "a b", "a\n", "ä", "a" * 257])
def test_an_id_that_would_break_the_signed_content_is_refused(webhook_id: str) -> None:
    with pytest.raises(ValueError, match="webhook id"):
        sign([parse_secret(f"whsec_{VALID}")], webhook_id=webhook_id, at=datetime.now(UTC), body=b"")


def test_a_naive_time_or_no_key_is_refused() -> None:
    key = parse_secret(f"whsec_{VALID}")
    with pytest.raises(ValueError, match="aware"):
        sign([key], webhook_id="a", at=datetime(2026, 1, 1), body=b"")
    with pytest.raises(ValueError, match="key"):
        sign([], webhook_id="a", at=datetime.now(UTC), body=b"")


def test_a_key_does_not_show_in_its_repr() -> None:
    assert "key" not in repr(parse_secret(f"whsec_{VALID}")).replace("SymmetricKey", "")


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200))
def test_any_key_and_body_agree_with_the_reference_implementation(key: bytes, body: bytes) -> None:
    text = body.decode("latin-1")
    at = datetime(2026, 5, 5, tzinfo=UTC)
    ours = sign([parse_secret("whsec_" + base64.b64encode(key).decode())], webhook_id="m", at=at, body=text.encode())
    assert ours["webhook-signature"] == standardwebhooks.Webhook(key).sign("m", at, text)
