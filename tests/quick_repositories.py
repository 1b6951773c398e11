"""Repositories in restic's own format whose key costs no processor time to open.

restic derives the key from the password by scrypt, and chooses its cost so that each command takes up to half a second
of processor time. Against a guessed password that is right; a test's password is thrown away with its bucket. So tests
write the two files of `restic init` themselves, with the least cost that restic accepts. Everything else is restic's.

Format: https://restic.readthedocs.io/en/stable/100_references.html (repository version 2).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from rempart.backup.databases.restic import Repository
from rempart.sites.s3.client import open_client

COST = {"N": 2, "r": 1, "p": 1}
POLYNOMIAL = "25b468838dcb75"
"""An irreducible polynomial by which restic cuts files; that of its documentation."""
by_restic = Repository.init_if_missing
"""Makes a repository as the platform does."""


class _Key:
    """AES-256-CTR with Poly1305-AES: 32 bytes to encrypt, 16 bytes K and 16 bytes R to authenticate."""

    def __init__(self, body: bytes) -> None:
        self.encrypts, self.k, self.r = body[:32], body[32:48], body[48:64]

    def seal(self, plain: bytes) -> bytes:
        """The nonce, the ciphertext and its code."""
        nonce = secrets.token_bytes(16)
        body = Cipher(algorithms.AES(self.encrypts), modes.CTR(nonce)).encryptor().update(plain)
        once = Cipher(algorithms.AES(self.k), modes.ECB()).encryptor().update(nonce)  # noqa: S305 - one block, as specified
        return nonce + body + Poly1305.generate_tag(self.r + once, body)

    def as_json(self) -> bytes:
        mac = {"k": _text(self.k), "r": _text(self.r)}
        return json.dumps({"mac": mac, "encrypt": _text(self.encrypts)}).encode()


def _text(body: bytes) -> str:
    return base64.b64encode(body).decode()


def files(password: str) -> dict[str, bytes]:
    """The files of an empty repository, by their names below its prefix."""
    master, salt = _Key(secrets.token_bytes(64)), secrets.token_bytes(64)
    derived = hashlib.scrypt(password.encode(), salt=salt, n=COST["N"], r=COST["r"], p=COST["p"], dklen=64)
    key = {"created": "2026-01-01T00:00:00Z", "username": "tests", "hostname": "tests", "kdf": "scrypt", **COST}
    body = json.dumps({**key, "salt": _text(salt), "data": _text(_Key(derived).seal(master.as_json()))}).encode()
    config = {"version": 2, "id": secrets.token_hex(32), "chunker_polynomial": POLYNOMIAL}
    return {f"keys/{hashlib.sha256(body).hexdigest()}": body, "config": master.seal(json.dumps(config).encode())}


def _made(client: Any, repository: Repository) -> bool:
    """Write an empty repository; false if there is one, or if the site does not say that there is none."""
    try:
        client.head_object(Bucket=repository.bucket, Key=f"{repository.prefix}/config")
        return False
    except ClientError as absent:
        if absent.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
            return False
    for name, body in files(repository.password).items():
        client.put_object(
            Bucket=repository.bucket,
            Key=f"{repository.prefix}/{name}",
            Body=body,
            ContentMD5=_text(hashlib.md5(body, usedforsecurity=False).digest()),  # for buckets with locks
        )
    return True


def init_if_missing(repository: Repository) -> bool:
    """Make a repository that opens at once, unless there is one. Return whether this call made it."""
    client = open_client(repository.site, repository.connection, repository.region)
    return _made(client, repository) or by_restic(repository)


@contextmanager
def quick_repositories() -> Iterator[None]:
    """Let the platform in this process make such repositories."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repository, "init_if_missing", init_if_missing)
        yield
