"""I11, L9, P8: checkpoints and segments that a site alters, loses or stores without an answer. Sites in memory."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import CapabilityMissing, IntegrityError, LedgerBroken, SiteUnavailable
from rempart.flows.doctor import doctor_site
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export, export_to
from rempart.flows.shared.platform import Platform
from rempart.ledger.chain import Head, checkpoint
from rempart.ledger.files import verify_files
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.capabilities import VALID, Proof
from tests.memory_site import MemorySite
from tests.restorable import flip, wipe

ROOT = Path(__file__).resolve().parents[4]
NOW = datetime.now(UTC)
SEED = bytes(31) + b"1"
KEY = signer(SEED)


class Site(MemorySite):
    """A site that can be told to store wrong, or not to answer, so many times."""

    wrong = 0
    mute = 0

    def write(self, bucket: str, key: str, body: bytes, **how: Any) -> Any:
        info = super().write(bucket, key, body, **how)
        if self.wrong:
            self.wrong -= 1
            flip(self, bucket, key, which=-1)
        return info

    def write_new(self, bucket: str, key: str, body: bytes, **how: Any) -> bool:
        done = super().write_new(bucket, key, body, **how)
        if self.mute:
            self.mute -= 1
            raise SiteUnavailable(f"put {bucket}/{key}: ReadTimeoutError", "Retry.")
        return done


@pytest.fixture
def platform() -> Platform:
    ticks: Iterator[int] = iter(range(1_000_000))

    def clock() -> datetime:
        return NOW + timedelta(seconds=next(ticks))

    sites = {name: Site(name) for name in ("primary", "haven")}
    sites["primary"].ensure_bucket("evidence", versioned=True, locked=True)
    sites["haven"].ensure_bucket("checkpoints", versioned=True, locked=True)
    held: dict[str, Any] = {**sites, config.witness("haven"): sites["haven"]}

    def connections(name: str) -> Connection:
        return Connection(name, "ledger", password=base64.b64encode(SEED).decode())

    made = Platform(config.load(ROOT / "rempart.yaml"), connections, clock, held, MemoryLedger(KEY, clock))
    evidence.prove_sites(made)
    return made


def exported(platform: Platform, times: int = 3) -> None:
    for number in range(times):
        platform.ledger.append("snapshot", "bookings", {"rows": number})
        export(platform)


def site(platform: Platform, name: str) -> Site:
    found = platform.sites[name]
    assert isinstance(found, Site)
    return found


def keys(platform: Platform, name: str, bucket: str, prefix: str = "") -> list[str]:
    return [info.key for info in platform.sites[name].list(bucket, prefix)]


def judged(platform: Platform, tmp_path: Path) -> bool:
    """Whether what a reader finds in the two buckets verifies."""
    folder = tmp_path / f"audit-{next(iter(range(1)))}-{platform.clock().timestamp()}"
    for name, bucket in (("primary", "evidence"), ("haven", "checkpoints")):
        for key in keys(platform, name, bucket):
            file = folder / name / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(platform.sites[name].read(bucket, key))
    return verify_files(folder, [KEY.public.hex()], folder).ok


PLACES = [("primary", "evidence", "ledger/"), ("primary", "evidence", "checkpoints/"), ("haven", "checkpoints", "")]


@pytest.mark.parametrize(("name", "bucket", "prefix"), PLACES)
@pytest.mark.parametrize("how", ["altered", "lost"])
@pytest.mark.parametrize("which", [0, -1])
def test_i11_what_a_site_altered_or_lost_is_put_again_with_the_same_bytes(
    platform: Platform, tmp_path: Path, name: str, bucket: str, prefix: str, how: str, which: int
) -> None:
    exported(platform)
    held = site(platform, name)
    key = keys(platform, name, bucket, prefix)[which]
    right = held.read(bucket, key)
    (flip if how == "altered" else wipe)(held, bucket, key)
    export(platform)
    assert held.read(bucket, key) == right
    assert held.retained_until(bucket, key, str(held.head(bucket, key).version_id))
    record = platform.ledger.find("repair", "evidence")[0]
    assert key in record.body["objects"][0] and record.body["count"] == 1
    assert judged(platform, tmp_path)
    exported(platform, 1)
    assert len(platform.ledger.find("repair", "evidence")) == 1 and judged(platform, tmp_path)


@pytest.mark.parametrize("name", ["primary", "haven"])
def test_i11_what_is_stored_wrong_is_put_again_before_it_counts(platform: Platform, tmp_path: Path, name: str) -> None:
    exported(platform, 1)
    site(platform, name).wrong = 1
    exported(platform, 1)
    assert judged(platform, tmp_path)
    site(platform, name).wrong = 1000
    with pytest.raises(IntegrityError, match="returned other bytes than were written"):
        exported(platform, 1)
    site(platform, name).wrong = 0
    exported(platform, 1)
    assert judged(platform, tmp_path)


def test_i11_a_checkpoints_copy_that_was_stored_wrong_does_not_count_at_the_next_run(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = site(platform, "primary")
    write = held.write

    def spoilt(bucket: str, key: str, body: bytes, **more: Any) -> Any:
        done = write(bucket, key, body, **more)
        if key.startswith("checkpoints/"):
            flip(held, bucket, key, which=-1)
        return done

    exported(platform, 1)
    with monkeypatch.context() as lie:
        lie.setattr(held, "write", spoilt)
        with pytest.raises(IntegrityError, match="returned other bytes than were written"):
            exported(platform, 1)
    export(platform)
    assert judged(platform, tmp_path)
    assert all_on_record(platform)


@pytest.mark.parametrize("kept", [0, 1], ids=["nothing", "the first record"])
def test_i13_a_segment_that_was_stored_cut_short_is_put_again_by_the_next_run(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    held = site(platform, "primary")
    write = held.write

    def cut(bucket: str, key: str, body: bytes, **more: Any) -> Any:
        return write(bucket, key, b"".join(body.splitlines(keepends=True)[:kept]), **more)

    exported(platform, 1)
    with monkeypatch.context() as lie:
        lie.setattr(held, "write", cut)
        with pytest.raises(IntegrityError, match="returned other bytes than were written"):
            exported(platform, 1)
    export(platform)
    assert judged(platform, tmp_path)
    assert all_on_record(platform)


def test_p8_what_an_export_wrote_that_was_killed_before_its_record_is_on_record_after_the_next(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = platform.ledger.append

    def killed(kind: Any, subject: str, body: Any) -> Any:
        if kind == "checkpoint":
            raise KeyboardInterrupt
        return append(kind, subject, body)

    with monkeypatch.context() as end:
        end.setattr(platform.ledger, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            exported(platform, 1)
    export(platform)
    assert judged(platform, tmp_path)
    assert all_on_record(platform)


def all_on_record(platform: Platform) -> bool:
    """Whether the records of exports name every segment that stands at the site."""
    records = platform.ledger.find("checkpoint", limit=100)
    named = {segment["key"] for record in records for segment in record.body["segments"]}
    return named == set(keys(platform, "primary", "evidence", "ledger/"))


@pytest.mark.parametrize("name", ["primary", "haven"])
def test_p8_an_export_whose_puts_were_not_answered_is_whole(platform: Platform, tmp_path: Path, name: str) -> None:
    site(platform, name).mute = 2
    exported(platform, 2)
    assert judged(platform, tmp_path)
    assert all(
        len(list(platform.sites[name].versions(b, k))) == 1
        for n, b, _ in PLACES
        if n == name
        for k in keys(platform, n, b)
    )


@pytest.mark.parametrize(("name", "bucket", "known"), [("primary", "evidence", 3), ("haven", "checkpoints", 3)])
def test_l9_a_bucket_that_was_emptied_is_an_alarm_until_a_person_repairs_it(
    platform: Platform, tmp_path: Path, name: str, bucket: str, known: int
) -> None:
    exported(platform)
    before = {key: platform.sites[name].read(bucket, key) for key in keys(platform, name, bucket)}
    for key in before:
        wipe(site(platform, name), bucket, key)
    platform.ledger.append("snapshot", "bookings", {"rows": 9})
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"left in {bucket} at site '{name}': the ledger knows {known}"):
            export(platform)
    assert keys(platform, name, bucket) == [], "nothing is exported anew in silence"
    assert len(evidence.repair(platform).healed) == len(before) and not keys(platform, name, bucket)
    done = evidence.repair(platform, dry_run=False)
    assert len(done.healed) == len(before)
    assert {key: platform.sites[name].read(bucket, key) for key in before} == before
    export(platform)
    assert judged(platform, tmp_path)


def test_i11_an_old_object_comes_to_its_turn(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from rempart.flows.governance import locked_evidence

    monkeypatch.setattr(locked_evidence, "AT_ONCE", 4)
    exported(platform, 12)
    oldest = keys(platform, "haven", "checkpoints")[0]
    flip(site(platform, "haven"), "checkpoints", oldest)
    every = platform.config.evidence.every
    for number in range(12):
        later = dataclasses.replace(platform, clock=lambda number=number: NOW + number * every)  # type: ignore[misc]
        export(later)
        if platform.ledger.find("repair"):
            return
    pytest.fail("it was never read back")


@pytest.mark.parametrize("how", [flip, wipe])
@pytest.mark.parametrize(("name", "bucket"), [("primary", "evidence"), ("haven", "checkpoints")])
def test_i11_what_is_older_than_the_recent_exports_comes_to_its_turn_within_a_round(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, name: str, bucket: str, how: Callable[..., None]
) -> None:
    from rempart.flows.governance import locked_evidence

    monkeypatch.setattr(locked_evidence, "RECENT", 3)
    every = platform.config.evidence.every
    monkeypatch.setattr(locked_evidence, "ROUND", 9 * every)
    exported(platform, 12)
    damaged = [key for key in keys(platform, name, bucket) if "000000000001" not in key][:6:2]
    for key in damaged:
        how(site(platform, name), bucket, key)
    read = []
    for number in range(9):
        later = dataclasses.replace(platform, clock=lambda number=number: NOW + number * every)  # type: ignore[misc]
        exports, _ = evidence.open_exports(later)
        read.append(locked_evidence.check(exports).read)
    told = [obj for record in platform.ledger.find("repair", "evidence") for obj in record.body["objects"]]
    assert len(told) == 3 and all(any(key in line for line in told) for key in damaged), told
    assert max(read) < 3 * 12, "no run reads all of it"


def test_i11_a_segment_is_not_made_anew_from_a_database_that_says_something_else(platform: Platform) -> None:
    exported(platform)
    assert isinstance(platform.ledger, MemoryLedger)
    key = keys(platform, "primary", "evidence", "ledger/")[-1]
    flip(site(platform, "primary"), "evidence", key)
    chain = platform.ledger.chain
    place = int(key[7:19]) - 1
    chain[place] = dataclasses.replace(chain[place], text=chain[place].text.replace('"v":1', '"v":2'))
    with pytest.raises(LedgerBroken, match=r"Records \d+ to \d+ of the ledger differ from those exported"):
        export(platform)


def test_a_forged_checkpoint_on_top_of_the_true_one_does_not_take_its_place(platform: Platform, tmp_path: Path) -> None:
    exported(platform, 1)
    held, (key,) = site(platform, "haven"), keys(platform, "haven", "checkpoints")
    true = held.read("checkpoints", key)
    held.write("checkpoints", key, checkpoint(Head(5, "f" * 64), NOW, KEY).encode())
    exported(platform, 1)
    export_to(platform, tmp_path / "audit")
    assert (tmp_path / "audit" / "checkpoints" / Path(key).name).read_bytes() == true


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
        assert f"rempart doctor site {name}" in refused.value.hint
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
