"""The pictures of help texts hold the text and ask no other host for anything."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

SCRIPT = Path(__file__).resolve().parents[3] / "docs" / "help_pictures.py"


def test_a_picture_shows_the_help_and_loads_nothing() -> None:
    made = runpy.run_path(str(SCRIPT))
    drawn = made["picture"]("rempart stack --help", made["help_of"]("stack"))
    shown = " ".join("".join(ET.fromstring(drawn).itertext()).replace("\xa0", " ").split())  # noqa: S314  # our own
    assert "preflight" in shown and "Usage: rempart stack [OPTIONS] COMMAND [ARGS]..." in shown
    assert "url(http" not in drawn and "@font-face" not in drawn and "@import" not in drawn
