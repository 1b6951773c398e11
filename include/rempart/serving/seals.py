"""Seal the records of a segment, and open them again: only as they were written, where they were written. Pure.

The head, frame 0, names the segment and the key, and holds the segment's data key, wrapped for that key. The data key
is otherwise in the memory of the process that writes, alone. A record's private part is encrypted with AES-256-GCM. Its
nonce is the record's position. The associated data are the head's SHA-256, the position and the public part: a record
that was altered, moved, or taken from another segment does not open.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from rempart.serving import frames, records
from rempart.serving.entries import PredictionEntry
from rempart.serving.frames import Frame
from rempart.serving.records import EncodedGroup

FORMAT = "rempart prediction journal 2"
_KEY_BYTES = 32
_LENGTH, _POSITION = struct.Struct("<I"), struct.Struct(">I")
Unwrap = Callable[[str, bytes], bytes | None]
"""Returns the data key in a wrapped one, by the name of the key that opens it; None if that key was destroyed.

It raises ValueError if the wrapped key is not for the named one, or is damaged."""


@dataclass(frozen=True)
class Sealing:
    """How segments are sealed: `key` names the key that opens them. `wrap` encrypts a data key; it needs no secret."""

    key: str
    wrap: Callable[[bytes], bytes]


class _Head(msgspec.Struct, frozen=True):
    format: str
    segment: str
    key: str
    wrapped: bytes


_HEAD = msgspec.json.Decoder(_Head)


class SegmentSeal:
    """Turns records of one segment into frames. `key`: name of the key that opens them, empty if they are not sealed.

    Each position is used once. So after a failed write, the segment must not be continued.
    """

    def __init__(self, segment: str, sealing: Sealing | None) -> None:
        data_key = secrets.token_bytes(_KEY_BYTES) if sealing else None
        self.key = sealing.key if sealing else ""
        self._head = _head(segment, self.key, sealing.wrap(data_key) if sealing and data_key else b"")
        self._cipher = _Cipher(data_key, self._head) if data_key else None
        self._next = 0

    def framed(self, written: Sequence[EncodedGroup]) -> bytes:
        """Return records as the next frames; the first time, the head comes before them."""
        made = list[bytes]()
        if not self._next:
            made.append(frames.framed(0, self._head))
            self._next = 1
        for record in written:
            private = self._cipher.seal(self._next, record) if self._cipher else record.private
            made.append(frames.framed(self._next, _LENGTH.pack(len(record.public)) + record.public + private))
            self._next += 1
        return b"".join(made)


def _head(segment: str, key: str, wrapped: bytes) -> bytes:
    return msgspec.json.encode(_Head(FORMAT, segment, key, wrapped))


class _Cipher:
    def __init__(self, data_key: bytes, head: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aes, self._bound = AESGCM(data_key), hashlib.sha256(head).digest()

    def seal(self, position: int, record: EncodedGroup) -> bytes:
        return self._aes.encrypt(_nonce(position), record.private, self._context(position, record.public))

    def opened(self, position: int, public: bytes, sealed: bytes) -> bytes:
        """Return a private part. Raises ValueError unless it was sealed for this position, with this public part."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._aes.decrypt(_nonce(position), sealed, self._context(position, public))
        except InvalidTag:
            raise ValueError("the seal does not fit") from None

    def _context(self, position: int, public: bytes) -> bytes:
        return self._bound + _POSITION.pack(position) + public


def _nonce(position: int) -> bytes:
    return position.to_bytes(12, "big")


@dataclass(frozen=True)
class OpenedSegment:
    """The entries of a segment. `key`: name of the key that opens them; empty if they are not sealed.

    `is_readable`: whether inputs and features are there; they are not if the key was destroyed. `torn`: bytes of a
    write that nobody confirmed. `faults`: what was refused, and why; empty if the segment is as it was written.
    """

    key: str = ""
    entries: tuple[PredictionEntry, ...] = ()
    is_readable: bool = True
    torn: int = 0
    faults: tuple[str, ...] = field(default=())


def open_segment(name: str, body: bytes, unwrap: Unwrap) -> OpenedSegment:
    """Return what the bytes of the segment `name` hold. Raises the errors of `unwrap`, except ValueError."""
    found = frames.read(body)
    faults = [f"{found.damaged} bytes belong to no record"] if found.damaged else []
    if not found.whole:
        return OpenedSegment(torn=found.torn, faults=tuple(faults))
    first, *rest = found.whole
    try:
        head = _read_head(first, name)
        data_key = unwrap(head.key, head.wrapped) if head.key else None
        cipher = _Cipher(data_key, first.payload) if data_key is not None else None
    except ValueError as cause:
        return OpenedSegment(torn=found.torn, faults=(*faults, f"no record can be opened: {cause}"))
    is_readable = not head.key or cipher is not None
    entries, refused = list[PredictionEntry](), list[str]()
    expected = 1
    for frame in rest:
        try:
            made = _opened(frame, cipher, is_readable=is_readable)
        except ValueError:
            refused.append(f"record {frame.position} was altered, or was written to another place")
            continue
        if frame.position < expected:
            refused.append(f"record {frame.position} stands behind record {expected - 1}")
            continue
        if frame.position > expected:
            refused.append(f"records {expected} to {frame.position - 1} are missing before record {frame.position}")
        entries += made
        expected = frame.position + 1
    return OpenedSegment(head.key, tuple(entries), is_readable, found.torn, (*faults, *refused))


def _read_head(first: Frame, name: str) -> _Head:
    """Return the head of the segment `name`. Raises ValueError without a value of the frame."""
    try:
        head = _HEAD.decode(first.payload if first.position == 0 else b"")
    except ValueError:
        raise ValueError("the head is missing or damaged") from None
    if head.format != FORMAT:
        raise ValueError("the head has another format")
    if head.segment != name:
        raise ValueError("the head is of another segment")
    return head


def _opened(frame: Frame, cipher: _Cipher | None, *, is_readable: bool) -> list[PredictionEntry]:
    """Return the entries of a frame that was written to its place. Raises ValueError."""
    (length,) = _LENGTH.unpack_from(frame.payload.ljust(_LENGTH.size, b"\xff"))
    end = _LENGTH.size + length
    if end > len(frame.payload):
        raise ValueError("the record is shorter than it says")
    public, private = frame.payload[_LENGTH.size : end], frame.payload[end:]
    if cipher is not None:
        private = cipher.opened(frame.position, public, private)
    try:
        return records.decode(public, private if is_readable else None)
    except RecursionError:  # one record must not keep the others from the lake
        raise ValueError("its values are nested too deep") from None
