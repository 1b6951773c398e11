"""Keys: an id belongs to one key, a seed is never shown, and a public key can be read in each of its forms."""

import base64
import subprocess

import pytest

from rempart.errors import LedgerError
from rempart.ledger import keys
from rempart.settings.config import Connection

SEED = bytes(range(32))


def test_a_connection_gives_its_key_and_shows_no_seed() -> None:
    password = base64.b64encode(SEED).decode()
    made = keys.from_connection(Connection("ledger_key", "ledger", password=password))
    named = keys.from_connection(Connection("ledger_key", "ledger", login=made.id, password=password))
    assert named == made and made.id == keys.key_id(made.public)
    assert password not in repr(made) and SEED.hex() not in repr(made)
    assert keys.is_signed(made.public, made.sign(b"x"), b"x")
    assert not keys.is_signed(made.public, made.sign(b"x"), b"y")


@pytest.mark.parametrize("password", ["not base64!", base64.b64encode(b"short").decode(), ""])
def test_what_is_no_seed_is_refused_without_being_quoted(password: str) -> None:
    with pytest.raises(LedgerError) as refused:
        keys.from_connection(Connection("ledger_key", "ledger", password=password))
    assert not password or password not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_seed_that_is_not_the_named_keys_is_refused() -> None:
    with pytest.raises(LedgerError, match="the login is 0000"):
        keys.from_connection(Connection("ledger_key", "ledger", "", None, "0000", base64.b64encode(SEED).decode()))


def test_a_public_key_is_read_as_pem_and_hex_and_openssl_reads_it_too() -> None:
    public = keys.signer(SEED).public
    pem = keys.to_pem(public)
    for text in (pem, keys.to_base64(public), public.hex() + "\n", public.hex().upper()):
        assert keys.parse_public(text) == public
    shown = subprocess.run(
        ["openssl", "pkey", "-pubin", "-noout", "-text"], input=pem, capture_output=True, text=True, check=True
    )
    assert "ED25519" in shown.stdout


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="not an Ed25519 key"):
        keys.parse_public(text)
