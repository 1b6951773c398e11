"""Build an audit's result: findings with severities, accepted exceptions, and the verdict.

Every check names what it examined. What it could not examine is a finding, so an audit never passes without looking.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Literal

from rempart.settings.sections import AuditException

Severity = Literal["critical", "high", "medium", "low", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low", "info")
"""From the worst to the mildest."""


@dataclass(frozen=True)
class Acceptance:
    """Acceptance of a finding: by whom, why, until when."""

    owner: str
    reason: str
    expires: date


@dataclass(frozen=True)
class AuditFinding:
    """One thing to know or to do. `id` is `check/subject` and stays the same from run to run."""

    id: str
    severity: Severity
    what: str
    where: str
    remedy: str
    aliases: tuple[str, ...] = ()
    """Other ids under which an exception may name it: an advisory has several names."""
    accepted: Acceptance | None = None


@dataclass(frozen=True)
class CheckResult:
    """One check: what it looked at, and what it found."""

    check: str
    looked_at: str
    findings: tuple[AuditFinding, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A check as the report lists it; its findings are those whose id begins with its name."""

    check: str
    looked_at: str


@dataclass(frozen=True)
class BillOfMaterials:
    """A CycloneDX file that the audit wrote."""

    path: str
    sha256: str
    components: int


@dataclass(frozen=True)
class AdvisoryAge:
    """Age of the offline advisory database for one ecosystem, in days since its newest entry."""

    ecosystem: str
    entries: int
    newest: datetime
    days: int


@dataclass(frozen=True)
class Report:
    """The result. Exit code 0: nothing above low; 1: medium; 2: high or critical. Accepted findings do not count."""

    audited_at: datetime
    rempart: str
    exit_code: Literal[0, 1, 2]
    counts: dict[Severity, int]
    checks: tuple[Checked, ...]
    findings: tuple[AuditFinding, ...]
    accepted: tuple[AuditFinding, ...] = ()
    sboms: tuple[BillOfMaterials, ...] = ()
    advisories: tuple[AdvisoryAge, ...] = ()
    advisories_path: str | None = None
    format: Literal[1] = field(default=1)


def ordered(findings: Iterable[AuditFinding]) -> list[AuditFinding]:
    """Return the findings, the worst first, then by id."""
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.id))


def exit_code(findings: Iterable[AuditFinding]) -> Literal[0, 1, 2]:
    """Return 0 for nothing above low, 1 for medium, 2 for high or critical. Accepted findings do not count."""
    counted = {finding.severity for finding in findings if finding.accepted is None}
    if counted & {"critical", "high"}:
        return 2
    return 1 if "medium" in counted else 0


def settle(findings: Sequence[AuditFinding], exceptions: Sequence[AuditException], on: date) -> list[AuditFinding]:
    """Mark what is accepted on this day. An expired exception accepts nothing and is itself a finding."""
    valid = [exception for exception in exceptions if on <= exception.expires]
    settled: list[AuditFinding] = []
    for finding in findings:
        names = {finding.id, *finding.aliases}
        exception = next((valid_exception for valid_exception in valid if valid_exception.finding in names), None)
        accepted = Acceptance(exception.owner, exception.reason, exception.expires) if exception else None
        settled.append(replace(finding, accepted=accepted))
    known = {name for finding in findings for name in (finding.id, *finding.aliases)}
    for exception in exceptions:
        if on > exception.expires:
            settled.append(_expired(exception))
        elif exception.finding not in known:
            settled.append(_unused(exception))
    return settled


def _expired(exception: AuditException) -> AuditFinding:
    return AuditFinding(
        f"exceptions/{exception.finding}",
        "medium",
        f"The exception for {exception.finding} expired on {exception.expires}; the finding counts again",
        "rempart.yaml: audit.exceptions",
        f"{exception.owner} decides again: resolve the finding, or set a new reason and date.",
    )


