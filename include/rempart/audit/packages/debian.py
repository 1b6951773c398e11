"""Read Debian packages from a dpkg status file, and order their versions. Pure except for reading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rempart.errors import AuditError

VersionKey = tuple[tuple[int, str], tuple[object, ...], tuple[object, ...]]


@dataclass(frozen=True)
class DebianPackage:
    """One installed binary package, and the source package that advisories speak of."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    depends: tuple[tuple[str, ...], ...] = ()
    """Each dependency as its alternatives."""
    provides: tuple[str, ...] = ()


@dataclass(frozen=True)
class DebianSystem:
    """Debian packages of one machine or image. `release` is the release number, such as 13; empty if unknown."""

    where: str
    distribution: str
    release: str
    packages: tuple[DebianPackage, ...]


def version_key(version: str) -> VersionKey:
    """Return a key that sorts as dpkg does: epoch, upstream version, revision; `~` before everything, letters before
    the rest.

    Source: Debian Policy 5.6.12. Raises ValueError for an invalid version.
    """
    if not re.fullmatch(r"[0-9]+:[0-9A-Za-z.+:~-]+|[0-9A-Za-z.+~-]+", version):
        raise ValueError(f"not a Debian version: {version[:60]!r}")
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return _number(epoch), _part(upstream), _part(revision)


def _number(digits: str) -> tuple[int, str]:
    """Return a key that orders digits by value: by length, then as text."""
    plain = digits.lstrip("0")
    return len(plain), plain


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _part(text: str) -> tuple[object, ...]:
    """Split a version part into text and numbers in turn.

    The 0 at the end of each text marks its end: it sorts after `~` and before anything else.
    """
    end: tuple[object, ...] = ((0,), (0, ""))
    pairs: list[tuple[object, ...]] = [
        ((*(_order(character) for character in other), 0), _number(digits))
        for other, digits in re.findall(r"([^0-9]*)([0-9]*)", text)
    ]
    while len(pairs) > 1 and pairs[-1] == end:
        pairs.pop()
    return tuple(part for pair in [*pairs, end] for part in pair)


def read_system(path: Path, release: str = "") -> DebianSystem:
    """Read a dpkg status file, or the root of an unpacked image with its os-release. Raises AuditError."""
    file = path / "var/lib/dpkg/status" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as cause:
        raise AuditError(
            f"read {file}: {cause.strerror}", "Pass a dpkg status file, or the root of an unpacked image."
        ) from cause
    packages = tuple(_packages(text))
    if not packages:
        raise AuditError(
            f"read {file}: it lists no installed package", "Pass a dpkg status file, such as /var/lib/dpkg/status."
        )
    distribution, found = _os_release(file)
    return DebianSystem(str(file), distribution, release or found, packages)


def _os_release(status: Path) -> tuple[str, str]:
    """Return ID and VERSION_ID of the system of a status file at its usual place."""
    if status.parts[-4:] != ("var", "lib", "dpkg", "status"):
        return "debian", ""
    root = status.parents[3]
    for name in ("etc/os-release", "usr/lib/os-release"):
        file = root / name
        # a link of an unpacked image may lead into this machine
        if file.is_file() and file.resolve().is_relative_to(root.resolve()):
            pairs = (line.partition("=") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
            values = {key: value.strip("\"'") for key, _, value in pairs}
            return values.get("ID", "debian"), values.get("VERSION_ID", "")
    return "debian", ""


def _packages(text: str) -> Iterator[DebianPackage]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version = fields["Package"], fields["Version"]
        source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("Source") or name)
        yield DebianPackage(
            name,
            version,
            fields.get("Architecture", ""),
            source[1] if source else name,
            (source[2] if source else None) or version,
            tuple(_alternatives(fields.get("Pre-Depends", ""), fields.get("Depends", ""))),
            tuple(names[0] for names in _alternatives(fields.get("Provides", ""))),
        )


def _alternatives(*fields: str) -> Iterator[tuple[str, ...]]:
    for field in fields:
        for part in field.split(","):
            if names := tuple(
                re.split(r"[\s(:\[]", alternative.strip())[0] for alternative in part.split("|") if alternative.strip()
            ):
                yield names


def depends_on(packages: Iterable[DebianPackage]) -> dict[str, tuple[str, ...]]:
    """Return the installed dependencies of each package: every installed alternative counts."""
    found = list(packages)
    providers: dict[str, set[str]] = {}
    for package in found:
        for name in (package.name, *package.provides):
            providers.setdefault(name, set()).add(package.name)
    return {
        package.name: tuple(
            sorted({by for names in package.depends for name in names for by in providers.get(name, ())})
        )
        for package in found
    }
