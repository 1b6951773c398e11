"""A backup site in memory: the points that a reader sees, and the state of site and ledger after a prune."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rempart.backup.points import holds, points
from rempart.cli import app
from rempart.counts import size
from rempart.errors import BackupError, SiteError
from rempart.flows.backup import point_report, restore_points
from rempart.flows.backup.prune import prune
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.settings.retention_rules import Keep
from rempart.sites.port import Site
from tests import made_points, switchovers

NOW = datetime(2026, 11, 25, 12, 10, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("REMPART_HOME", str(Path(__file__).parents[4]))
    made = switchovers.in_memory(clock=lambda: NOW)
    keep = Keep(hourly=1, daily=4, weekly=0, monthly=0)
    backup = made.config.backup.model_copy(update={"keep": keep, "locked": timedelta(0)})
    return dataclasses.replace(made, config=made.config.model_copy(update={"backup": backup}))


@pytest.fixture
def site(platform: Platform) -> Site:
    return platform.sites["haven"]


@pytest.fixture
def bucket(platform: Platform) -> str:
    return platform.config.buckets.backups


@pytest.fixture
def six(platform: Platform, site: Site) -> list[str]:
    """Points of six days, newest first: the rules keep four."""
    return made_points.series(platform, site, NOW - timedelta(hours=3), 6, DAY)


def listed(platform: Platform) -> str:
    return "\n".join(point_report.list_lines(restore_points.survey(platform)))


def test_the_list_says_of_each_point_why_it_is_kept_and_which_go(platform: Platform, six: list[str]) -> None:
    platform.ledger.append("drill", six[1], {"ok": False})
    platform.ledger.append("drill", six[1], {"ok": True})
    platform.ledger.append("drill", six[2], {"ok": False})
    lines = {line.split()[0]: line for line in listed(platform).splitlines()}
    assert "newest, newest good, hourly, daily" in lines[six[0]] and " 3 h " in lines[six[0]]
    assert " passed " in lines[six[1]] and " FAILED " in lines[six[2]]
    assert lines[six[3]].endswith("  daily") and " 3 days " in lines[six[3]]
    assert "NOT KEPT" in lines[six[4]] and "NOT KEPT" in lines[six[5]]


def test_what_a_point_restores_is_told_beside_what_is_its_own(platform: Platform, six: list[str]) -> None:
    (record,) = platform.ledger.find("restore-point", six[0])
    platform.ledger.append("restore-point", six[0], {**record.body, "bytes": 3 << 20, "object_bytes": 5 << 20})
    own = size(restore_points.survey(platform).points[0].bytes)
    (line,) = (line for line in listed(platform).splitlines() if line.startswith(six[0]))
    assert line.split()[3:7] == ["8.4", "MB", *own.split()]
    text = "\n".join(point_report.explain_lines(restore_points.survey(platform), six[0]))
    assert "it restores 8.4 MB" in text and f"own       {own}" in text


def test_an_empty_site_says_so(platform: Platform) -> None:
    assert listed(platform) == "Site 'haven' holds no restore point."
    assert prune(platform, dry_run=False).kept == 0


def test_a_point_that_lacks_something_is_in_doubt_and_the_newest_good_one_is_named(
    platform: Platform, site: Site, bucket: str
) -> None:
    good = made_points.make(platform, site, NOW - 40 * DAY)
    bad = [made_points.make(platform, site, NOW - n * DAY, dangling=["artifacts/x"]) for n in range(1, 8)]
    altered = f"points/{bad[0]}/manifest.json"
    site.write(bucket, altered, site.read(bucket, altered).replace(b"primary", b"another"))
    found = {point.id: point for point in restore_points.survey(platform).points}
    assert found[good].reasons == ("newest good",) and not found[good].doubts
    assert any("inconsistent: 1 object is missing" in doubt for doubt in found[bad[1]].doubts)
    assert any("differs from its record" in doubt for doubt in found[bad[0]].doubts)


def test_a_point_that_failed_its_drill_is_no_good_one_until_it_passes(platform: Platform, six: list[str]) -> None:
    platform.ledger.append("drill", six[0], {"ok": False})
    found = {point.id: point for point in restore_points.survey(platform).points}
    assert found[six[0]].doubts == ("its last drill failed",)
    assert "newest good" in found[six[1]].reasons
    platform.ledger.append("drill", six[0], {"ok": True})
    assert "newest good" in restore_points.survey(platform).points[0].reasons


def test_a_hold_that_was_cut_off_before_its_evidence_is_recorded_by_the_next_try(
    platform: Platform, site: Site, bucket: str, six: list[str]
) -> None:
    holds.hold(site, bucket, six[5], holds.Hold("legal-counsel", "inquiry 7", NOW))
    restore_points.hold(platform, six[5], role="somebody", why="else")
    assert [record.body["role"] for record in platform.ledger.find("hold")] == ["legal-counsel"]


def test_a_point_without_evidence_is_in_doubt(platform: Platform, six: list[str]) -> None:
    stranger = dataclasses.replace(platform, ledger_=MemoryLedger())
    assert all("no record" in point.doubts[0] for point in restore_points.survey(stranger).points)


def test_pruning_is_a_dry_run_unless_asked(platform: Platform, site: Site, bucket: str, six: list[str]) -> None:
    plan = prune(platform)
    assert plan.dry_run and set(plan.deleted) == set(six[4:])
    assert plan.kept == 4 and plan.bytes > 0
    assert points.list(site, bucket) == tuple(six)
    assert not platform.ledger.find("prune")
    assert f"would be deleted: {six[5]}" in list(point_report.prune_lines(plan))


def test_pruned_points_are_gone_in_every_version_and_the_ledger_says_what_and_why(
    platform: Platform, site: Site, bucket: str, six: list[str]
) -> None:
    site.write(bucket, f"points/{six[5]}/airflow.dump", b"written again")
    site.delete(bucket, f"points/{six[5]}/ledger.dump")
    done = prune(platform, dry_run=False)
    assert set(done.deleted) == set(six[4:])
    assert points.list(site, bucket) == tuple(six[:4])
    assert [made_points.under(site, bucket, point) for point in six[4:]] == [[], []]
    after, before = platform.ledger.find("prune")
    assert before.body["state"] == "begins" and set(before.body["deletes"]["points"]) == set(six[4:])
    assert before.body["keeps"][six[3]] == ["daily"] and before.body["rules"]["floor"] == 3
    assert after.body["state"] == "ended" and set(after.body["deleted"]) == set(six[4:])
    assert prune(platform, dry_run=False).deleted == ()
    assert len(platform.ledger.find("prune")) == 2  # nothing to say


def test_a_held_point_outlives_the_rules_until_it_is_released(
    platform: Platform, site: Site, bucket: str, six: list[str]
) -> None:
    restore_points.hold(platform, six[5], role="legal-counsel", why="inquiry 7")
    prune(platform, dry_run=False)
    assert points.list(site, bucket) == (*six[:4], six[5])
    text = "\n".join(point_report.explain_lines(restore_points.survey(platform), six[5]))
    assert "legal hold" in text and "by legal-counsel since 2026-11-25 12:10 UTC: inquiry 7" in text
    again = restore_points.hold(platform, six[5], role="somebody", why="else")
    assert again.who == "legal-counsel" and len(platform.ledger.find("hold")) == 1
    assert restore_points.release(platform, six[5], role="legal-counsel", why="inquiry closed")
    assert not restore_points.release(platform, six[5], role="legal-counsel", why="inquiry closed")
    assert [record.body["held"] for record in platform.ledger.find("hold", six[5])] == [False, True]
    assert prune(platform, dry_run=False).deleted == (six[5],)


@pytest.mark.parametrize("lost", ["file", "ledger", "damaged"])
def test_neither_a_lost_file_nor_a_lost_ledger_lifts_a_hold(
    platform: Platform, site: Site, bucket: str, six: list[str], lost: str
) -> None:
    restore_points.hold(platform, six[5], role="legal-counsel", why="inquiry 7")
    if lost == "file":
        site.delete(bucket, f"holds/{six[5]}.json")
    elif lost == "damaged":
        site.write(bucket, f"holds/{six[5]}.json", b"{")
    else:
        platform = dataclasses.replace(platform, ledger_=MemoryLedger())
    prune(platform, dry_run=False)
    assert six[5] in points.list(site, bucket)


def test_a_hold_that_comes_while_pruning_goes_on_saves_its_point(
    platform: Platform, site: Site, bucket: str, six: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan was made without it."""
    delete = site.delete

    def hold_meanwhile(*args: str, **more: str | None) -> str | None:
        holds.hold(site, bucket, six[4], holds.Hold("legal-counsel", "inquiry 7", NOW))
        return delete(*args, **more)

    monkeypatch.setattr(site, "delete", hold_meanwhile)
    done = prune(platform, dry_run=False)
    assert (done.deleted, done.held) == ((six[5],), (six[4],))
    assert six[4] in points.list(site, bucket) and six[5] not in points.list(site, bucket)


