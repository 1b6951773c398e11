"""Determine the licence of each locked distribution as an SPDX expression, and whether the owner's list permits it.

A distribution's own statement counts only if it is clear: a valid SPDX expression, a classifier that names one licence,
or a BSD licence text with BSD metadata. A person reads the others once and records them in include/licences.yaml, with
the source. An unknown licence is a finding, never a pass.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.specifiers import SpecifierSet
from pydantic import Field, ValidationError, field_validator

from rempart.audit.findings import AuditFinding, CheckResult
from rempart.audit.lock import Locked
from rempart.errors import AuditError, ConfigError
from rempart.settings.schema import Strict, explain, read_yaml


def _spdx(value: str) -> str:
    return canonicalize_license_expression(value)


def _specifier(value: str) -> str:
    SpecifierSet(value)
    return value


class Reviewed(Strict):
    """A licence that a person read because the metadata is unclear."""

    licence: str = Field(description="SPDX expression.")
    versions: str = Field(description="PEP 440 specifier of the versions for which the review is valid.")
    source: str = Field(description="File or page that was read.")
    note: str = ""

    _check_licence = field_validator("licence")(_spdx)
    _check_versions = field_validator("versions")(_specifier)


class Bundled(Strict):
    """A program inside a distribution, with its own version and licence."""

    name: str
    version: str
    licence: str
    versions: str = Field(description="PEP 440 specifier of the distribution's versions for which this is valid.")
    source: str
    file: str = Field(description="Name of the program's own file, without folders.")

    _check_licence = field_validator("licence")(_spdx)
    _check_versions = field_validator("versions")(_specifier)


class Review(Strict):
    """include/licences.yaml."""

    reviewed: dict[str, Reviewed] = Field(default_factory=dict)
    bundled: dict[str, list[Bundled]] = Field(default_factory=dict)


def read_review(file: Path) -> Review:
    """Return the reviewed licences. Raises ConfigError."""
    try:
        return Review.model_validate(read_yaml(file))
    except ValidationError as cause:
        raise ConfigError(f"{file.name} is not valid:\n{explain(cause, file)}", "Correct each line above.") from cause


@dataclass(frozen=True)
class Metadata:
    """Licence metadata of an installed distribution. `texts` are its licence files."""

    version: str
    expression: str = ""
    field: str = ""
    classifiers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Licence:
    """The licence of one locked distribution, or None if unknown. `known_from` names the source."""

    locked: Locked
    expression: str | None
    known_from: str


_CLASSIFIERS = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
"""Trove classifiers that name one licence. `BSD License` does not: two and three clauses differ."""

_SPELLINGS = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license v2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "mit license": "MIT",
    "isc license": "ISC",
    "3-clause bsd license": "BSD-3-Clause",
}
"""Free text in metadata that names one licence, in lower case."""


def _valid(text: str) -> str | None:
    try:
        return canonicalize_license_expression(_SPELLINGS.get(text.strip().lower(), text.strip()))
    except InvalidLicenseExpression:
        return None


def _bsd_variant(texts: Iterable[str]) -> str | None:
    """Return BSD with two or three clauses, by the text; the stricter if it has both kinds."""
    variant = None
    for text in texts:
        plain = " ".join(text.lower().split())
        if "redistribution and use in source and binary forms" not in plain:
            continue
        if "all advertising materials" in plain:
            return None
        if re.search(r"neither the names? of|names? of .{0,80} may not be used to endorse", plain):
            return "BSD-3-Clause"
        variant = "BSD-2-Clause"
    return variant


def declared(metadata: Metadata) -> tuple[str | None, str]:
    """Return the clear statement of the metadata and its place, or (None, why)."""
    if metadata.expression:
        valid = _valid(metadata.expression)
        return (valid, "License-Expression") if valid else (None, f"not SPDX: {metadata.expression[:60]}")
    named = [name.removeprefix("OSI Approved :: ") for name in metadata.classifiers]
    short = metadata.field if "\n" not in metadata.field else ""
    if short and (valid := _valid(short)) and (len(named) < 2 or " OR " in valid):
        return valid, "License"
    if len(named) == 1 and (known := _CLASSIFIERS.get(named[0])):
        return known, "classifier"
    says_bsd = named == ["BSD License"] or (not named and "bsd" in metadata.field[:40].lower())
    if says_bsd and (variant := _bsd_variant([metadata.field, *metadata.texts])):
        return variant, "licence text"
    return None, f"metadata is not clear: {', '.join(named) or short[:60] or 'it has no licence'}"


def licence_of(locked: Locked, installed: Mapping[str, Metadata], review: Review) -> Licence:
    """Return the licence of one line of the lock: reviewed, else declared by the distribution."""
    reviewed = review.reviewed.get(locked.name)
    if reviewed and SpecifierSet(reviewed.versions).contains(locked.version, prereleases=True):
        return Licence(locked, reviewed.licence, "reviewed")
    if reviewed:
        return Licence(locked, None, f"reviewed for {reviewed.versions} only")
    metadata = installed.get(locked.name)
    if metadata is None or metadata.version != locked.version:
        return Licence(locked, None, "this version is not installed here, so its metadata was not read")
    return Licence(locked, *declared(metadata))


def permitted(expression: str, allowed: Collection[str]) -> bool:
    """Return whether the allowed licences satisfy an SPDX expression: one side of an OR, both sides of an AND."""
    words = re.findall(r"\(|\)|[^\s()]+", expression)
    permits = {name.lower() for name in allowed}

    def either() -> bool:
        met = both()
        while words and words[0] == "OR":
            words.pop(0)
            met = both() or met
        return met

    def both() -> bool:
        met = parse_term()
        while words and words[0] == "AND":
            words.pop(0)
            met = parse_term() and met
        return met

    def parse_term() -> bool:
        if not words:
            raise AuditError(f"'{expression}' is not an SPDX expression", "Correct it in include/licences.yaml.")
        word = words.pop(0)
        if word == "(":
            met = either()
            if not words or words.pop(0) != ")":
                raise AuditError(f"'{expression}' is not an SPDX expression", "Correct it in include/licences.yaml.")
            return met
        if words and words[0] == "WITH":
            word = f"{word} {words.pop(0)} {words.pop(0)}" if len(words) > 1 else word
        return word.lower() in permits

    met = either()
    if words:
        raise AuditError(f"'{expression}' is not an SPDX expression", "Correct it in include/licences.yaml.")
    return met


def check(licences: Iterable[Licence], review: Review, allowed: Collection[str]) -> CheckResult:
    """Return a finding for every licence, of locked and bundled programs, that is unknown or not on the owner's
    list.
    """
    all_licences = list(licences)
    findings = [finding for licence in all_licences for finding in _judge(licence, allowed)]
    names = {licence.locked.name: licence.locked.version for licence in all_licences}
    inside = [(name, part) for name, parts in review.bundled.items() if name in names for part in parts]
    for name, licensed in inside:
        where = f"{licensed.name} {licensed.version} in {name} {names[name]}"
        if not SpecifierSet(licensed.versions).contains(names[name], prereleases=True):
            what = f"The programs inside {name} {names[name]} were reviewed for {licensed.versions} only"
            remedy = f"Review the programs inside it, then correct bundled.{name} in include/licences.yaml."
            findings.append(AuditFinding(f"licences/{name}-bundled", "high", what, where, remedy))
        elif not permitted(licensed.licence, allowed):
            findings.append(_outside(f"{name}-{licensed.name.lower()}", licensed.licence, where))
    return CheckResult(
        "licences", f"{len(all_licences)} locked distributions, {len(inside)} programs inside", tuple(findings)
    )


def _judge(licence: Licence, allowed: Collection[str]) -> list[AuditFinding]:
    locked = licence.locked
    where = f"requirements.txt: {locked.name}=={locked.version}"
    if licence.expression is None:
        what = f"The licence of {locked.name} {locked.version} is not known ({licence.known_from})"
        remedy = f"Read its licence files, then record it under reviewed.{locked.name} in include/licences.yaml."
        return [AuditFinding(f"licences/{locked.name}", "high", what, where, remedy)]
    if not permitted(licence.expression, allowed):
        return [_outside(locked.name, licence.expression, where)]
    return []


def _outside(subject: str, expression: str, where: str) -> AuditFinding:
    return AuditFinding(
        f"licences/{subject}",
        "high",
        f"{subject} is under {expression}, which audit.licences does not permit",
        where,
        "Replace it, or add the licence to audit.licences in rempart.yaml if your lawyers agree.",
    )


def page(licences: Iterable[Licence], review: Review) -> str:
    """Return docs/reference/licences.md without its head."""
    lines = [
        "# Licences\n",
        "**For** legal and compliance officers. **Answers** which software the platform installs, and under which",
        "licences.\n",
        "Every distribution of requirements.txt, with its licence as an SPDX expression. `rempart audit run` fails on",
        "a licence that is unknown or missing in `audit.licences` of rempart.yaml. *reviewed* means that the",
        "metadata is not clear and a person read the licence: include/licences.yaml names what was read. Native",
        "libraries that a wheel copies from its build machine have their own licences, in its `licenses` folder.\n",
        "| distribution | licence | known from |",
        "|---|---|---|",
    ]
    rows: dict[str, tuple[str, str]] = {}
    for licence in licences:
        rows[licence.locked.name] = (licence.expression or "**not known**", licence.known_from)
    lines += [f"| {name} | {expression} | {source} |" for name, (expression, source) in sorted(rows.items())]
    lines += ["\nPrograms inside a distribution:\n", "| program | in | licence | read |", "|---|---|---|---|"]
    for name, parts in sorted(review.bundled.items()):
        lines += [f"| {part.name} {part.version} | {name} | {part.licence} | {part.source} |" for part in parts]
    return "\n".join(lines) + "\n"
