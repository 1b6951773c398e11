"""Encrypt and decrypt in the age format (age-encryption.org/v1) with pyrage: identities, recipients, bodies, streams.

The command `age -d -i FILE` reads what is written here, and vice versa.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from rempart.errors import ConfigError, IntegrityError, KeyWrong

_SECRET = re.compile(r"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}")


class Reader(Protocol):
    """Reads up to a number of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; empty at the end."""


@dataclass(frozen=True)
class Identity:
    """A private key. Only its public half, the recipient (`age1...`), ever appears in a repr or an error."""

    recipient: str
    secret: str = field(repr=False)


def new_identity() -> Identity:
    """Return a new X25519 identity from the operating system's randomness."""
    from pyrage import x25519

    made = x25519.Identity.generate()
    return Identity(str(made.to_public()), str(made))


def read_identity(text: str, where: str) -> Identity:
    """Return the identity in a text of `age-keygen`; `where` names it in errors.

    Raises ConfigError, without the key.
    """
    from pyrage import IdentityError, x25519

    found = _SECRET.findall(text)
    if len(found) == 1:
        try:
            return Identity(str(x25519.Identity.from_str(found[0]).to_public()), found[0])
        except IdentityError:  # the text must not show
            pass
    raise ConfigError(
        f"read the identity in {where}: the file contains "
        f"{'no' if not found else 'more than one' if len(found) > 1 else 'a mistyped'} age identity",
        "Make an identity with `rempart keys new-recipient FILE`: one line that begins with AGE-SECRET-KEY-1.",
    )


def read_identity_file(file: Path) -> Identity:
    """Return the identity in a file. Raises ConfigError."""
    try:
        return read_identity(file.read_text(encoding="ascii"), str(file))
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"read {file}: {type(cause).__name__}", "Pass the file of an identity.") from cause


def write_identity_file(file: Path, identity: Identity, now: datetime) -> None:
    """Write an identity as `age-keygen` does, into a new file that only its owner can read. Raises ConfigError."""
    text = f"# created: {now.isoformat(timespec='seconds')}\n# public key: {identity.recipient}\n{identity.secret}\n"
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(
            f"write {file}: it exists, and its identity would be lost", "Pass the name of a new file."
        ) from None
    except OSError as cause:
        raise ConfigError(
            f"write {file}: {cause.strerror}", "Pass a file in a folder that you may write to."
        ) from cause


def check_recipient(text: str, where: str) -> str:
    """Return the recipient if valid. Raises ConfigError; a private key passed by mistake is not shown."""
    from pyrage import RecipientError, x25519

    try:
        return str(x25519.Recipient.from_str(text))
    except RecipientError:
        shown = text if text.startswith("age1") else "what stands there"
        raise ConfigError(
            f"read {where}: {shown} is not an X25519 recipient of age",
            "Pass the line age1... that `rempart keys new-recipient` or `age-keygen -y` prints.",
        ) from None


def encrypt(body: bytes, recipients: Iterable[str]) -> bytes:
    """Encrypt a body for recipients, each of whom can open it alone. Raises ConfigError without recipients."""
    import pyrage

    return bytes(pyrage.encrypt(body, _recipients(recipients)))


def encrypt_stream(reader: Reader, writer: BinaryIO, recipients: Iterable[str]) -> None:
    """Encrypt a stream in constant memory. Raises ConfigError, and the errors of reader and writer."""
    import pyrage

    wanted, watched, out = _recipients(recipients), _Watched(reader), _Watched(writer)
    try:
        pyrage.encrypt_io(watched, out, wanted)
    except pyrage.EncryptError:
        if not (watched.error or out.error):
            raise
    if error := watched.error or out.error:
        raise error from None


class _Watched:
    """A reader or a writer that keeps its first error.

    pyrage 1.4 hands on some of them as text alone, and none of the last write: a full disk would look like success.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def read(self, size: int = -1, /) -> bytes:
        return bytes(self._kept(lambda: self._stream.read(size)))

    def write(self, body: bytes, /) -> int:
        self._kept(lambda: self._stream.write(body))
        return len(body)

    def flush(self) -> None:
        self._kept(self._stream.flush)

    def _kept(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self.error = self.error or error
            raise


def _recipients(recipients: Iterable[str]) -> list[Any]:
    from pyrage import x25519

    made = [x25519.Recipient.from_str(check_recipient(recipient, "recipient")) for recipient in recipients]
    if not made:
        raise ConfigError("encrypt without recipients: no person could read the result", "Pass a recipient.")
    return made


def decrypt(body: bytes, identity: Identity, where: str) -> bytes:
    """Decrypt a body. Raises KeyWrong, IntegrityError; both name `where`."""
    opened = io.BytesIO()
    decrypt_stream(io.BytesIO(body), opened, identity, where)
    return opened.getvalue()


def decrypt_stream(reader: Reader, writer: Any, identity: Identity, where: str) -> None:
    """Decrypt a stream in constant memory. Output written before an error must not be used.

    Raises the errors of `decrypt`, reader and writer.
    """
    import pyrage

    watched, out = _Watched(reader), _Watched(writer)
    failure: Exception | None = None
    try:
        pyrage.decrypt_io(watched, out, [pyrage.x25519.Identity.from_str(identity.secret)])
    except (pyrage.DecryptError, OSError) as cause:  # OSError: of a chunk that was altered or is missing
        failure = cause
    if error := watched.error or out.error:
        raise error from None
    if failure and "No matching keys" in str(failure):
        raise KeyWrong(
            f"open {where}: it was not encrypted for {identity.recipient}",
            "Pass the identity of one of its recipients (`rempart keys list`).",
        )
    if failure:
        raise IntegrityError(
            f"open {where}: it is damaged and cannot be decrypted completely",
            "Use another copy, or an earlier restore point.",
        ) from failure
