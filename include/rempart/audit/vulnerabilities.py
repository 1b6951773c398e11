"""Match advisories to packages, and rate their severity. Pure.

Versions compare by PEP 440 for PyPI and as dpkg does for Debian; ranges are evaluated as in the OSV schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from rempart.audit.advisories import Advisory, Affected, Database, Package, Range, ecosystem_family, speaks_of
from rempart.audit.findings import SEVERITIES, AdvisoryAge, AuditFinding, CheckResult, Severity
from rempart.audit.packages.debian import version_key

Answer = Literal["affected", "not affected", "undecided"]
Key = Callable[[str], Any]


def key_of(ecosystem: str) -> Key:
    """Return an ecosystem's sort key of versions, which raises ValueError for an invalid version."""
    return _pep440 if ecosystem == "PyPI" else version_key


def _pep440(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion as cause:
        raise ValueError(str(cause)) from cause


def judge(affected: Affected, version: str, key: Key) -> Answer:
    """Return whether a version is affected. Undecided if neither versions nor ranges tell."""
    if version in affected.versions:
        return "affected"
    try:
        ours = key(version)
    except ValueError:
        return "undecided"
    listed = [_key_or_none(listed_version, key) for listed_version in affected.versions]
    if ours in [listed_version for listed_version in listed if listed_version is not None]:
        return "affected"
    ranges = [affected_range for affected_range in affected.ranges if affected_range.type in ("ECOSYSTEM", "SEMVER")]
    if not ranges and not affected.versions:
        return "undecided"  # commits of a repository alone, or nothing at all
    try:
        if any(_inside(affected_range, ours, key) for affected_range in ranges):
            return "affected"
    except ValueError:
        return "undecided"
    return "not affected" if ranges or None not in listed else "undecided"


def _key_or_none(version: str, key: Key) -> Any:
    try:
        return key(version)
    except ValueError:
        return None


def _inside(span: Range, ours: Any, key: Key) -> bool:
    """Return whether a version is inside a range: the last event at or before it decides; `introduced` outweighs
    `fixed`.
    """
    limits = [event.limit for event in span.events if event.limit]
    if limits and "*" not in limits and not any(ours < key(limit) for limit in limits):
        return False
    inside = any(event.introduced == "0" for event in span.events)
    steps: list[tuple[Any, int, bool]] = []
    for event in span.events:
        if event.introduced and event.introduced != "0":
            steps.append((key(event.introduced), 1, True))
        if event.fixed:
            steps.append((key(event.fixed), 0, False))
        if event.last_affected and ours > key(event.last_affected):
            steps.append((key(event.last_affected), 0, False))
    for at, _, state in sorted(steps, key=lambda step: (step[0], step[1])):
        if at <= ours:
            inside = state
    return inside


def fixed_in(affected: Affected, version: str, key: Key) -> str | None:
    """Return the lowest higher version that an advisory calls fixed."""
    try:
        ours = key(version)
        fixes = [
            event.fixed
            for affected_range in affected.ranges
            if affected_range.type != "GIT"
            for event in affected_range.events
            if event.fixed
        ]
        return min((fix for fix in fixes if key(fix) > ours), key=key, default=None)
    except ValueError:
        return None


_WORDS: dict[str, Severity] = {
    "critical": "critical",
    "high": "high",
    "moderate": "medium",
    "medium": "medium",
    "low": "low",
    "unimportant": "info",
}
_METRICS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
}