def _unused(exception: AuditException) -> AuditFinding:
    return AuditFinding(
        f"exceptions/{exception.finding}",
        "info",
        f"An exception names {exception.finding}, but there is no such finding",
        "rempart.yaml: audit.exceptions",
        "Remove the exception, or correct the finding's name.",
    )


def report(
    checks: Sequence[CheckResult],
    exceptions: Sequence[AuditException],
    *,
    at: datetime,
    version: str,
    sboms: Sequence[BillOfMaterials] = (),
    advisories: Sequence[AdvisoryAge] = (),
    advisories_path: str | None = None,
) -> Report:
    """Return the verdict over every check. `at` is aware."""
    found = [finding for check in checks for finding in check.findings]
    settled = ordered(settle(found, exceptions, at.date()))
    counting = tuple(finding for finding in settled if finding.accepted is None)
    counts = Counter(finding.severity for finding in counting)
    return Report(
        at,
        version,
        exit_code(counting),
        {severity: counts[severity] for severity in SEVERITIES},
        tuple(Checked(check.check, check.looked_at) for check in checks),
        counting,
        tuple(finding for finding in settled if finding.accepted),
        tuple(sboms),
        tuple(advisories),
        advisories_path,
    )


_MEANING = {0: "no finding above low", 1: "the highest severity is medium", 2: "high or critical"}


def readable(audit_report: Report) -> str:
    """Yield the report for a terminal."""
    lines = [f"rempart audit run, {audit_report.audited_at:%Y-%m-%d %H:%M} UTC, rempart {audit_report.rempart}", ""]
    width = max(len(check.check) for check in audit_report.checks)
    lines += [
        f"  {check.check:<{width}}  {_verdict(check, audit_report)}; examined: {check.looked_at}"
        for check in audit_report.checks
    ]
    for sbom in audit_report.sboms:
        lines.append(f"  SBOM: {sbom.path} ({sbom.components} components, sha256 {sbom.sha256[:16]}...)")
    if any(check.check == "vulnerabilities" for check in audit_report.checks):
        lines.append("  advisories: " + _advisories(audit_report))
    for title, findings in (("Findings", audit_report.findings), ("Accepted, not counted", audit_report.accepted)):
        if findings:
            lines += ["", f"{title}:"]
        for finding in findings:
            lines.append(f"\n  {finding.severity.upper():<9}{finding.id}")
            lines += [*_wrapped(finding.what), *_wrapped(f"where: {finding.where}")]
            if by := finding.accepted:
                lines += _wrapped(f"accepted by {by.owner} until {by.expires}: {by.reason}")
            else:
                lines += _wrapped(finding.remedy, "        -> ")
    counted = ", ".join(f"{number} {severity}" for severity, number in audit_report.counts.items() if number)
    lines += [
        "",
        f"{counted or 'no findings'}; exit code {audit_report.exit_code} ({_MEANING[audit_report.exit_code]})",
    ]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, first: str = " " * 11) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=first, subsequent_indent=" " * 11, break_on_hyphens=False)


def _verdict(check: Checked, audit_report: Report) -> str:
    def mine(findings: Iterable[AuditFinding]) -> list[AuditFinding]:
        return [finding for finding in findings if finding.id.startswith(f"{check.check}/")]

    counted = Counter(finding.severity for finding in mine(audit_report.findings))
    parts = [f"{counted[severity]} {severity}" for severity in SEVERITIES if counted[severity]]
    known = len(mine(audit_report.accepted))
    return ", ".join(parts + ([f"{known} accepted"] if known else [])) or "ok"


def _advisories(audit_report: Report) -> str:
    if not audit_report.advisories:
        return (
            "not checked"
            if audit_report.advisories_path is None
            else f"no usable file in {audit_report.advisories_path}"
        )
    return f"{audit_report.advisories_path}: " + "; ".join(
        f"{age.ecosystem} {age.entries} entries, the newest is {age.days} days old ({age.newest:%Y-%m-%d})"
        for age in audit_report.advisories
    )
