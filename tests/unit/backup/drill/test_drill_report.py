"""The report of a drill: each line cites its evidence, says `supports` and no more, and names topics outside."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rempart.backup.drill import drill_page
from rempart.backup.drill import drill_report as reports
from rempart.backup.drill.checks import within
from rempart.backup.drill.drill_profiles import FINANCIAL, NIS2, PROFILES
from rempart.backup.drill.drill_report import DrillReport, topics
from rempart.cli import app
from rempart.errors import BackupError
from rempart.flows.drill import drill_report
from rempart.flows.drill.drill_verdict import RPO, RTO
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import load
from tests.switchovers import in_memory

POINT = "20261125T120000Z-abcdef"
CHECKS = [
    "the manifest equals its record",
    "the chain of restore points attests it",
    "no referenced object is missing",
    "database airflow is restored with the rows on record",
    "database ledger is restored with the rows on record",
    "evidence are equal in content",
    "DAG runs: no row is lost",
    "sealed objects open to the recorded content, 50 of 181",
    "the platform's secrets open and contain Airflow's key",
    "MLflow's artifacts equal their record",
    "the restored registry names the champions on record",
    "the restored MLflow starts",
    "champion hotel_bookings version 1 predicts as before",
    "Airflow's encrypted connections and variables can be read",
    "the ledger verifies up to the record that the point names",
    "online features of hotel_bookings.agent equal the newest offline ones",
    "Airflow's restored database migrates to this release",
    "the sandbox is removed",
    RPO,
    RTO,
]


def body(*, failed: str = "", absent: str = "", scenario: str = "routine", independent: bool = False) -> dict[str, Any]:
    outcome = {failed: False, absent: None}
    checks = [{"what": what, "ok": outcome.get(what, True), "detail": "as it was"} for what in CHECKS]
    return {
        "ok": not failed,
        "proved": not failed,
        "point_id": POINT,
        "scenario": scenario,
        "rto_seconds": 31.5,
        "rpo_seconds": 600.0,
        "began": "2026-11-25T12:10:00+00:00",
        "checks": checks,
        "version": "0.1.0",
        "objectives": {"rpo": 3600, "rto": 1800},
        "keep": {"hourly": 24, "daily": 14},
        "recipients": 2,
        "databases": {"airflow": 900, "ledger": 40},
        "objects": 181,
        "object_bytes": 44_000_000,
        "locked_until": "2027-12-02T12:00:00+00:00",
        "sites": {
            "source": {"name": "primary", "operator": "one", "region": "local-1", "independent_of": None},
            "backup": {
                "name": "haven", "operator": "two", "region": "local-2",
                "independent_of": "primary" if independent else None,
            },
        },
    }  # fmt: skip


def reported(ledger: MemoryLedger | None = None, **how: Any) -> DrillReport:
    ledger = ledger or MemoryLedger()
    ledger.append("restore-point", POINT, {"site": "haven", "manifest_sha256": "0" * 64})
    record = ledger.append("drill", POINT, body(**how))
    return drill_report.make(ledger, record, list(PROFILES.values()))


def finding(found: DrillReport, reference: str) -> str:
    return next(line.finding for profile in found.profiles for line in profile.lines if line.reference == reference)


def test_every_line_cites_a_record_by_number_and_hash_and_says_what_is_outside() -> None:
    ledger = MemoryLedger()
    found = reported(ledger)
    hashes = {entry.seq: entry.hash for entry in ledger.entries()}
    lines = [line for profile in found.profiles for line in profile.lines]
    assert {line.reference for line in lines if "DORA" in line.reference} == {
        f"DORA, Article {number}" for number in ("11(6)", "12(2)", "12(3)", "12(6)", "12(7)")
    }
    for line in lines:
        assert line.evidence and all(hashes[entry.record] == entry.sha256 for entry in line.evidence)
        assert line.outside and line.asks and (line.checks or line.figures)
    assert all(profile.not_covered and profile.source and profile.as_of for profile in found.profiles)
    assert all("risis" in " ".join(profile.not_covered) for profile in found.profiles)


def test_what_the_evidence_supports() -> None:
    found = reported()
    assert finding(found, "DORA, Article 12(2)") == finding(found, "DORA, Article 12(7)") == "supports"
    assert finding(found, "DORA, Article 12(6)") == finding(found, "Annex, 4.2.6") == "supports"
    # nobody played an attack, moved the site, or declared the sites independent
    assert finding(found, "DORA, Article 11(6)") == finding(found, "DORA, Article 12(3)") == "not shown"
    assert finding(found, "Annex, 4.2.2(c)") == "not shown"
    assert finding(reported(independent=True), "Annex, 4.2.2(c)") == "supports"


def test_an_attack_and_a_switchover_on_record_support_article_11_6() -> None:
    ledger = MemoryLedger()
    ledger.append("drill", POINT, body(scenario="cyber-attack"))
    ledger.append("failover", "switchover", {"step": "resume", "ok": True})
    found = reported(ledger)
    line = found.profiles[0].lines[0]
    assert line.finding == "supports" and {entry.record for entry in line.evidence} >= {2, 3}
    assert any("this one: 2, passed: 2" in figure for figure in line.figures)


def test_a_restore_beside_that_was_removed_again_is_on_record_and_is_no_restore_of_the_whole() -> None:
    ledger = MemoryLedger()
    ledger.append("restore", POINT, {"ok": True, "aside": "inquiry", "removed": ["mlflow_inquiry"]})
    assert not any(entry.record == 1 for line in reported(ledger).profiles[0].lines for entry in line.evidence)


def test_a_drill_names_its_checks_as_the_report_looks_for_them() -> None:
    root = Path(reports.__file__).parents[2]
    rooms = (root / "backup" / "drill", root / "flows" / "drill", root / "flows" / "restore")
    files = [file for room in rooms for file in room.glob("*.py") if file != Path(reports.__file__)]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    for pattern in (kind for kinds in reports._CHECKS.values() for kind in kinds.split("|")):
        assert all(words in source for words in pattern.rstrip("$").split(".+")), f"no check is called {pattern}"


@given(st.sampled_from(CHECKS))
def test_a_failed_check_supports_nothing_that_rests_on_it(failed: str) -> None:
    for line in (line for profile in reported(failed=failed).profiles for line in profile.lines):
        if any(name.startswith(f"{failed}: failed") for name in line.checks):
            assert line.finding == "does not support" and failed in line.because


def test_an_objective_that_was_not_measured_supports_nothing() -> None:
    assert finding(reported(absent=RTO), "DORA, Article 12(6)") == "not shown"


def test_a_drill_that_trusted_no_manifest_is_reported() -> None:
    ledger = MemoryLedger()
    short = {"ok": False, "checks": [{"what": CHECKS[0], "ok": False, "detail": "altered"}], "rto_seconds": 1.0}
    found = drill_report.make(ledger, ledger.append("drill", POINT, short), [FINANCIAL, NIS2])
    assert not found.ok and {line.finding for profile in found.profiles for line in profile.lines} <= {
        "does not support",
        "not shown",
    }


def test_nothing_is_ever_called_compliant() -> None:
    for found in (reported(), reported(failed=CHECKS[3]), reported(independent=True)):
        text = drill_report.as_json(found) + drill_page.page(found)
        assert not re.search("complian|conform|certif", text, re.I)
    assert {line.finding for profile in reported().profiles for line in profile.lines} <= {
        "supports",
        "does not support",
        "not shown",
    }


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [
            str(value) for name, value in attributes if name in ("src", "href", "action") or name[:2] == "on"
        ]


def test_the_page_runs_and_loads_nothing_and_escapes_what_it_is_given() -> None:
    hostile = dataclasses.replace(reported(), point='<script>alert("x")</script>', facts={"<img src=x>": "&"})
    page = _Page()
    page.feed(drill_page.page(hostile))
    assert not page.tags & {"script", "img", "link", "iframe", "object", "form"} and not page.loaded


def test_the_same_evidence_gives_the_same_report_whatever_comes_later() -> None:
    ledger = MemoryLedger()
    found = reported(ledger)
    record = ledger.find("drill")[0]
    ledger.append("drill", POINT, body(scenario="cyber-attack"))
    ledger.append("failover", "switchover", {"step": "resume", "ok": True})
    assert drill_report.make(ledger, record, list(PROFILES.values())) == found


@pytest.fixture
def platform() -> Platform:
    found = in_memory()
    found.sites["primary"].ensure_bucket("evidence", versioned=True, locked=True)
    backup = found.config.backup.model_copy(update={"report_profiles": ["financial"]})
    return dataclasses.replace(found, config=found.config.model_copy(update={"backup": backup}))


def test_a_report_is_filed_under_lock_and_made_again(platform: Platform, tmp_path: Any) -> None:
    record = platform.ledger.append("drill", POINT, body())
    filed = drill_report.file(platform, record)
    site = platform.sites["primary"]
    assert [key.rpartition(".")[2] for key in filed] == ["json", "html"]
    for key, digest in filed.items():
        info = site.head("evidence", key)
        assert site.read("evidence", key, sha256=digest) and key.startswith(f"drills/{POINT}-")
        assert info.version_id and site.retained_until("evidence", key, info.version_id)
    evidence = platform.ledger.find("drill-report", POINT)[0].body
    assert evidence["sha256"] == filed and evidence["drill"] == record.seq

    again = drill_report.make_again(platform, None, None, tmp_path)
    assert len(again) == 2 and all("equal to the filed report" in copy.line for copy in again)
    again = drill_report.make_again(platform, "none", record.seq, tmp_path)
    assert "different from the filed report" in again[-1].line
    assert "Financial" not in (tmp_path / f"drill-{POINT}-{record.seq}.html").read_text()


@pytest.mark.parametrize(("profile", "number", "why"), [("pci", None, "does not exist"), (None, 99, "is not a drill")])
def test_what_cannot_be_reported_is_refused(
    platform: Platform, tmp_path: Any, profile: str | None, number: int | None, why: str
) -> None:
    platform.ledger.append("drill", POINT, body())
    with pytest.raises(BackupError, match=why):
        drill_report.make_again(platform, profile, number, tmp_path)


def test_without_a_drill_there_is_nothing_to_report(platform: Platform, tmp_path: Any) -> None:
    with pytest.raises(BackupError, match="no record of a drill"):
        drill_report.make_again(platform, None, None, tmp_path)


def test_the_profiles_of_rempart_yaml_are_those_there_are() -> None:
    assert load().backup.report_profiles == []
    assert set(PROFILES) == {"financial", "nis2"}


def test_an_objective_is_met_missed_or_not_measured() -> None:
    hour = timedelta(hours=1)
    assert within(RPO, 3600.0, hour).ok is True
    assert within(RPO, 3600.1, hour).ok is False
    assert within(RPO, None, hour).ok is None


def test_on_the_command_line_the_newest_drill_is_reported(
    platform: Platform, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.flows.shared.platform.open_platform", lambda: platform)
    platform.ledger.append("drill", POINT, body())
    told = CliRunner().invoke(app, ["backup", "drill-report", "--profile", "nis2", "--out", str(tmp_path / "new")])
    assert told.exit_code == 0, told.output
    (page,) = (tmp_path / "new").glob("*.html")
    assert "Annex, 4.2.6" in page.read_text() and "DORA" not in page.read_text()
    refused = CliRunner().invoke(app, ["backup", "drill", "--scenario", "flood"])
    assert refused.exit_code == 2 and "cyber-attack" in refused.output


def test_every_check_of_a_drill_but_the_registrys_is_of_a_topic() -> None:
    assert [what for what in CHECKS if not topics(what)] == ["the restored registry names the champions on record"]
