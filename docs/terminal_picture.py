"""Runs a command in a pseudo-terminal and writes what it drew as an SVG: `docs/images/demo.svg` is made by

    .venv/bin/python docs/terminal_picture.py --out docs/images/demo.svg --shown 'make demo' .venv/bin/rempart demo

The picture is animated, follows the reader's light or dark theme, and stands still where motion is not wanted. Long
waits are shortened, so that it takes half a minute. With --still, only the end is drawn. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

CELL, LINE, SIZE = 8.4, 18.0, 14
MOST_BYTES = 140_000
MOST_SECONDS = 24.0
_PART = re.compile(
    r"\033\[(?P<arguments>[0-9;?]*)(?P<code>[a-zA-Z])|(?P<sign>[\r\n])|(?P<text>[^\033\r\n]+)|(?P<rest>.)"
)
_STYLES = {"1": "strong", "2": "faint", "31": "bad", "32": "good", "33": "warn", "36": "busy"}
CSS = """
:root{--page:#ffffff;--edge:#d0d7de;--text:#1f2328;--faint:#656d76;--good:#1a7f37;--bad:#cf222e;--warn:#9a6700;--busy:#0969da}
@media (prefers-color-scheme:dark){:root{--page:#0d1117;--edge:#30363d;--text:#e6edf3;--faint:#8b949e;--good:#3fb950;
--bad:#f85149;--warn:#d29922;--busy:#58a6ff}}
.page{fill:var(--page);stroke:var(--edge)}
text{font:%dpx ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--text);white-space:pre}
.faint{fill:var(--faint)}.good{fill:var(--good)}.bad{fill:var(--bad)}.warn{fill:var(--warn)}.busy{fill:var(--busy)}.strong{font-weight:bold}
"""


@dataclass
class Emulator:
    """The part of a terminal that Rempart uses: lines, colours, `up` and `erase`. A row is a list of (sign, style)."""

    rows: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: str = ""

    def feed(self, text: str) -> None:
        for part in _PART.finditer(text):
            if part["text"]:
                self._write(part["text"])
            elif part["sign"] == "\n":
                self.row += 1
                self.rows += [[] for _ in range(self.row + 1 - len(self.rows))]
            elif part["sign"] == "\r":
                self.column = 0
            elif part["code"]:
                self._control(part["code"], part["arguments"])

    def _write(self, text: str) -> None:
        row = self.rows[self.row]
        row += [(" ", "")] * (self.column - len(row))
        row[self.column : self.column + len(text)] = [(sign, self.style) for sign in text]
        self.column += len(text)

    def _control(self, code: str, arguments: str) -> None:
        if code == "A":
            self.row = max(0, self.row - int(arguments or 1))
        elif code == "J":
            del self.rows[self.row + 1 :]
            del self.rows[self.row][self.column :]
        elif code == "K":
            del self.rows[self.row][self.column :]
        elif code == "m":
            self.style = _STYLES.get(arguments, "")

    def text(self) -> list[str]:
        """Return the rows without colours, and without empty rows at the end."""
        return "\n".join("".join(sign for sign, _ in row).rstrip() for row in self.rows).rstrip("\n").split("\n")

    def marked(self) -> list[str]:
        """Return the rows as elements of an SVG."""
        return [_marked(row) for row in self.rows[: len(self.text())]]


def _marked(row: list[tuple[str, str]]) -> str:
    runs: list[tuple[int, str, str]] = []
    for column, (sign, style) in enumerate(row):
        if runs and runs[-1][2] == style:
            runs[-1] = (runs[-1][0], runs[-1][1] + sign, style)
        else:
            runs.append((column, sign, style))
    return "".join(
        f'<text x="{column * CELL:.1f}" textLength="{len(text.rstrip()) * CELL:.1f}"'
        f'{f""" class="{style}" """.rstrip() if style else ""}>{escape(text.rstrip(), quote=False)}</text>'
        for column, text, style in runs
        if text.strip()
    )


@dataclass(frozen=True)
class Frame:
    """The rows of the screen from a moment on, in seconds."""

    at: float
    rows: tuple[str, ...]


def chunks(
    command: list[str], columns: int, rows: int, environment: dict[str, str], stop: tuple[str, int] | None = None
) -> Iterator[bytes | int]:
    """Run a command in a pseudo-terminal and yield what it sends; at last its exit code, a number.

    `stop`: a text, and the signal that the command gets when it has sent it.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    sent = b""
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
    ) as running:
        os.close(follower)
        while True:
            ready = select.select([leader], [], [], 0.5)[0]
            try:
                chunk = os.read(leader, 65536) if ready else b""
            except OSError:  # the last process closed its side
                break
            if not chunk and (ready or running.poll() is not None):
                break
            yield chunk
            if stop:
                sent += chunk
                if stop[0].encode() in sent:
                    running.send_signal(stop[1])
                    stop = None
        os.close(leader)
    yield running.returncode


def sent(
    command: list[str], columns: int, rows: int, environment: dict[str, str], stop: tuple[str, int] | None = None
) -> tuple[str, int]:
    """Run a command in a pseudo-terminal. Return everything that it sent, and its exit code."""
    items = list(chunks(command, columns, rows, environment, stop))
    text = b"".join(item for item in items if isinstance(item, bytes))
    return text.decode("utf-8", "replace"), next(item for item in items if isinstance(item, int))


def record(
    command: list[str], columns: int, rows: int, shown: str, every: float, instead: dict[str, str]
) -> tuple[list[Frame], int]:
    """Run a command in a pseudo-terminal. Return a frame for each time its screen changed, and its exit code.

    `instead` are texts that are drawn differently.
    """
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
    screen, began, pending = Emulator(), time.monotonic(), b""
    screen.feed(f"\033[1m$ {shown}\033[0m\r\n")
    frames = [Frame(0.0, tuple(screen.marked()))]
    code = 0
    for chunk in chunks(command, columns, rows, environment):
        if isinstance(chunk, int):
            code = chunk
            break
        whole, newline, rest = (pending + chunk).rpartition(b"\n")
        sys.stdout.buffer.write(whole + newline)
        sys.stdout.flush()
        text = (whole + newline).decode("utf-8", "replace")
        for old, new in instead.items():
            text = text.replace(old, new)
        screen.feed(text)
        pending = rest
        if time.monotonic() - began - frames[-1].at >= every:
            frames.append(Frame(time.monotonic() - began, tuple(screen.marked())))
    frames.append(Frame(time.monotonic() - began, tuple(screen.marked())))
    return frames, code


def shortened(frames: list[Frame], longest: float, hold: float) -> list[Frame]:
    """Return the frames in the time of the picture: no frame is shown for longer than `longest` seconds."""
    at, shown = 0.0, []
    for frame, after in zip(frames, [*frames[1:], None], strict=True):
        shown.append(Frame(at, frame.rows))
        at += min(longest, after.at - frame.at) if after else hold
    return [*shown, Frame(at, ())]


def svg(frames: list[Frame], columns: int) -> str:
    """Draw the frames; the last one is empty and ends the picture. Equal rows are stored once."""
    ids: dict[str, str] = {}
    for frame in frames:
        for row in frame.rows:
            ids.setdefault(row, f"r{len(ids)}")
    height = max(len(frame.rows) for frame in frames) * LINE + 24
    width, length = columns * CELL + 24, frames[-1].at
    css, drawn = [CSS % SIZE], []
    moving = len(frames) > 2
    for number, (frame, after) in enumerate(itertools.pairwise(frames)):
        last = number == len(frames) - 2
        body = "".join(
            f'<use href="#{ids[row]}" y="{index * LINE:.0f}"/>' for index, row in enumerate(frame.rows) if row
        )
        drawn.append(f'<g id="f{number}"{"" if last else " class=" + chr(34) + "before" + chr(34)}>{body}</g>')
        if moving:
            begin, end = 100 * frame.at / length, 100 * after.at / length
            hidden = f"{end:.2f}%,100%{{visibility:hidden}}" if not last else ""
            css.append(
                f"@keyframes k{number}{{0%{{visibility:{'visible' if not number else 'hidden'}}}"
                f"{begin:.2f}%{{visibility:visible}}{hidden}}}\n"
                f"#f{number}{{animation:k{number} {length:.1f}s step-end infinite}}\n"
            )
    css.append("@media (prefers-reduced-motion:reduce){g{animation:none!important}.before{visibility:hidden}}\n")
    rows = "".join(f'<g id="{name}">{row}</g>' for row, name in ids.items() if row)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        f"<style>{''.join(css)}</style><defs>{rows}</defs>"
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="6"/>'
        f'<g transform="translate(12 {12 + SIZE})">{"".join(drawn)}</g></svg>\n'
    )


