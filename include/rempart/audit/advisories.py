"""Read the offline advisory database: OSV files in a folder or zip archives, in memory and never unpacked.

Its content is untrusted: sizes are limited, nothing is written or followed, and an unreadable entry is a finding.
Format: https://ossf.github.io/osv-schema/ (read 2026-11).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from packaging.utils import canonicalize_name
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rempart.errors import AuditError

MAX_ENTRY = 8 << 20
"""Limit of one unpacked advisory, in bytes. The largest known advisories are a few hundred KiB."""
MAX_TOTAL = 8 << 30
"""Limit of one unpacked database, in bytes."""
MAX_ENTRIES = 2_000_000
MAX_ARCHIVE = 512 << 20
"""Limit of one archive, in bytes, because its list of members is held in memory."""


def _plain(value: object) -> object:
    """Return text that is safe to print: one line, no control characters, limited length."""
    if not isinstance(value, str) or (len(value) <= 300 and value.isprintable()):
        return value
    return "".join(c if c.isprintable() else " " for c in value[:300]).strip()


def _list(value: object) -> object:
    return [] if value is None else value


def _aware(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


Text = Annotated[str, BeforeValidator(_plain)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}$")]


class _Osv(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Event(_Osv):
    introduced: Text | None = None
    fixed: Text | None = None
    last_affected: Text | None = None
    limit: Text | None = None


class Range(_Osv):
    type: Text
    events: Annotated[list[Event], BeforeValidator(_list)] = Field(default_factory=list)


class PackageName(_Osv):
    ecosystem: Text
    name: Text


class Rating(_Osv):
    type: Text
    score: Text


class Affected(_Osv):
    """One package that an advisory speaks of."""

    package: PackageName | None = None
    severity: Annotated[list[Rating], BeforeValidator(_list)] = Field(default_factory=list)
    ranges: Annotated[list[Range], BeforeValidator(_list)] = Field(default_factory=list)
    versions: Annotated[list[Text], BeforeValidator(_list)] = Field(default_factory=list)
    ecosystem_specific: dict[str, Any] | None = None
    database_specific: dict[str, Any] | None = None


class Advisory(_Osv):
    """One entry of the database, as much of it as we use."""

    id: Name
    modified: datetime
    withdrawn: datetime | None = None
    aliases: Annotated[list[Name], BeforeValidator(_list)] = Field(default_factory=list)
    upstream: Annotated[list[Name], BeforeValidator(_list)] = Field(default_factory=list)
    summary: Text = ""
    details: Text = ""
    severity: Annotated[list[Rating], BeforeValidator(_list)] = Field(default_factory=list)
    affected: Annotated[list[Affected], BeforeValidator(_list)] = Field(default_factory=list)
    database_specific: dict[str, Any] | None = None


@dataclass(frozen=True)
class Package:
    """A package to look up: an OSV ecosystem (`PyPI`, `Debian:13`), a name, a version."""

    ecosystem: str
    name: str
    version: str
    where: str


@dataclass
class Database:
    """Advisories about the wanted packages, number of entries per ecosystem, and unreadable entries."""

    path: str
    advisories: list[Advisory] = field(default_factory=list)
    entries: Counter[str] = field(default_factory=Counter)
    newest: dict[str, datetime] = field(default_factory=dict)
    withdrawn: int = 0
    unreadable: list[str] = field(default_factory=list)


def ecosystem_family(ecosystem: str) -> str:
    """Return `Debian` for `Debian:13`: a database covers a family as a whole."""
    return ecosystem.partition(":")[0]


def canonical(ecosystem: str, name: str) -> str:
    return canonicalize_name(name) if ecosystem == "PyPI" else name


def speaks_of(affected: Affected, ecosystem: str, name: str) -> bool:
    """Return whether an advisory's entry concerns this package. An entry for all of Debian concerns each release."""
    package = affected.package
    return (
        package is not None
        and package.ecosystem in (ecosystem, ecosystem_family(ecosystem))
        and canonical(ecosystem, package.name) == name
    )


def read(path: Path, wanted: Mapping[str, Collection[str]], now: datetime) -> Database:
    """Read the entries about the wanted packages (canonical names by ecosystem). Raises AuditError.

    A date in the future says nothing about the database's age and does not count.
    """
    database, total, count = Database(str(path)), 0, 0
    families = {ecosystem_family(ecosystem) for ecosystem in wanted}
    marks = [f'"{family}'.encode() for family in sorted(families)]
    for name, content in _entries(path):
        count, total = count + 1, total + len(content or b"")
        if total > MAX_TOTAL or count > MAX_ENTRIES:
            raise AuditError(
                f"read {path}: it is larger than an advisory database can be ({count} entries, {total >> 20} MiB "
                "unpacked)",
                "Mirror the database again from a trusted source, with the ecosystems PyPI and Debian only.",
            )
        if content is None:
            database.unreadable.append(name)
        elif any(mark in content for mark in marks):
            _take(database, name, content, wanted, families, now)
    return database


def _take(
    database: Database,
    name: str,
    content: bytes,
    wanted: Mapping[str, Collection[str]],
    families: Collection[str],
    now: datetime,
) -> None:
    try:
        advisory = Advisory.model_validate_json(content)
    except ValidationError:
        database.unreadable.append(name)
        return
    modified = _aware(advisory.modified)
    for family in {
        ecosystem_family(affected_range.package.ecosystem)
        for affected_range in advisory.affected
        if affected_range.package
    } & set(families):
        database.entries[family] += 1
        if modified <= now:
            database.newest[family] = max(modified, database.newest.get(family, modified))
    if any(
        speaks_of(affected_range, ecosystem, name)
        for affected_range in advisory.affected
        if affected_range.package
        for ecosystem, names in wanted.items()
        if (name := canonical(ecosystem, affected_range.package.name)) in names
    ):
        if advisory.withdrawn:
            database.withdrawn += 1
        else:
            database.advisories.append(advisory)


def _label(name: str) -> str:
    """Return a file's name as printable text for a report; archive paths are used for nothing else."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.rpartition("/")[2])[:80] or "_"


def _entries(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield every JSON file of a folder or zip, and None for a file that is too large or damaged.

    Links are not followed.
    """
    if path.is_file():
        yield from _zip_entries(path)
        return
    if not path.is_dir():
        raise AuditError(
            f"read the advisory database: {path} does not exist",
            "Correct audit.advisories in rempart.yaml, or mirror the database.",
        )
    files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".zip") and not file.is_symlink())
    for file in files:
        if file.suffix == ".zip":
            yield from _zip_entries(file)
        elif file.is_file():
            yield _label(file.name), file.read_bytes() if file.stat().st_size <= MAX_ENTRY else None


def _zip_entries(file: Path) -> Iterator[tuple[str, bytes | None]]:
    if file.stat().st_size > MAX_ARCHIVE:
        raise AuditError(
            f"read {file}: it is larger than {MAX_ARCHIVE >> 20} MiB", "Mirror a separate archive for each ecosystem."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".json"):
                    yield _label(member.filename), _member(archive, member)
    except (zipfile.BadZipFile, OSError) as cause:
        raise AuditError(f"read {file} as a zip archive: {cause}", "Mirror the archive again.") from cause


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    if member.file_size > MAX_ENTRY:
        return None
    try:
        with archive.open(member) as stream:
            content = stream.read(MAX_ENTRY + 1)  # the stated size may be a lie
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError):
        return None  # damaged, encrypted, or packed in a way that Python does not know
    return content if len(content) <= MAX_ENTRY else None
