"""Split the bytes of a text delivery into lines, in blocks of constant size, with their numbers.

A line ends at \\n, \\r\\n or \\r and at nothing else, as in today's reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from rempart.ingestion.engine.limits import Limits
from rempart.ingestion.unpacking import Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

UTF8_BOM = b"\xef\xbb\xbf"


@dataclass
class Block:
    """Whole lines of a file as UTF-8 bytes. Line `i` is `text[ends[i - 1]:ends[i]]` and has number `first + i`.

    `last`: no line follows.
    """

    text: bytes
    ends: Any
    first: int
    last: bool

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, index: int) -> str:
        """Return one line with its line end."""
        return self.text[self.start(index) : int(self.ends[index])].decode()

    def start(self, index: int) -> int:
        """Return the offset of a line in bytes."""
        return int(self.ends[index - 1]) if index else 0

    def following(self, index: int, limits: Limits) -> Iterator[str]:
        """Yield the lines from this one on, as many as one row may have."""
        length = 0
        for here in range(index, min(index + limits.lines_per_row, len(self))):
            line = self.line(here)
            if (length := length + len(line)) > limits.text:
                return
            yield line

    def holds_row(self, index: int, limits: Limits) -> bool:
        """Return whether all lines are here that a row from this line on may have."""
        # a character has at most four bytes
        return (
            self.last
            or len(self) - index >= limits.lines_per_row
            or len(self.text) - self.start(index) > 4 * limits.text
        )

    def normal(self) -> pa.Array:
        """Return the lines, each ending in \\n."""
        import numpy as np
        import pyarrow as pa

        text, ends = self.text, self.ends
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 10) + 1
        if not text.endswith(b"\n"):
            text += b"\n"
            ends = np.append(ends[: len(self) - 1], len(text))
        offsets = np.zeros(len(ends) + 1, np.int32)
        offsets[1:] = ends
        return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))


class Blocks:
    """The blocks of a file. A caller may give the end of a block back, to have it again with more lines after it."""

    def __init__(self, stream: BinaryIO, encoding: str, limits: Limits) -> None:
        self._stream, self._encoding, self._limits = stream, encoding, limits
        self._rest = b""
        self._ended = False
        self._number = 1

    def next(self) -> Block | None:
        """Return the next block, or None at the end of the file. Raises Unreadable."""
        while self._rest or not self._ended:
            more = b"" if self._ended else self._stream.read(self._limits.block)
            self._ended = not more
            text = self._rest + self._decoded(more)
            ends = _ends(text, self._ended)
            size = int(ends[-1]) if len(ends) else 0
            if not size and not self._ended:
                self._rest = text
                if len(text) > 4 * self._limits.text + 1:
                    raise self._too_long()
                continue
            whole, self._rest = text[:size], text[size:]
            self._check(whole, ends)
            block = Block(whole, ends, self._number, self._ended)
            self._number += len(ends)
            return block if len(ends) else None
        return None

    def give_back(self, block: Block, index: int) -> None:
        """Take the lines of a block from `index` on back; the next block begins with them."""
        self._rest = block.text[block.start(index) :] + self._rest
        self._number = block.first + index

    def _decoded(self, more: bytes) -> bytes:
        """Return the bytes in UTF-8. A file that is UTF-8 is checked line by line: a block may end in a character."""
        if self._encoding == "utf-8":
            return more
        try:
            return more.decode(self._encoding).encode()
        except UnicodeDecodeError:
            raise self._no_text() from None

    def _check(self, whole: bytes, ends: Any) -> None:
        import numpy as np

        try:
            whole.decode()
        except UnicodeDecodeError:
            raise self._no_text() from None
        most = self._limits.text
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        for index in np.flatnonzero(ends - starts > most).tolist():
            if len(whole[starts[index] : ends[index]].decode()) > most:
                raise self._too_long()

    def _no_text(self) -> Unreadable:
        return Unreadable(f"the file is not {self._encoding} text")

    def _too_long(self) -> Unreadable:
        return Unreadable(f"a line has more than {self._limits.text} characters")


def _ends(text: bytes, final: bool) -> Any:
    """Return the offset after each line end. What follows the last one is a line only at the end of the file."""
    import numpy as np

    data = np.frombuffer(text, np.uint8)
    at_end = data == 10
    if b"\r" in text:
        returns = data == 13
        # a \r before a \n is no end of its own; the last byte may be such a \r
        returns[:-1] &= data[1:] != 10
        returns[-1] &= final
        at_end |= returns
    ends = np.flatnonzero(at_end) + 1
    if final and len(text) and (not len(ends) or ends[-1] != len(text)):
        ends = np.append(ends, len(text))
    return ends
