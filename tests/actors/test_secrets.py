"""Secrets at rest."""

import pytest

from actors.secrets import SecretKeyMissing, Unreadable, Vault

KEY = "k" * 32


@pytest.mark.parametrize("key", [None, "", "short", "k" * 31])
def test_without_a_proper_key_nothing_works(key: str | None) -> None:
    with pytest.raises(SecretKeyMissing, match="SECRET_KEY"):
        Vault(key)


def test_a_sealed_secret_opens_for_its_owner_only() -> None:
    sealed = Vault(KEY).seal("whsec_abc", owner="endpoint-1")
    assert Vault(KEY).open(sealed, owner="endpoint-1") == "whsec_abc"
    with pytest.raises(Unreadable):
        Vault(KEY).open(sealed, owner="endpoint-2")


def test_another_key_opens_nothing() -> None:
    with pytest.raises(Unreadable):
        Vault("x" * 32).open(Vault(KEY).seal("whsec_abc", owner="a"), owner="a")


def test_sealing_twice_gives_different_bytes_without_the_secret_in_them() -> None:
    first, second = (Vault(KEY).seal("whsec_abc", owner="a") for _ in range(2))
    assert first != second
    assert b"whsec" not in first


def test_a_single_changed_byte_is_noticed() -> None:
    sealed = Vault(KEY).seal("whsec_abc", owner="a")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(Unreadable):
            Vault(KEY).open(bytes(changed), owner="a")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + bytes(12)])
def test_what_is_too_short_is_unreadable(sealed: bytes) -> None:
    with pytest.raises(Unreadable):
        Vault(KEY).open(sealed, owner="a")