def picture(frames: list[Frame], columns: int, *, still: bool) -> str:
    """Return the SVG; an animated one has as many frames as fit MOST_BYTES."""
    if still:
        return svg([Frame(0.0, frames[-1].rows), Frame(1.0, ())], columns)
    step = 1
    while True:
        chosen = [*frames[:-1:step], frames[-1]]
        drawn = svg(shortened(chosen, longest=min(1.0, MOST_SECONDS / len(chosen)), hold=8.0), columns)
        if len(drawn.encode()) <= MOST_BYTES or step > len(frames):
            return drawn
        step += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the SVG to write")
    parser.add_argument("--columns", type=int, default=96)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two frames")
    parser.add_argument("--shown", help="the command as the picture names it")
    parser.add_argument(
        "--instead", action="append", default=[], metavar="OLD=NEW", help="draw another text, such as ~ for your home"
    )
    parser.add_argument("--still", action="store_true", help="draw only the end")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    wish = parser.parse_args()
    shown = wish.shown or " ".join(wish.command)
    instead = dict(pair.split("=", 1) for pair in wish.instead)
    frames, code = record(wish.command, wish.columns, wish.rows, shown, wish.every, instead)
    wish.out.write_text(picture(frames, wish.columns, still=wish.still), encoding="utf-8")
    sys.stdout.write(f"{wish.out}: {wish.out.stat().st_size / 1000:.0f} kB, {len(frames)} frames\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
