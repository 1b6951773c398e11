"""S7: foreign objects with names of segments stop no export and hide no gap. Sites in memory."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from pathlib import Path

import pytest

from rempart.errors import IntegrityError, LedgerBroken, SiteUnavailable
from rempart.flows.governance.evidence import check_foreign, export
from rempart.flows.shared.platform import Platform
from rempart.ledger.chain import Head, extend
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from tests.restorable import wipe
from tests.unit.flows.governance.locked_export import KEY, NOW, exported, keys, new_platform, site

STRANGER = signer(bytes(31) + b"9")


@pytest.fixture
def platform() -> Platform:
    return new_platform()


def name(first: int, last: int) -> str:
    return f"ledger/{first:012d}-{last:012d}.jsonl"


def segments(platform: Platform) -> list[tuple[int, int]]:
    """First and last record of each segment that an export on record counts."""
    found = [segment["key"] for record in platform.ledger.find("checkpoint") for segment in record.body["segments"]]
    return sorted((int(key[7:19]), int(key[20:32])) for key in found)


def put(platform: Platform, key: str, body: bytes) -> None:
    """As somebody with the site's key does it, under lock."""
    assert site(platform, "primary").write_new("evidence", key, body, retain_until=NOW + timedelta(days=3650))


def stranger(seq: int) -> bytes:
    """A record with this number, well formed and signed by another key than the chain's."""
    return f"{extend(Head(seq - 1, 'f' * 64, STRANGER.id), NOW, 'snapshot', 'x', {}, STRANGER).line}\n".encode()


def unavailable(*where: object, **how: object) -> bool:
    raise SiteUnavailable("put evidence/ledger: no answer", "Run again.")


def whole(platform: Platform) -> None:
    """The exports on record cover each record once, without a gap."""
    found = segments(platform)
    assert found[0][0] == 1
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(found)), found


BODIES = {"rubbish": lambda last: b"x", "empty": lambda last: b"", "a stranger's record": stranger}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "key", [(1, 999999999999), (999999999999, 999999999999), (4, 500), (500, 4), (0, 0), (2, 2), (3, 3)], ids=str
)
def test_s7_an_object_that_is_no_segment_of_ours_stops_no_export(
    platform: Platform, tmp_path: Path, key: tuple[int, int], body: str
) -> None:
    exported(platform, 1)
    before = segments(platform)
    put(platform, name(*key), BODIES[body](key[1]))
    exported(platform, 3)
    whole(platform)
    assert len(segments(platform)) == len(before) + 3


def test_s7_it_is_told_once_and_the_export_is_complete(platform: Platform, tmp_path: Path) -> None:
    exported(platform, 1)
    put(platform, name(1, 999999999999), b"x")
    platform.ledger.append("snapshot", "bookings", {"rows": 9})
    done = export(platform)
    assert done.foreign == (f"evidence/{name(1, 999999999999)}",) and done.records
    with pytest.raises(IntegrityError, match="hold no record of ours: evidence/ledger/000000000001-999999999999"):
        check_foreign(done)
    (record,) = platform.ledger.find("repair", "foreign")
    assert record.body["keys"] == [f"evidence/{name(1, 999999999999)}"]
    platform.ledger.append("snapshot", "bookings", {"rows": 9})
    later = export(platform)
    check_foreign(later)
    assert later.foreign == () and len(platform.ledger.find("repair", "foreign")) == 1
    assert export(platform).records == 0, "what stays there is no news"