def test_only_a_point_that_is_there_can_be_held(platform: Platform, six: list[str]) -> None:
    with pytest.raises(BackupError, match="has no point"):
        restore_points.hold(platform, points.new_id(NOW, "123456"), role="legal-counsel", why="inquiry 7")
    with pytest.raises(BackupError, match="is not a valid id of a restore point"):
        restore_points.hold(platform, "../x", role="legal-counsel", why="inquiry 7")
    assert not platform.ledger.find("hold")


def test_what_a_kept_point_needs_stays_in_whatever_folder_it_is(platform: Platform, site: Site, bucket: str) -> None:
    old = made_points.series(platform, site, NOW - 10 * DAY, 3, DAY)
    shared = f"points/{old[2]}/airflow.dump"
    made_points.make(platform, site, NOW - DAY, shared=shared)
    for days in (2, 3, 4):
        made_points.make(platform, site, NOW - days * DAY)
    assert set(prune(platform, dry_run=False).deleted) == set(old)
    assert made_points.under(site, bucket, old[2]) == ["airflow.dump"]
    assert made_points.under(site, bucket, old[1]) == []


def test_while_a_kept_point_cannot_be_read_nothing_is_pruned(
    platform: Platform, site: Site, bucket: str, six: list[str]
) -> None:
    site.write(bucket, f"points/{six[1]}/manifest.json", b"rubbish")
    with pytest.raises(BackupError, match=f"{six[1]} at site 'haven' must be kept, but its manifest cannot be read"):
        prune(platform, dry_run=False)
    assert points.list(site, bucket) == tuple(six) and not platform.ledger.find("prune")
    site.write(bucket, f"points/{six[5]}/manifest.json", b"rubbish")  # of one that goes, it stops nothing
    damaged = site.head(bucket, f"points/{six[1]}/manifest.json")
    site.delete(bucket, damaged.key, version_id=damaged.version_id)
    assert set(prune(platform, dry_run=False).deleted) == set(six[4:])


