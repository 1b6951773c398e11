"""A delivery's bytes, gunzipped if they are gzip, within the limits of a delivery; and what is wrong with a header."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

MAX_BYTES = 1 << 29
"""Largest delivery, unpacked (512 MiB)."""
MAX_RATIO, RATIO_FROM = 200, 16 << 20
"""Maximum factor by which a gzip file may grow when unpacked, beyond a minimum size."""


class Unreadable(Exception):
    """Raised when the file as a whole is refused; the message has the reason and no content."""


class _Bounded(io.RawIOBase):
    """A stream that ends in Unreadable once it gave too many bytes, or too many for the size it has when packed."""

    def __init__(self, stream: BinaryIO, packed: int | None) -> None:
        self._stream, self._packed, self._given = stream, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # any writable buffer
        try:
            got = self._stream.read(len(buffer))
        except EOFError:
            raise Unreadable("the gzip file is truncated") from None
        except (zlib.error, gzip.BadGzipFile):
            raise Unreadable("the gzip file is damaged") from None
        self._given += len(got)
        if self._given > MAX_BYTES:
            raise Unreadable(f"the file is larger than {MAX_BYTES >> 20} MiB" + (" unpacked" if self._packed else ""))
        if self._packed and self._given > max(RATIO_FROM, MAX_RATIO * self._packed):
            raise Unreadable(f"the file unpacks to more than {MAX_RATIO} times its size")
        buffer[: len(got)] = got
        return len(got)


def unpack(body: bytes) -> tuple[bytes, str | None]:
    """Return the text's bytes, unzipped if they are gzip, and their fault, if any (then as many bytes as could be
    read).
    """
    text = bytearray()
    try:
        stream = unpacked(io.BytesIO(body), len(body))
        while block := stream.read(1 << 20):
            text += block
    except Unreadable as fault:
        return bytes(text), str(fault)
    return bytes(text), None


def unpacked(stream: BinaryIO, size: int) -> io.BufferedReader:
    """Return the text as a stream that raises Unreadable at a limit. `size`: bytes of the delivery as received."""
    start = stream.read(2)
    stream.seek(0)
    if start != b"\x1f\x8b":
        return io.BufferedReader(_Bounded(stream, None), 1 << 16)
    return io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=stream), size), 1 << 16)  # type: ignore[arg-type] # as good


def line_count(stream: BinaryIO, size: int) -> int:
    """Return how many line feeds a delivery holds, as far as it can be unpacked."""
    count = 0
    with suppress(Unreadable):
        text = unpacked(stream, size)
        while block := text.read(1 << 20):
            count += block.count(b"\n")
    return count


def wrong_header(header: Sequence[str], columns: Sequence[str], delimiter: str) -> str | None:
    """Return what is wrong with the header of a delivery, or None. It quotes no value of the file."""
    missing = [column for column in columns if column not in header]
    unexpected = [str(i) for i, name in enumerate(header, 1) if name not in columns]
    twice = [column for column in columns if header.count(column) > 1]
    faults = [
        missing and f"missing columns: {', '.join(missing)}",
        unexpected and f"columns missing in the schema, at positions {', '.join(unexpected[:20])}",
        twice and f"columns that occur twice: {', '.join(twice)}",
        len(header) == 1 < len(columns) and f"there is only one: does source.delimiter '{delimiter}' separate them?",
    ]
    return "; ".join(fault for fault in faults if fault) or None
