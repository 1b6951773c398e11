"""Read installed Python distributions from their metadata."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

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


def _texts(distribution: Distribution) -> tuple[str, ...]:
    files = [file for file in distribution.files or () if ".dist-info" in str(file) and _LICENCE_FILE.search(file.name)]
    return tuple(Path(file.locate()).read_text(encoding="utf-8", errors="replace") for file in files)


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
    return sum(
        any(part.endswith(".libs") for part in PurePosixPath(str(file)).parts[:1]) and ".so" in file.name
        for file in distribution.files or ()
    )