def test_a_point_whose_manifest_somebody_deleted_is_told_and_not_destroyed(
    platform: Platform, site: Site, bucket: str, six: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.backup.points.retention.LEFTOVER_AGE", timedelta(days=-1))
    site.delete(bucket, f"points/{six[5]}/manifest.json")
    site.write(bucket, f"points/{points.new_id(NOW - 9 * DAY, 'abcdef')}/airflow.dump", b"of a backup that died")
    done = prune(platform, dry_run=False)
    assert done.hidden == (six[5],) and done.leftovers == (points.new_id(NOW - 9 * DAY, "abcdef"),)
    assert six[5] in listed(platform)
    marker = next(version for version in site.versions(bucket, f"points/{six[5]}/manifest.json") if version.marker)
    site.delete(bucket, marker.key, version_id=marker.version_id)
    assert made_points.is_whole(site, bucket, six[5])


def test_a_refusal_that_is_no_lock_is_an_error_and_the_ledger_says_how_far_it_came(
    platform: Platform, site: Site, six: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = site.delete

    def refuse(bucket: str, key: str, **more: str | None) -> str | None:
        if six[4] in key:
            raise SiteError(f"delete {key}: refused (AccessDenied)", "Check the rights.")
        return delete(bucket, key, **more)

    monkeypatch.setattr(site, "delete", refuse)
    with pytest.raises(SiteError, match="AccessDenied"):
        prune(platform, dry_run=False)
    after = platform.ledger.find("prune", limit=1)[0].body
    assert after["state"] == "broke off" and set(after["deleted"]) == {six[5]}


def test_after_a_switch_the_points_of_the_other_site_can_still_be_named(platform: Platform, site: Site) -> None:
    made_points.make(platform, platform.sites["primary"], NOW - DAY)
    assert len(restore_points.survey(platform, "primary").points) == 1
    assert restore_points.survey(platform).points == ()


def test_on_the_command_line_nothing_is_deleted_without_yes(
    platform: Platform, site: Site, bucket: str, six: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.flows.shared.platform.open_platform", lambda: platform)

    def run(*words: str) -> str:
        told = CliRunner().invoke(app, ["backup", *words])
        assert told.exit_code == 0, told.output
        return told.output

    assert "Nothing was deleted" in run("prune") and points.list(site, bucket) == tuple(six)
    assert "is held by legal-counsel" in run("hold", six[5], "--role", "legal-counsel", "--why", "inquiry 7")
    assert "legal hold: it has a hold" in run("explain", six[5])
    assert f"deleted: {six[4]}" in run("prune", "--yes") and points.list(site, bucket) == (*six[:4], six[5])
    assert "is released" in run("release", six[5], "--role", "legal-counsel", "--why", "closed")
    assert "NOT KEPT" in run("list")
    listed = json.loads(run("list", "--json"))["points"]
    assert [point["id"] for point in listed] == [*six[:4], six[5]] and listed[-1]["reasons"] == []
    assert json.loads(run("explain", six[0], "--json"))["id"] == six[0]


@pytest.mark.parametrize(
    ("span", "text"),
    [(timedelta(minutes=5), "5 min"), (timedelta(hours=5), "5 h"), (2 * DAY, "2 days"), (-DAY, "in 24 h")],
)
def test_ages_are_for_people(span: timedelta, text: str) -> None:
    assert point_report.age(span) == text
