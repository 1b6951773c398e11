"""Draw the help of `rempart` and of each group as SVG pictures into a folder.

.venv/bin/python docs/help_pictures.py FOLDER

The pictures name no font of another host: a viewer takes its own monospaced font.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text
from typer.main import get_command

from rempart.cli import app

WIDTH = 100
FONT_OF_ANOTHER_HOST = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def help_of(*words: str) -> Text:
    """Return the help of a command as a terminal shows it."""
    shown = {**os.environ, "FORCE_COLOR": "1", "TERMINAL_WIDTH": str(WIDTH), "COLUMNS": str(WIDTH), "TERM": "xterm"}
    shown.pop("NO_COLOR", None)
    code = "import sys; sys.argv[0] = 'rempart'; from rempart.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"], env=shown, capture_output=True, text=True, check=True
    )
    return Text.from_ansi(done.stdout.strip("\n"))


def picture(title: str, text: Text) -> str:
    """Return a text in a terminal's window as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(text)
    return FONT_OF_ANOTHER_HOST.sub("", console.export_svg(title=title, unique_id=title.replace(" ", "-")))


def main(folder: Path) -> None:
    """Write rempart.svg and rempart-GROUP.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = [name for name, command in vars(get_command(app))["commands"].items() if "commands" in vars(command)]
    for words in ([], *([name] for name in groups)):
        title = " ".join(["rempart", *words, "--help"])
        file = folder / f"{'-'.join(['rempart', *words])}.svg"
        file.write_text(picture(title, help_of(*words)), encoding="utf-8")
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
