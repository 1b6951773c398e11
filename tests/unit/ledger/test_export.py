"""The export on sites in memory: an auditor's view of it, whatever happened to the runs that wrote it."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import ConfigError, LedgerBroken, LedgerError, PlacementDenied, SiteError, SiteUnavailable
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export, export_to, record_configuration
from rempart.flows.shared.platform import Platform
from rempart.ledger.files import verify_files
from rempart.ledger.keys import Signer, signer
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.verification import LedgerVerdict, verify
from rempart.settings import config, sections
from rempart.settings.config import Connection
from tests.memory_site import MemorySite

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime.now(UTC)
SEEDS = {"ledger_key": bytes(31) + b"1", "ledger_key_next": bytes(31) + b"2"}
KEY = signer(SEEDS["ledger_key"])


def connections(name: str) -> Connection:
    return Connection(name, "ledger", password=base64.b64encode(SEEDS[name]).decode())


@pytest.fixture
def platform() -> Platform:
    """The shipped configuration on two sites in memory; a clock that moves one second at each look."""
    ticks: Iterator[int] = iter(range(1_000_000))

    def clock() -> datetime:
        return NOW + timedelta(seconds=next(ticks))

    loaded = config.load(ROOT / "rempart.yaml")
    sites = {"primary": MemorySite("primary"), "haven": MemorySite("haven")}
    sites["primary"].ensure_bucket("evidence", versioned=True, locked=True)
    sites["haven"].ensure_bucket("checkpoints", versioned=True, locked=True)
    held: dict[str, Any] = {**sites, config.witness("haven"): sites["haven"]}
    made = Platform(loaded, connections, clock, held, MemoryLedger(KEY, clock))
    evidence.prove_sites(made)
    return made


def read(site: Any, bucket: str, prefix: str) -> dict[str, str]:
    return {info.key: site.read(bucket, info.key).decode() for info in site.list(bucket, prefix)}


def verified(platform: Platform, key: Signer = KEY) -> LedgerVerdict:
    """The verdict from what lies in the two buckets."""
    segments = read(platform.sites["primary"], "evidence", "ledger/")
    lines = [line for name in sorted(segments) for line in segments[name].splitlines()]
    return verify(lines, [key.public], read(platform.sites["haven"], "checkpoints", ""))


def test_new_records_and_a_checkpoint_are_exported_once(platform: Platform) -> None:
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    first = export(platform)
    assert first.records == first.last == 8, "key, two sites, snapshot, policy, configuration and two permissions"
    assert first.segments == ("ledger/000000000001-000000000008.jsonl",)
    verdict = verified(platform)
    assert verdict.ok and verdict.records == verdict.covered == 8 and verdict.checkpoints == 1
    again = export(platform)
    assert (again.records, again.segments, again.checkpoint, again.window_seconds) == (0, (), None, None)
    platform.ledger.append("snapshot", "bookings", {"rows": 4})
    third = export(dataclasses.replace(platform, _permitted=set()))
    assert (third.records, third.last) == (4, 12), "and the checkpoint of the export before"
    assert verified(platform).covered == 12 and verified(platform).ok


def test_the_window_is_the_age_of_the_oldest_record_that_had_no_checkpoint(platform: Platform) -> None:
    export(platform)
    at = platform.ledger.append("snapshot", "bookings", {}).at
    for _ in range(40):
        platform.clock()
    result = export(platform)
    made = read(platform.sites["haven"], "checkpoints", "")[str(result.checkpoint)]
    moment = datetime.fromisoformat(made.partition('"at":"')[2].partition('"')[0])
    assert result.window_seconds == (moment - at).total_seconds() >= 40


def test_everything_is_locked_for_the_retention_of_evidence(platform: Platform) -> None:
    export(platform)
    for name, bucket in (("primary", "evidence"), ("haven", "checkpoints")):
        site = platform.sites[name]
        found = [info.key for info in site.list(bucket)]
        assert found
        for key in found:
            with pytest.raises(SiteError, match=f"locked until {(NOW + timedelta(days=3650)).year}"):
                site.delete(bucket, key, version_id=site.head(bucket, key).version_id)


class CutOffSite(MemorySite):
    """Refuses every call after so many."""

    left = 10_000

    def __getattribute__(self, name: str) -> Any:
        if name in ("list", "read", "write_new"):
            if self.left <= 0:
                raise SiteUnavailable(f"{name}: cut off", "Retry.")
            self.left -= 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("calls", range(8))
@pytest.mark.parametrize("site", ["primary", "haven"])
def test_a_run_that_was_cut_off_is_finished_by_the_next(platform: Platform, site: str, calls: int) -> None:
    cut = CutOffSite(site)
    cut.ensure_bucket("evidence" if site == "primary" else "checkpoints", versioned=True, locked=True)
    platform.sites[site] = cut
    if site == "haven":
        platform.sites[config.witness("haven")] = cut
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    cut.left = calls
    try:
        export(platform)
    except SiteUnavailable:
        cut.left = 10_000
        export(platform)
    cut.left = 10_000
    verdict = verified(platform)
    assert verdict.ok and verdict.records == verdict.covered == 8
    assert export(platform).records == 0


def test_two_runs_at_once_and_one_that_saw_more_leave_a_chain_that_verifies(platform: Platform) -> None:
    export(platform)
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    # the slow run listed the bucket before the fast one wrote: it starts at the same record
    listing = list(platform.sites["primary"].list("evidence"))
    export(platform)
    platform.ledger.append("snapshot", "bookings", {"rows": 4})
    fast = platform.sites["primary"]

    class Stale(MemorySite):
        def list(self, bucket: str, prefix: str = "") -> Any:
            return [info for info in listing if info.key.startswith(prefix)]

        def __getattribute__(self, name: str) -> Any:
            return super().__getattribute__(name) if name in ("list", "name") else getattr(fast, name)

    result = export(dataclasses.replace(platform, sites={**platform.sites, "primary": Stale("primary")}))
    assert result.records == 2, "a snapshot and a checkpoint: the ledger says how far the other run came"
    assert len(read(fast, "evidence", "ledger/")) == 3
    assert verified(platform).ok and verified(platform).covered == result.last
    assert export(platform).records == 0


def test_long_ledgers_are_cut_into_segments(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "SEGMENT", 4)
    for i in range(5):
        platform.ledger.append("snapshot", "bookings", {"rows": i})
    assert len(export(platform).segments) == 3
    assert verified(platform).ok


@pytest.mark.parametrize(
    "attack",
    [
        lambda chain: chain.__delitem__(slice(6, None)),
        lambda chain: chain.clear(),
        lambda chain: chain.__setitem__(6, dataclasses.replace(chain[6], text=chain[6].text.replace("FR", "US"))),
    ],
    ids=["a cut tail", "nothing left", "a changed record"],
)
def test_a_database_that_no_longer_says_what_was_exported_stops_the_export(
    platform: Platform, attack: Callable[[Any], None]
) -> None:
    export(platform)
    assert isinstance(platform.ledger, MemoryLedger)
    attack(platform.ledger.chain)
    with pytest.raises(LedgerBroken, match=r"Record 7 of the ledger differs from the one in evidence/ledger/") as found:
        export(platform)
    assert "verify-the-ledger" in found.value.hint
    assert not found.value.transient


def test_a_record_that_does_not_follow_is_named_and_not_exported(platform: Platform) -> None:
    export(platform)
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    assert isinstance(platform.ledger, MemoryLedger)
    platform.ledger.chain[-1] = dataclasses.replace(platform.ledger.chain[-1], sig="A" * 86 + "==")
    with pytest.raises(LedgerBroken, match="Record 9 of the ledger: its signature"):
        export(platform)
    assert len(read(platform.sites["primary"], "evidence", "ledger/")) == 1


def test_a_policy_or_configuration_that_changed_is_recorded_with_what_it_says(platform: Platform) -> None:
    assert [record.kind for record in record_configuration(platform.config, platform.ledger)] == [
        "policy",
        "configuration",
    ]
    assert record_configuration(platform.config, platform.ledger) == []
    rule = platform.config.policy["public"].model_copy(update={"jurisdictions": ["FR"]})
    changed = platform.config.model_copy(update={"policy": {**platform.config.policy, "public": rule}})
    policy, whole = record_configuration(changed, platform.ledger)
    assert policy.body["policy"]["public"]["jurisdictions"] == ["FR"]
    before = platform.ledger.find("configuration")[1].body["sections"]
    assert [name for name, value in whole.body["sections"].items() if before[name] != value] == ["policy"]
    moved = platform.config.model_copy(update={"retention": {}})
    appended = record_configuration(moved, platform.ledger)
    assert [record.kind for record in appended] == ["policy", "configuration"], (
        "the policy is what it was at first, again"
    )


def test_one_site_for_both_is_refused(platform: Platform) -> None:
    settings = sections.EvidenceConfig(site="haven")
    same = dataclasses.replace(platform, config=platform.config.model_copy(update={"evidence": settings}))
    with pytest.raises(ConfigError, match=r"evidence\.checkpoint_site: 'haven'"):
        export(same)


def test_a_place_that_the_policy_denies_gets_nothing_and_the_denial_is_evidence(platform: Platform) -> None:
    rule = platform.config.policy["internal"].model_copy(update={"jurisdictions": ["DE"]})
    changed = platform.config.model_copy(update={"policy": {**platform.config.policy, "internal": rule}})
    denied = dataclasses.replace(platform, config=changed)
    with pytest.raises(PlacementDenied):
        export(denied)
    assert platform.ledger.find("denial")[0].body["what"] == "evidence"
    assert read(platform.sites["primary"], "evidence", "") == {}


def test_a_rotation_is_exported_and_a_process_with_the_old_key_writes_no_checkpoint(platform: Platform) -> None:
    export(platform)
    old = SEEDS["ledger_key"]
    record = evidence.rotate_key(platform)
    assert evidence.rotate_key(platform) == record, "a rotation that was cut off may be run again"
    with pytest.raises(LedgerError, match="this process has key"):
        export(platform)
    try:
        SEEDS["ledger_key"] = SEEDS["ledger_key_next"]
        export(platform)
    finally:
        SEEDS["ledger_key"] = old
    verdict = verified(platform)
    assert verdict.ok and len(verdict.keys) == 2 and verdict.covered == verdict.records


def rempart(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["ledger", *map(str, arguments)])
    return done.exit_code, done.output


def test_an_auditor_verifies_a_folder_with_the_public_key_alone(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(platform)
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    written = export_to(platform, tmp_path / "audit")
    assert (written.records, written.checkpoints) == (9, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REMPART_HOME")  # no rempart.yaml is in reach
    code, printed = rempart("verify", "audit", "--key", "audit/public.pem")
    assert code == 0, printed
    assert "records      9" in printed and f"key          {KEY.id}, since record 1, signed 9" in printed
    assert "covers record 7, records after it: 2" in printed and "every record verifies" in printed
    assert rempart("verify", "audit/ledger/ledger.jsonl", "--key", KEY.public.hex())[1].count("checkpoints  none") == 1
    shown = json.loads(rempart("verify", "audit", "--key", "audit/public.pem", "--json")[1])
    assert (shown["ok"], shown["records"], shown["covered"], shown["broken"]) == (True, 9, 7, None)
    code, printed = rempart("verify", "audit", "--key", "00" * 32)
    assert code == 1 and "BROKEN: Record 1 of the ledger: the chain starts with key" in printed
    file = tmp_path / "audit" / "ledger" / "ledger.jsonl"
    file.write_text(file.read_text().replace('"rows":3', '"rows":4'))
    code, printed = rempart("verify", "audit", "--key", "audit/public.pem")
    assert code == 1 and "BROKEN: Record 9 of the ledger: its SHA-256" in printed and "What to do" in printed


def test_an_export_ends_with_a_warning_while_no_checkpoint_covers_its_newest_records(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rempart.flows.shared.platform.open_platform", lambda: platform)
    platform.ledger.append("snapshot", "bookings", {"rows": 3})
    remedy = "Start the DAG export_evidence in Airflow (it runs every 15 min by itself), then export again."

    def warning(folder: str) -> str:
        code, printed = rempart("export", str(tmp_path / folder))
        assert code == 0 and printed.startswith(str(tmp_path / folder))
        return " ".join(printed.partition("warning: ")[2].split())

    assert warning("none").startswith("no checkpoint covers the records: nobody finds out if")
    assert warning("none").endswith(remedy)
    with pytest.raises(LedgerError) as refused:
        verify_files(tmp_path / "none", [KEY.public.hex()], None)
    assert "start the DAG export_evidence in Airflow, then export again" in refused.value.hint
    assert rempart("verify", str(tmp_path / "none" / "ledger"), "--key", KEY.public.hex())[0] == 0
    export(platform)
    assert warning("all") == "", "the record of the export itself is no news"
    for rows in (4, 5):
        platform.ledger.append("snapshot", "bookings", {"rows": rows})
    assert warning("some").startswith("no checkpoint covers the newest 2 records: ")
    for name, bucket in (("haven", "checkpoints"), ("primary", "evidence")):
        platform.sites[name] = MemorySite(name)
        platform.sites[name].ensure_bucket(bucket, versioned=True, locked=True)
    assert warning("lost").startswith("no checkpoint covers the records: ")


def test_a_folder_verifies_also_if_a_checkpoint_is_written_while_it_is_filled(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = platform.sites["haven"]
    listed = site.versions

    def versions(*asked: str) -> Iterator[Any]:
        monkeypatch.setattr(site, "versions", listed)
        platform.ledger.append("snapshot", "bookings", {"rows": 3})
        export(platform)
        yield from listed(*asked)

    export(platform)
    monkeypatch.setattr(site, "versions", versions)
    assert export_to(platform, tmp_path / "audit").checkpoints == 2
    verdict = verify_files(tmp_path / "audit", [KEY.public.hex()], None)
    assert verdict.ok and verdict.checkpoints == 2, verdict.broken


@pytest.mark.parametrize(("place", "checkpoints"), [("nowhere", None), (".", "."), ("empty", None)])
def test_what_is_no_export_is_an_error_and_never_a_verdict(tmp_path: Path, place: str, checkpoints: str | None) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LedgerError, match=r"read the (export|checkpoints): there is none"):
        verify_files(tmp_path / place, [KEY.public.hex()], tmp_path / checkpoints if checkpoints else None)


def test_records_are_shown_as_they_are(platform: Platform) -> None:
    for i in range(3):
        platform.ledger.append("snapshot", "bookings", {"rows": i})
    assert isinstance(platform.ledger, MemoryLedger)
    texts = [entry.text for entry in platform.ledger.chain]
    assert evidence.show(platform.ledger, None, 2) == texts[-2:]
    assert evidence.show(platform.ledger, 1, 2) == texts[1:3]


def test_who_restores_to_new_sites_is_told_that_the_export_stops_and_what_lets_it_go_on(platform: Platform) -> None:
    export(platform)
    assert evidence.lost_exports(platform) is None
    new = {name: MemorySite(name) for name in ("primary", "haven")}
    for name, bucket in (("primary", "evidence"), ("haven", "checkpoints")):
        new[name].ensure_bucket(bucket, versioned=True, locked=True)
    restored = dataclasses.replace(platform, sites={**new, config.witness("haven"): new["haven"]})
    told = evidence.lost_exports(restored)
    assert told and "evidence at site 'primary'" in told and "checkpoints at site 'haven'" in told
    assert "`rempart ledger repair --yes`" in told
    evidence.repair(restored, dry_run=False)
    assert evidence.lost_exports(restored) is None


def test_a_site_that_does_not_answer_leaves_it_open_whether_exports_are_lost(platform: Platform) -> None:
    export(platform)
    told = evidence.lost_exports(dataclasses.replace(platform, sites={**platform.sites, "primary": MemorySite("new")}))
    assert told and "could not be seen" in told and "evidence" in told
