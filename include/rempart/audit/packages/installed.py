"""Read installed Python distributions from their metadata."""

from __future__ import annotations

import csv
import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from rempart.audit.licences import Metadata

OWN = "rempart"
_LICENCE_FILE = re.compile(r"(licen[cs]e|copying)[^/]*\Z", re.IGNORECASE)


def by_name() -> dict[str, Distribution]:
    """Return every installed distribution except our own, by canonical name.

    The first on the path counts, as for imports.
    """
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = canonicalize_name(distribution.metadata["Name"] or "")
        if name and name != OWN:
            found.setdefault(name, distribution)
    return found


def _files(distribution: Distribution) -> list[str]:
    """Return the installed files, relative to the folder of packages: `files` makes 100,000 paths of them, in 1 s."""
    if record := distribution.read_text("RECORD"):
        return [row[0] for row in csv.reader(record.splitlines()) if row]
    return [str(file) for file in distribution.files or ()]


def _texts(distribution: Distribution) -> tuple[str, ...]:
    names = [name for name in _files(distribution) if ".dist-info" in name and _LICENCE_FILE.search(name)]
    files = [Path(str(distribution.locate_file(name))) for name in names]
    return tuple(file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())


def licence_metadata(distribution: Distribution) -> Metadata:
    """Return a distribution's licence metadata; licence files are read only if the metadata is not enough."""
    head = distribution.metadata
    classifiers = tuple(
        text.removeprefix("License :: ")
        for text in head.get_all("Classifier") or ()
        if text.startswith("License :: ") and text != "License :: OSI Approved"
    )
    expression, field = ((head.get_all(name) or [""])[0] for name in ("License-Expression", "License"))
    field = "" if field == "UNKNOWN" else field
    texts = () if expression else _texts(distribution)
    return Metadata(distribution.version, expression, field, classifiers, texts)


def native_libraries(distribution: Distribution) -> int:
    """Return shared libraries in a wheel from its build machine (in its `.libs` folder)."""
    folders = (name.partition("/") for name in _files(distribution))
    return sum(folder.endswith(".libs") and ".so" in name.rpartition("/")[2] for folder, _, name in folders)
