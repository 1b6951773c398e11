"""Read whole lines from places spread over a file, plain or packed, with bounded memory."""

from __future__ import annotations

import gzip
import logging
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rempart.ingestion.sampling.names import shown
from rempart.ingestion.unpacking import Unreadable

logger = logging.getLogger(__name__)
_HEAD = 1 << 20
"""Bytes at the start of a file that are always read."""
_BLOCK = 1 << 18
_READ = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FARTHEST = 4 << 30
"""Unpacked bytes after which a packed file is read no further."""


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file in its order. `size`: bytes of the file, unpacked. `whole`: the lines are all of it.

    `places`: pairs of a line's number in `body` and in the file, one for each run of lines, both from 1.
    """

    body: bytes
    size: int
    whole: bool
    places: Sequence[tuple[int, int]] = ((1, 1),)

    def number(self, line: int) -> int:
        """Return the number in the file of a line of the sample."""
        here, there = self.places[bisect_right(self.places, (line, 1 << 62)) - 1]
        return there + line - here


def lines(file: Path, most: int, *, numbered: bool = False) -> Lines:
    """Return about `most` bytes of whole lines, the first ones always among them. Raises Unreadable, OSError.

    The places of a sample of a plain file are right only if they are `numbered`, which reads all of the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        packed = stream.read(4).startswith((_GZIP, _ZSTD))
        stream.seek(0)
        if not packed and size <= most:
            return Lines(stream.read(), size, whole=True)
        if not packed and not numbered:
            return Lines(b"".join(_spread(stream, size, most)), size, whole=False)
    return _streamed(file, size, most)


def _spread(stream: Any, size: int, most: int) -> Iterator[bytes]:
    """Yield the head of a plain file, and blocks at equal distances behind it."""
    yield _head_of(stream.read(_HEAD))
    count = max(2, (most - _HEAD) // _BLOCK)
    for number in range(count):  # the last one is the end of the file
        stream.seek(_HEAD + (size - _HEAD - _BLOCK) * number // (count - 1))
        block = stream.read(_BLOCK)
        yield _to_line_end(block[block.find(b"\n") + 1 :])


@dataclass(frozen=True)
class _Run:
    """Lines that follow each other: `begun` is the beginning of the first one, from the block before."""

    first: int
    begun: bytes
    block: bytes


def _streamed(file: Path, given: int, most: int) -> Lines:
    """Read a file to its end; keep the head and every n-th block, fewer of them the longer it is."""
    head = before = b""
    kept: list[_Run] = []
    every, number, size, line = 1, 0, 0, 1
    with _unpacked(file) as (stream, position):
        while size <= _FARTHEST and (block := stream.read(_READ)):
            size += len(block)
            if len(head) < _HEAD:
                head += block
            elif number % every == 0:
                kept.append(_Run(line, before[before.rfind(b"\n") + 1 :], block))
                if sum(len(run.begun) + len(run.block) for run in kept) > most:
                    kept, every = kept[::2], every * 2
            line += block.count(b"\n")
            before = block
            number += 1
            if number % 16 == 0:
                logger.info("read %.1f of %.1f MB of %s", min(position(), given) / 1e6, given / 1e6, shown(file.name))
    if every == 1 and size <= _FARTHEST:
        return Lines(head + b"".join(run.block for run in kept), size, whole=True)
    body, places, here = _head_of(head), [(1, 1)], 1 + head.count(b"\n")
    for run in kept:
        text = _to_line_end(run.begun + run.block)
        places.append((here, run.first))
        here += text.count(b"\n")
        body += text
    return Lines(body, size, whole=False, places=tuple(places))


@contextmanager
def _unpacked(file: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file, unpacked; with a function that tells how many packed bytes were read."""
    import pyarrow as pa

    with file.open("rb") as raw:
        start = raw.read(4)
        packing = "gzip" if start.startswith(_GZIP) else "zstd"
        raw.seek(0)
        if not start.startswith((_GZIP, _ZSTD)):
            yield raw, raw.tell
            return
        try:
            if packing == "gzip":
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream, raw.tell
            else:
                with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd") as other:
                    yield other, raw.tell
        except EOFError:
            raise Unreadable(f"the {packing} file is truncated") from None
        except (zlib.error, gzip.BadGzipFile, pa.ArrowException):
            raise Unreadable(f"the {packing} file is damaged") from None
        except OSError as cause:
            if cause.errno is not None:
                raise
            raise Unreadable(f"the {packing} file is damaged") from None


def _head_of(block: bytes) -> bytes:
    """Return the whole lines at the start of a file. Raises Unreadable without one."""
    if not (head := _to_line_end(block)):
        raise Unreadable(f"there is no line feed in its first {_HEAD >> 20} MiB")
    return head


def _to_line_end(block: bytes) -> bytes:
    return block[: block.rfind(b"\n") + 1]
