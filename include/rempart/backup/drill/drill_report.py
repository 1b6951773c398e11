"""Build the report of a drill: its findings, and the provisions that they support. Pure: equal evidence gives equal
reports.

A report uses only the ledger, up to the record of its drill. Each line names its checks and figures, and cites records
by number and hash. The report says what the evidence supports; only the entity and its supervisors can judge more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from rempart.backup.drill.checks import RestoreCheck
from rempart.backup.drill.drill_profiles import Profile, Requirement, Topic
from rempart.counts import counted
from rempart.ledger.port import Evidence
from rempart.settings.retention_rules import Keep

FORM = 1
YEAR = timedelta(days=365)
DrillFinding = Literal["supports", "does not support", "not shown"]
_CHECKS: dict[Topic, str] = {
    "databases": r"database .+ is restored with|.+ are equal in content$|.+: no row is lost$",
    "objects": r"sealed objects open|MLflow's artifacts equal",
    "keys": r"the platform's secrets open|Airflow's encrypted connections",
    "integrity": r"the manifest equals|the chain of restore points|the ledger verifies|no referenced object",
    "service": r"the restored MLflow starts|champion .+ predicts|online features of|Airflow's restored database",
    "removed": r"the sandbox is removed",
    "rpo": r"RPO: ",
    "rto": r"RTO: ",
}


@dataclass(frozen=True)
class Citation:
    """A record of the ledger: its number, its SHA-256 (None for a record from before the chain), and what it
    records.
    """

    record: int
    sha256: str | None
    what: str


@dataclass(frozen=True)
class ProfileLine:
    """One provision, and whether the evidence supports it. `because` names missing or failed evidence."""

    reference: str
    asks: str
    finding: DrillFinding
    because: str
    checks: tuple[str, ...]
    figures: tuple[str, ...]
    evidence: tuple[Citation, ...]
    outside: str


@dataclass(frozen=True)
class MappedProfile:
    """The lines of a profile, and the topics that it does not cover. `as_of`: the day on which the source was read."""

    profile: str
    title: str
    source: str
    as_of: date
    lines: tuple[ProfileLine, ...]
    not_covered: tuple[str, ...]


@dataclass(frozen=True)
class DrillReport:
    """One drill. `facts` are figures by name, for people."""

    form: int
    point: str
    scenario: str
    ok: bool
    proved: bool
    began: str
    recorded: str
    version: str
    evidence: tuple[Citation, ...]
    facts: dict[str, str]
    checks: tuple[RestoreCheck, ...]
    profiles: tuple[MappedProfile, ...]


@dataclass(frozen=True)
class Cited:
    """A record and its hash."""

    record: Evidence
    sha256: str | None

    def cite(self, what: str) -> Citation:
        return Citation(self.record.seq, self.sha256, f"{what}, {self.record.at:%Y-%m-%d %H:%M} UTC")


@dataclass(frozen=True)
class Grounds:
    """The records that a report uses, none newer than the drill's.

    `drills` are those of the past year, this one included, newest first. `attack` is the newest of them that passed the
    scenario cyber-attack. `switchover` is the newest completed switchover and `restore` the newest complete restore of
    that year.
    """

    drill: Cited
    point: Cited | None
    drills: tuple[Evidence, ...]
    attack: Cited | None
    switchover: Cited | None
    restore: Cited | None


@dataclass(frozen=True)
class _TopicProof:
    """Evidence for a topic: whether it is shown (None: not run or missing), and by which checks and records."""

    ok: bool | None
    why: str = ""
    checks: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    evidence: tuple[Citation, ...] = ()


def report(grounds: Grounds, profiles: Iterable[Profile]) -> DrillReport:
    """Return the report of a drill for these profiles."""
    record, body = grounds.drill.record, grounds.drill.record.body
    checks = _checks(body)
    own = [grounds.drill.cite("drill")] + ([grounds.point.cite("restore point")] if grounds.point else [])
    return DrillReport(
        FORM,
        record.subject,
        str(body.get("scenario", "routine")),
        body["ok"] is True,
        body.get("proved", body["ok"]) is True,
        str(body.get("began", "")),
        record.at.isoformat(timespec="seconds"),
        str(body.get("version", "")),
        tuple(own),
        dict(_facts(body)),
        checks,
        tuple(_mapped(profile, grounds, checks) for profile in profiles),
    )


def _checks(body: Mapping[str, Any]) -> tuple[RestoreCheck, ...]:
    return tuple(RestoreCheck(str(check["what"]), check["ok"], str(check["detail"])) for check in body["checks"])


def _facts(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return figures of the drill by name. Figures that older records lack are left out."""
    objectives = body.get("objectives", {})
    for name, label in (("rpo", "recovery point"), ("rto", "recovery time")):
        if (measured := body.get(f"{name}_seconds")) is not None:
            wanted = f", objective {objectives[name]} s" if name in objectives else ""
            yield f"{label} ({name.upper()})", f"{measured:.0f} s{wanted}"
    if "databases" in body:
        rows = sum(body["databases"].values())
        yield "databases", f"{len(body['databases'])}, {counted(rows, 'row')}: {', '.join(sorted(body['databases']))}"
    if "objects" in body:
        yield "objects", f"{body['objects']}, {body['object_bytes']:,} bytes"
    if "sites" in body:
        for role, site in sorted(body["sites"].items()):
            yield f"{role} site", f"{site['name']}: operator {site['operator']}, region {site['region']}"
    if body.get("locked_until"):
        yield "objects locked until", str(body["locked_until"])
    if "keep" in body:
        yield "restore points kept", _keep(body["keep"])
    if "recipients" in body:
        yield "recipients of escrow", str(body["recipients"])


