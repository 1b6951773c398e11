"""Frames of a segment: a mark, a position, a length and a checksum, then a payload. Appended, never changed. Pure.

Positions count from 0, the segment's head. Numbers have four bytes, least significant first; the checksum is the CRC-32
of position, length and payload. A frame that ends before its length is a torn write, which nobody confirmed. All other
bytes that are no frame are damage.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MARK = b"\xa7RJ2"
"""Begins every frame. After damage, reading goes on at the next frame."""
MOST_BYTES = 16 << 20
"""Limit of a payload. So a header has a byte that JSON does not have, and no text in a payload looks like a frame."""
_HEADER = struct.Struct("<4sIII")
_CHECKED = struct.Struct("<II")


@dataclass(frozen=True)
class Frame:
    """A whole frame, as its checksum tells."""

    position: int
    payload: bytes


@dataclass(frozen=True)
class Frames:
    """What the bytes of a segment hold: whole frames as they stand, and the bytes that are none.

    `torn`: bytes of a write at the end that was never confirmed. `damaged`: other bytes that are no frame.
    """

    whole: tuple[Frame, ...]
    torn: int = 0
    damaged: int = 0


def framed(position: int, payload: bytes) -> bytes:
    """Return a payload as a frame."""
    return _HEADER.pack(MARK, position, len(payload), _checksum(position, payload)) + payload


def _checksum(position: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_CHECKED.pack(position, len(payload))))


def read(body: bytes) -> Frames:
    """Return the frames in the bytes of a segment."""
    whole, place, damaged = list[Frame](), 0, 0
    begin = body.find(MARK)
    while begin >= 0:
        frame = _frame(body, begin)
        if frame is None:
            begin = body.find(MARK, begin + 1)
            continue
        damaged += begin - place
        whole.append(frame)
        place = begin + _HEADER.size + len(frame.payload)
        begin = body.find(MARK, place)
    rest = body[place:]
    return Frames(tuple(whole), *((len(rest), damaged) if _is_torn(rest) else (0, damaged + len(rest))))


def _frame(body: bytes, begin: int) -> Frame | None:
    if len(body) - begin < _HEADER.size:
        return None
    _, position, length, checksum = _HEADER.unpack_from(body, begin)
    end = begin + _HEADER.size + length
    if length > MOST_BYTES or end > len(body):
        return None
    payload = body[begin + _HEADER.size : end]
    if _checksum(position, payload) != checksum:
        return None
    return Frame(position, payload)


def _is_torn(rest: bytes) -> bool:
    """Return whether the last bytes are the beginning of a frame, or space that a lost write left."""
    if not rest.strip(b"\0"):
        return True
    if len(rest) < _HEADER.size:
        return rest.startswith(MARK) or MARK.startswith(rest)
    mark, _, length, _ = _HEADER.unpack_from(rest)
    return bool(mark == MARK and len(rest) - _HEADER.size < length <= MOST_BYTES)
