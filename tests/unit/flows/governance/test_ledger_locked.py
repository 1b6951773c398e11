"""I11, L9, P8: checkpoints and segments that a site alters, loses or stores without an answer. Sites in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rempart.errors import IntegrityError, LedgerBroken
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export, export_to
from rempart.flows.shared.platform import Platform
from rempart.ledger.chain import Head, checkpoint
from rempart.ledger.memory import MemoryLedger
from tests.restorable import flip, wipe
from tests.unit.flows.governance.locked_export import KEY, NOW, PLACES, exported, judged, keys, new_platform, site


@pytest.fixture
def platform() -> Platform:
    return new_platform()


def after(platform: Platform, exports: int) -> Platform:
    """The same platform after the time of so many exports."""
    return dataclasses.replace(platform, clock=lambda: NOW + exports * platform.config.evidence.every)


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
    for number in range(12):
        export(after(platform, number))
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
        exports, _ = evidence.open_exports(after(platform, number))
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
