"""A delivery's bytes, unpacked if they are gzip or zstd, within its limits; the names in its header."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from rempart.settings.sources import Dialect

MAX_BYTES = 1 << 29
"""Largest delivery, unpacked (512 MiB), unless rempart.yaml says otherwise."""
MAX_RATIO, RATIO_FROM = 200, 16 << 20
"""Maximum factor by which a packed file may grow when unpacked, beyond a minimum size."""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
"""First bytes of packed files."""


class Unreadable(Exception):
    """Raised when the file as a whole is refused; the message has the reason and no content."""


class _Bounded(io.RawIOBase):
    """A stream that ends in Unreadable once it gave too many bytes, or too many for the size it has when packed."""

    def __init__(self, stream: Any, packed: int | None, most: int, ratio: int) -> None:
        self._stream, self._packed, self._most, self._ratio = stream, packed, most, ratio
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # any writable buffer
        try:
            got = self._stream.read(len(buffer))
        except EOFError:
            raise Unreadable("the gzip file is truncated") from None
        except (zlib.error, gzip.BadGzipFile):
            raise Unreadable("the gzip file is damaged") from None
        except OSError:
            if not self._packed:
                raise
            raise Unreadable("the zstd file is damaged or truncated") from None
        self._given += len(got)
        if self._given > self._most:
            raise Unreadable(f"the file is larger than {self._most >> 20} MiB" + (" unpacked" if self._packed else ""))
        if self._packed and self._given > max(RATIO_FROM, self._ratio * self._packed):
            raise Unreadable(f"the file unpacks to more than {self._ratio} times its size")
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


def unpacked(stream: BinaryIO, size: int, most: int | None = None, ratio: int = MAX_RATIO) -> io.BufferedReader:
    """Return the text as a stream that raises Unreadable at a limit. `size`: bytes of the delivery as received.

    `most`: bytes that it may give (default: `MAX_BYTES`).
    """
    start = stream.read(4)
    stream.seek(0)
    opened: Any = stream
    packed: int | None = size
    if start.startswith(GZIP):
        opened = gzip.GzipFile(fileobj=stream)
    elif start == ZSTD:
        import pyarrow as pa

        opened = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
    else:
        packed = None
    return io.BufferedReader(_Bounded(opened, packed, MAX_BYTES if most is None else most, ratio), 1 << 16)


def unlimited(stream: BinaryIO, size: int) -> io.BufferedReader:
    """Return the text of a delivery of `size` bytes, however large, to search it for erased rows.

    Ingestion may have read it with other limits than today's. Raises Unreadable for a damaged file, as `unpacked`.
    """
    return unpacked(stream, size, sys.maxsize, sys.maxsize)


@contextmanager
def packing(file: BinaryIO, start: bytes) -> Iterator[Any]:
    """Provide a stream that writes to a file as the delivery was packed that begins with `start`."""
    if start.startswith(GZIP):
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
            yield packed
    elif start.startswith(ZSTD):
        import pyarrow as pa

        with pa.CompressedOutputStream(pa.PythonFile(file, "w"), "zstd") as stream:
            yield stream
    else:
        yield file


def line_count(stream: BinaryIO, size: int) -> int:
    """Return how many line feeds a delivery holds, as far as it can be unpacked."""
    count = 0
    with suppress(Unreadable):
        text = unlimited(stream, size)
        while block := text.read(1 << 20):
            count += block.count(b"\n")
    return count


def names_in(source: Dialect, columns: Iterable[str]) -> dict[str, str]:
    """Return the name that a delivery gives each of these columns of the schema, in their order.

    Raises Unreadable if two columns have one name: the delivery was read before one of them was added.
    """
    names = source.names(columns)
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    if absent := [column for column, name in names.items() if name in twice and column == name]:
        raise Unreadable(f"missing columns: {', '.join(absent)}")
    return names


def distinct_names(header: Sequence[str]) -> list[str]:
    """Return the names of a header; one that occurs again has its number behind it, as `Note (2)`. Pure.

    It stays as it is, and so occurs twice, if another column has that name.
    """
    seen, names, given = Counter[str](), list[str](), set(header)
    for name in header:
        seen[name] += 1
        numbered = f"{name} ({seen[name]})"
        names.append(name if seen[name] == 1 or numbered in given else numbered)
    return names


def wrong_header(header: Sequence[str], columns: Sequence[str], delimiter: str) -> str | None:
    """Return what is wrong with the header of a delivery, or None. It quotes no value of the file.

    `columns`: the names that the delivery should have.
    """
    missing = [column for column in columns if column not in header]
    unexpected = [str(i) for i, name in enumerate(header, 1) if name not in columns]
    twice = [column for column in columns if header.count(column) > 1]
    separated = f"columns must be separated by '{delimiter}' (`source.delimiter` of a pipeline with files)"
    faults = [
        len(header) == 1 < len(columns) and f"there is one column: {separated}",
        missing and f"missing columns: {', '.join(missing)}",
        unexpected and f"columns that the pipeline file does not name, at positions {', '.join(unexpected[:20])}",
        twice and f"columns that occur twice: {', '.join(twice)}",
    ]
    return "; ".join(fault for fault in faults if fault) or None