def _keep(keep: Mapping[str, int]) -> str:
    return ", ".join(f"{keep[name]} {name}" for name in Keep.periods() if name in keep)


def _mapped(profile: Profile, grounds: Grounds, checks: Sequence[RestoreCheck]) -> MappedProfile:
    lines = tuple(_line(requirement, grounds, checks) for requirement in profile.requirements)
    return MappedProfile(profile.name, profile.title, profile.source, profile.as_of, lines, profile.not_covered)


def _line(requirement: Requirement, grounds: Grounds, checks: Sequence[RestoreCheck]) -> ProfileLine:
    shown = [_show(topic, grounds, checks) for topic in requirement.shown_by]
    failed, absent = (
        [check.why for check in shown if check.ok is False],
        [check.why for check in shown if check.ok is None],
    )
    finding: DrillFinding = "does not support" if failed else "not shown" if absent else "supports"
    cited = {
        entry.record: entry for entry in (grounds.drill.cite("drill"), *(c for part in shown for c in part.evidence))
    }
    return ProfileLine(
        requirement.reference,
        requirement.asks,
        finding,
        "; ".join([*failed, *absent]) or "every check and record that supports it exists and passed",
        tuple(dict.fromkeys(name for check in shown for name in check.checks)),
        tuple(dict.fromkeys(figure for check in shown for figure in check.figures)),
        tuple(cited.values()),
        requirement.outside,
    )


def topics(what: str) -> tuple[Topic, ...]:
    """Return the topics that a drill's check shows, by the check's name."""
    return tuple(topic for topic, pattern in _CHECKS.items() if re.match(pattern, what))


def _show(topic: Topic, grounds: Grounds, checks: Sequence[RestoreCheck]) -> _TopicProof:
    if topic in _CHECKS:
        return _of_checks(topic, [check for check in checks if topic in topics(check.what)])
    body = grounds.drill.record.body
    if topic == "drills of a year":
        passed = sum(drill.body["ok"] is True for drill in grounds.drills)
        figure = f"drills in the 365 days up to this one: {len(grounds.drills)}, passed: {passed}"
        return _TopicProof(True if passed else None, "no drill passed within a year", figures=(figure,))
    if topic == "attack drills":
        return _of_record(grounds.attack, "drill of the scenario cyber-attack", "passed within a year")
    if topic == "switchovers":
        return _of_record(grounds.switchover, "move of the active site", "was completed within a year")
    if topic == "restores elsewhere":
        return _of_record(grounds.restore, "restore of the whole platform", "passed within a year")
    if topic == "independent site":
        return _independent(body)
    if topic == "locks":
        if not (until := body.get("locked_until")):
            return _TopicProof(None, "no lock of an object is on record")
        return _TopicProof(True, figures=(f"objects locked until {until}",))
    if not (keep := body.get("keep")):
        return _TopicProof(None, "no retention rules are on record")
    return _TopicProof(True, figures=(f"restore points kept: {_keep(keep)}",))


def _of_checks(topic: Topic, restore_checks: Sequence[RestoreCheck]) -> _TopicProof:
    """Return shown if a check ran and none failed."""
    names = tuple(f"{check.what}: {_MARKS[check.ok]} ({check.detail})" for check in restore_checks)
    if failed := [check.what for check in restore_checks if check.ok is False]:
        return _TopicProof(False, f"failed: {', '.join(failed)}", names)
    return _TopicProof(
        True if any(check.ok for check in restore_checks) else None, f"no check covered '{topic}'", names
    )


_MARKS = {True: "passed", False: "failed", None: "not run"}


def _of_record(found: Cited | None, what: str, when: str) -> _TopicProof:
    if found is None:
        return _TopicProof(None, f"no {what} {when}")
    return _TopicProof(True, evidence=(found.cite(what),))


def _independent(body: Mapping[str, Any]) -> _TopicProof:
    sites = body.get("sites", {})
    if "backup" not in sites:
        return _TopicProof(None, "the drill's record does not name the sites")
    backup, source = sites["backup"], sites["source"]
    figures = tuple(
        f"{site['name']}: operator {site['operator']}, region {site['region']}" for site in (source, backup)
    )
    if backup.get("independent_of") != source["name"]:
        missing = f"rempart.yaml does not declare '{backup['name']}' independent_of '{source['name']}'"
        return _TopicProof(None, missing, figures=figures)
    return _TopicProof(True, figures=(*figures, f"declared: {backup['name']} is independent of {source['name']}"))
