"""Two sites hold the locked ledger: each copy is verified first, and an altered copy is skipped."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from rempart.errors import CapabilityMissing
from rempart.flows.doctor import doctor_site
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export
from rempart.flows.shared.platform import Platform
from rempart.ledger.chain import Head, checkpoint
from rempart.ledger.files import verify_files
from rempart.ledger.memory import MemoryLedger
from rempart.sites.capabilities import VALID, Proof
from tests.unit.flows.governance.locked_export import KEY, NOW, PLACES, exported, keys, new_platform


@pytest.fixture
def platform() -> Platform:
    return new_platform()


# --- an auditor has both sites' copies --------------------------------------------------------------------------------


def folder_of(platform: Platform, folder: Path) -> Path:
    """Both buckets as an auditor fetches them."""
    for name, bucket in (("primary", "evidence"), ("haven", "checkpoints")):
        for key in keys(platform, name, bucket):
            file = folder / name / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(platform.sites[name].read(bucket, key))
    return folder


@pytest.mark.parametrize("damaged", ["primary", "haven"])
def test_i11_a_checkpoint_that_one_site_altered_is_passed_by_for_the_other_sites_true_copy(
    platform: Platform, tmp_path: Path, damaged: str
) -> None:
    exported(platform)
    folder = folder_of(platform, tmp_path / "audit")
    file = sorted((folder / damaged / "checkpoints").iterdir())[1]
    for change in (
        lambda body: body[:50] + bytes([body[50] ^ 1]) + body[51:],
        lambda body: b"<Error/>",
        lambda body: b"",
    ):
        body = file.read_bytes()
        file.write_bytes(change(body))
        verdict = verify_files(folder, [KEY.public.hex()], folder)
        assert verdict.ok and verdict.covered == verdict.records, verdict
        assert [name for name in verdict.damaged if file.name in name]
        file.write_bytes(body)
    for name in ("primary", "haven"):  # without a true copy it is broken
        (folder / name / "checkpoints" / file.name).write_bytes(b"<Error/>")
    assert not verify_files(folder, [KEY.public.hex()], folder).ok


def test_i11_a_signed_checkpoint_that_says_something_else_breaks_the_ledger_whatever_its_copy_says(
    platform: Platform, tmp_path: Path
) -> None:
    exported(platform)
    folder = folder_of(platform, tmp_path / "audit")
    file = sorted((folder / "haven" / "checkpoints").iterdir())[1]
    seq = int(file.name[:12])
    file.write_text(checkpoint(Head(seq, "f" * 64), NOW, KEY), encoding="utf-8")
    verdict = verify_files(folder, [KEY.public.hex()], folder)
    assert not verdict.ok and verdict.broken and verdict.broken.seq == seq


def test_i11_a_segment_that_one_site_altered_is_passed_by_for_a_true_copy(platform: Platform, tmp_path: Path) -> None:
    exported(platform)
    folder = folder_of(platform, tmp_path / "audit")
    file = sorted((folder / "primary" / "ledger").iterdir())[1]
    copy = folder / "haven" / "ledger" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert verify_files(folder, [KEY.public.hex()], folder).ok
    file.write_bytes(file.read_bytes().replace(b'"rows":1', b'"rows":7'))
    verdict = verify_files(folder, [KEY.public.hex()], folder)
    assert verdict.ok and [name for name in verdict.damaged if file.name in name]
    copy.unlink()
    assert not verify_files(folder, [KEY.public.hex()], folder).ok


def test_the_export_refuses_a_site_that_was_not_proven_able_to_hold_it(platform: Platform) -> None:
    """Each site of the export needs a valid record. The export probes none itself: a probe writes into the ledger."""
    exported(platform, 1)
    platform.ledger.append("snapshot", "bookings", {"rows": 9})
    for name in ("primary", "haven"):
        true = platform.sites[name].probe("doctor", platform.clock())
        lacking = [
            Proof("object lock", "absent", "no") if proof.capability == "object lock" else proof
            for proof in true.proofs
        ]
        platform.ledger.append("capabilities", name, dataclasses.replace(true, proofs=tuple(lacking)).as_json())
        before = {bucket: keys(platform, at, bucket) for at, bucket, _ in PLACES}
        count = len(list(platform.ledger.entries()))
        with pytest.raises(CapabilityMissing, match=f"Site '{name}' .* evidence: object lock: absent") as refused:
            export(platform)
        assert f"rempart site doctor {name}" in refused.value.hint
        with pytest.raises(CapabilityMissing):
            evidence.prove_sites(platform)
        assert before == {bucket: keys(platform, at, bucket) for at, bucket, _ in PLACES}
        assert count == len(list(platform.ledger.entries())), "nothing was written anywhere"
        doctor_site.probe(platform, platform.sites[name])
    exported(platform, 1)


def test_an_old_record_of_a_site_is_none_and_the_sites_are_probed_before_the_export(platform: Platform) -> None:
    later = dataclasses.replace(platform, clock=lambda: NOW + VALID + timedelta(hours=1))
    with pytest.raises(CapabilityMissing, match=r"evidence: it was probed on .*, more than 30 days ago"):
        export(later)
    evidence.prove_sites(later)
    known = [record.subject for record in platform.ledger.find("capabilities")]
    assert export(later).records > 0
    evidence.prove_sites(later)
    assert [record.subject for record in platform.ledger.find("capabilities")] == known, "a valid record is enough"


def test_a_site_that_was_never_probed_is_refused(platform: Platform) -> None:
    unknown = dataclasses.replace(platform, ledger_=MemoryLedger(KEY, platform.clock))
    with pytest.raises(CapabilityMissing, match="evidence: it was never probed"):
        export(unknown)
    evidence.prove_sites(unknown)
    assert export(unknown).records == 7, "the key, two capabilities, policy, configuration and two permissions"
