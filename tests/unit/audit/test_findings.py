"""The verdict: which findings count, which are accepted and until when, and the exit code."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.audit.findings import SEVERITIES, AuditFinding, CheckResult, exit_code, readable, report, settle
from rempart.settings.sections import AuditException

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def finding(severity: str = "high", name: str = "ports/mlflow", aliases: tuple[str, ...] = ()) -> AuditFinding:
    return AuditFinding(name, severity, "a door is open", "here", "close it", aliases)  # type: ignore[arg-type] # from a strategy


def exception(name: str = "ports/mlflow", expires: date = TODAY) -> AuditException:
    return AuditException(finding=name, owner="platform team", reason="behind a proxy", expires=expires)


findings = st.lists(
    st.builds(finding, st.sampled_from(SEVERITIES), st.sampled_from(["ports/a", "ports/b", "policy/c", "lock/d"]))
)


@given(findings, st.sampled_from(SEVERITIES))
def test_a_further_finding_never_makes_the_verdict_milder(found: list[AuditFinding], severity: str) -> None:
    assert exit_code([*found, finding(severity)]) >= exit_code(found)


@given(findings)
def test_the_exit_code_tells_the_worst(found: list[AuditFinding]) -> None:
    worst = min((SEVERITIES.index(audit_finding.severity) for audit_finding in found), default=len(SEVERITIES))
    assert exit_code(found) == {0: 2, 1: 2, 2: 1}.get(worst, 0)


@given(findings, st.dates(date(2026, 1, 1), date(2027, 12, 31)))
def test_nothing_is_lost_and_only_named_findings_are_accepted(found: list[AuditFinding], expires: date) -> None:
    settled = settle(found, [exception("ports/a", expires)], TODAY)
    assert [judged.id for judged in settled[: len(found)]] == [audit_finding.id for audit_finding in found]
    for judged in settled:
        assert (judged.accepted is not None) == (judged.id == "ports/a" and expires >= TODAY)


def test_an_exception_holds_through_its_last_day_and_then_counts_again_and_is_told() -> None:
    assert report([CheckResult("ports", "a port", (finding(),))], [exception()], at=NOW, version="1").exit_code == 0
    later = report([CheckResult("ports", "a port", (finding(),))], [exception()], at=NOW + timedelta(1), version="1")
    assert later.exit_code == 2
    assert [judged.id for judged in later.findings] == ["ports/mlflow", "exceptions/ports/mlflow"]
    assert "platform team decides again" in later.findings[1].remedy


def test_an_advisory_may_be_excepted_under_any_of_its_names() -> None:
    found = finding("critical", "vulnerabilities/CVE-1/x", ("vulnerabilities/GHSA-1/x",))
    settled = settle([found], [exception("vulnerabilities/GHSA-1/x")], TODAY)
    assert len(settled) == 1 and settled[0].accepted and settled[0].accepted.owner == "platform team"


def test_an_exception_that_matches_nothing_is_told() -> None:
    (only,) = settle([], [exception("ports/typo")], TODAY)
    assert only.severity == "info" and "ports/typo, but there is no such finding" in only.what


def test_the_readable_report_says_what_was_looked_at_found_and_accepted() -> None:
    checks = [
        CheckResult("ports", "3 sockets", (finding(), finding("low", "ports/other"))),
        CheckResult("policy", "4 rules"),
        CheckResult("vulnerabilities", "nothing"),
    ]
    text = readable(report(checks, [exception()], at=NOW, version="1"))
    assert "ports            1 low, 1 accepted; examined: 3 sockets" in text
    assert "policy           ok; examined: 4 rules" in text
    assert "accepted by platform team until 2026-11-24: behind a proxy" in text
    assert "advisories: not checked" in text
    assert text.endswith("1 low; exit code 0 (no finding above low)\n")