def cvss3_score(vector: str) -> float | None:
    """Return the base score of a CVSS 3.0 or 3.1 vector; None for other text.

    Source: https://www.first.org/cvss/v3.1/specification-document, section 7.
    """
    if not re.match(r"CVSS:3\.[01]/", vector):
        return None
    metric = dict(part.partition(":")[::2] for part in vector.split("/")[1:])
    try:
        changed = {"C": True, "U": False}[metric["S"]]
        privileges = {"N": 0.85, "L": 0.68 if changed else 0.62, "H": 0.5 if changed else 0.27}[metric["PR"]]
        reach = 8.22 * privileges
        for name in ("AV", "AC", "UI"):
            reach *= _METRICS[name][metric[name]]
        kept = 1.0
        for name in ("C", "I", "A"):
            kept *= 1 - _METRICS["C"][metric[name]]
    except KeyError:
        return None
    base = 1 - kept
    impact = 7.52 * (base - 0.029) - 3.25 * (base - 0.02) ** 15 if changed else 6.42 * base
    if impact <= 0:
        return 0.0
    tenths = round(min((1.08 if changed else 1.0) * (impact + reach), 10) * 100000)
    return (tenths // 10000 + (tenths % 10000 > 0)) / 10


def severity(advisory: Advisory, affected: Affected) -> Severity | None:
    """Return an advisory's own severity: a word, else its CVSS 3 score, else None."""
    for says in (affected.ecosystem_specific, affected.database_specific, advisory.database_specific):
        for field in ("severity", "urgency"):
            if (word := str((says or {}).get(field, "")).lower()) in _WORDS:
                return _WORDS[word]
    scores = [
        score for rating in (*affected.severity, *advisory.severity) if (score := cvss3_score(rating.score)) is not None
    ]
    if not scores:
        return None
    worst = max(scores)
    steps: tuple[tuple[float, Severity], ...] = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low"))
    return next((name for least, name in steps if worst >= least), "info")


@dataclass(frozen=True)
class Match:
    """An advisory that affects, or may affect, a package."""

    package: Package
    advisory: Advisory
    answer: Answer
    severity: Severity | None
    fixed: str | None

    @property
    def names(self) -> frozenset[str]:
        """Return the advisory's names. A Debian entry for one upstream advisory is the same vulnerability."""
        upstream = self.advisory.upstream if len(self.advisory.upstream) == 1 else []
        return frozenset([self.advisory.id, *self.advisory.aliases, *upstream])


def matches(database: Database, packages: Iterable[Package]) -> list[Match]:
    """Yield every affected or undecided pair of package and advisory."""
    by_name: dict[str, list[tuple[Advisory, Affected]]] = {}
    for advisory in database.advisories:
        for affected in advisory.affected:
            if affected.package:
                by_name.setdefault(canonicalize_name(affected.package.name), []).append((advisory, affected))
    found = []
    for package in packages:
        key = key_of(package.ecosystem)
        concerned = by_name.get(canonicalize_name(package.name), [])
        for advisory, affected in concerned:
            if speaks_of(affected, package.ecosystem, package.name):
                answer = judge(affected, package.version, key)
                if answer != "not affected":
                    rated, fixed = severity(advisory, affected), fixed_in(affected, package.version, key)
                    found.append(Match(package, advisory, answer, rated, fixed))
    return found


def merged(all_matches: Sequence[Match]) -> list[list[Match]]:
    """Merge matches of one package whose advisories share a name."""
    groups: dict[Package, list[tuple[set[str], list[Match]]]] = {}
    for match in all_matches:
        others = groups.setdefault(match.package, [])
        names, together = set(match.names), [match]
        for group in [other for other in others if other[0] & match.names]:
            others.remove(group)
            names |= group[0]
            together = [*group[1], *together]
        others.append((names, together))
    return [together for others in groups.values() for _, together in others]


def _finding(group: Sequence[Match]) -> AuditFinding:
    package = group[0].package
    names = sorted(
        {name for match in group for name in match.names}, key=lambda name: (not name.startswith("CVE-"), name)
    )
    name, *others = names
    sure = [match for match in group if match.answer == "affected"]
    rated = [match.severity for match in group if match.severity]
    worst: Severity = min(rated, key=SEVERITIES.index) if rated else "medium"
    summary = next(
        (m.advisory.summary or m.advisory.details for m in group if m.advisory.summary or m.advisory.details), ""
    )
    fixes = [match.fixed for match in group if match.fixed]
    remedy = (
        f"Update to {max(fixes, key=key_of(package.ecosystem))} or later." if fixes else ("No fixed version is known.")
    )
    if not sure:
        remedy = f"Read {name}: its versions cannot be compared with {package.version}."
    return AuditFinding(
        f"vulnerabilities/{name}/{package.name}",
        worst if sure else "medium",
        f"{package.name} {package.version}{'' if sure else ' may be affected'}: {summary or 'no summary'}"
        + ("" if rated else " (not rated: counted as medium)"),
        package.where + (f"; also known as {', '.join(others)}" if others else ""),
        remedy + " Otherwise explain under audit.exceptions why it does no harm here.",
        tuple(f"vulnerabilities/{other}/{package.name}" for other in others),
    )


def ages(database: Database, now: datetime) -> list[AdvisoryAge]:
    """Return the age of the database for each ecosystem with a dated entry."""
    return [
        AdvisoryAge(family, database.entries[family], newest, max(0, (now - newest).days))
        for family, newest in sorted(database.newest.items())
    ]


def not_checked(what: str, where: str, remedy: str, subject: str = "database") -> AuditFinding:
    """Return a finding if the database is missing or lacks an ecosystem, which is not "no vulnerabilities"."""
    return AuditFinding(f"vulnerabilities/not-checked-{subject}", "medium", what, where, remedy)


_MIRROR = "Mirror the OSV project's export into your network and name it in audit.advisories (docs/how-to/audit.md)."


def check(database: Database | None, packages: Sequence[Package], max_age: timedelta, now: datetime) -> CheckResult:
    """Return findings about packages, and about the database itself. None: no database was given."""
    where = "rempart.yaml: audit.advisories"
    if database is None:
        what = (
            f"Known vulnerabilities of {len(packages)} packages were not checked, because there is no advisory database"
        )
        return CheckResult("vulnerabilities", "nothing", (not_checked(what, where, _MIRROR),))
    findings = [_finding(group) for group in merged(matches(database, packages))]
    of_family = partial(_family_findings, database, packages, max_age, now)
    for family in sorted({ecosystem_family(package.ecosystem) for package in packages}):
        findings += of_family(family)
    if database.unreadable:
        shown = ", ".join(database.unreadable[:5])
        what = f"{len(database.unreadable)} entries of the advisory database cannot be read, such as {shown}"
        findings.append(
            AuditFinding("vulnerabilities/unreadable", "medium", what, database.path, "Mirror the database again.")
        )
    looked = f"{len(packages)} packages, {sum(database.entries.values())} advisories ({database.withdrawn} withdrawn)"
    return CheckResult("vulnerabilities", looked, tuple(findings))


def _family_findings(
    database: Database, packages: Sequence[Package], max_age: timedelta, now: datetime, family: str
) -> list[AuditFinding]:
    newest = database.newest.get(family)
    count = sum(ecosystem_family(package.ecosystem) == family for package in packages)
    if newest is None:
        what = (
            f"Known vulnerabilities of {count} {family} packages were not checked, because the database covers "
            f"no {family} packages"
        )
        return [not_checked(what, database.path, _MIRROR, family.lower())]
    if now - newest > max_age:
        what = f"The newest {family} advisory is {(now - newest).days} days old, so later advisories are missing"
        return [
            AuditFinding(
                f"vulnerabilities/stale-{family.lower()}", "medium", what, database.path, "Mirror the database again."
            )
        ]
    return []


def not_covered(programs: Sequence[str], libraries: int, where: str) -> AuditFinding | None:
    """Return findings about bundled parts that no PyPI advisory names: programs by name, native libraries by number."""
    parts = [*programs, *([f"{libraries} native libraries"] if libraries else [])]
    if not parts:
        return None
    return not_checked(
        f"Advisories for PyPI do not cover the programs inside wheels: {', '.join(parts)}",
        where,
        "Compare the versions with the advisories of PostgreSQL and SeaweedFS yourself (or use your own servers "
        "as external services). Then accept this finding until the date of your next check.",
        "inside-wheels",
    )