def test_s7_it_is_told_by_the_retry_of_an_export_that_failed(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(platform, 1)
    put(platform, name(1, 999999999999), b"x")
    platform.ledger.append("snapshot", "bookings", {"rows": 9})
    with monkeypatch.context() as broken:
        broken.setattr(site(platform, "primary"), "write_new", unavailable)
        with pytest.raises(SiteUnavailable):
            export(platform)
    assert export(platform).foreign == (f"evidence/{name(1, 999999999999)}",)


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("ahead", [1, 2, 3, 4, 6])
def test_s7_names_that_were_taken_ahead_of_the_export_make_no_gap(
    platform: Platform, tmp_path: Path, first: int, ahead: int
) -> None:
    """Somebody takes names of records that do not exist yet, so that a later export takes them for done."""
    exported(platform, 1)
    last = segments(platform)[-1][1]
    for number in range(last + first, last + first + ahead):
        put(platform, name(number, number), stranger(number))
        put(platform, name(number, number + 2), b"x")
    for _ in range(8):
        platform.ledger.append("snapshot", "bookings", {"rows": 1})
        export(platform)
    assert export(platform).last >= last + 8
    whole(platform)


def test_a_segment_of_ours_that_went_before_it_counted_is_no_gap(platform: Platform) -> None:
    """Of an export that was cut off after two segments, the site loses the first."""
    exported(platform, 1)
    last = segments(platform)[-1][1]
    for number in range(4):
        platform.ledger.append("snapshot", "bookings", {"rows": number})
    lines = [f"{entry.line}\n" for entry in platform.ledger.entries(last)]
    put(platform, name(last + 3, last + 4), "".join(lines[2:4]).encode())
    export(platform)
    assert (last + 1) in [first for first, _ in segments(platform)]
    whole(platform)


def test_i13_of_an_export_that_was_cut_off_what_was_stored_wrong_is_put_again(platform: Platform) -> None:
    exported(platform, 1)
    last = segments(platform)[-1][1]
    for number in range(2):
        platform.ledger.append("snapshot", "bookings", {"rows": number})
    put(platform, name(last + 1, last + 2), b"cut sho")
    export(platform)
    true = "".join(f"{entry.line}\n" for entry in list(platform.ledger.entries(last))[:2]).encode()
    assert site(platform, "primary").read("evidence", name(last + 1, last + 2)) == true
    whole(platform)


@pytest.mark.parametrize("with_copy", [False, True], ids=["alone", "beside a stranger's"])
def test_a_database_that_was_brought_back_is_still_found_by_a_segment_of_ours(
    platform: Platform, with_copy: bool
) -> None:
    exported(platform, 3)
    if with_copy:
        put(platform, name(1, 999999999999), b"x")
    assert isinstance(platform.ledger, MemoryLedger)
    newest = segments(platform)[-1]
    del platform.ledger.chain[newest[0] - 2 :]
    kept = len(platform.ledger.chain)
    platform.ledger.records[:] = [record for record in platform.ledger.records if record.seq <= kept]
    with pytest.raises(LedgerBroken, match="of the ledger differs from the one in evidence/ledger/"):
        export(platform)


def test_a_newest_record_that_was_rewritten_is_still_found(platform: Platform) -> None:
    exported(platform, 1)
    last = segments(platform)[-1][1]
    put(platform, name(last, last), b"x")
    exported(platform, 1)
    assert isinstance(platform.ledger, MemoryLedger)
    last = segments(platform)[-1][1]
    chain = platform.ledger.chain
    before = chain[last - 2]
    body = json.loads(chain[last - 1].text)["body"]
    chain[last - 1] = extend(Head(before.seq, before.hash, KEY.id), NOW, "snapshot", "rewritten", body, KEY)
    with pytest.raises(LedgerBroken):
        export(platform)


@pytest.mark.parametrize("lost", [0, -1])
def test_a_segment_of_ours_that_is_gone_is_still_put_again(platform: Platform, tmp_path: Path, lost: int) -> None:
    exported(platform, 3)
    put(platform, name(1, 999999999999), b"x")
    key = [key for key in keys(platform, "primary", "evidence", "ledger/") if "9999" not in key][lost]
    right = site(platform, "primary").read("evidence", key)
    wipe(site(platform, "primary"), "evidence", key)
    exported(platform, 1)
    assert site(platform, "primary").read("evidence", key) == right
    whole(platform)
