"""I11, L9, P8: links of the chain and manifests that a site alters, loses or stores without an answer.

The sites are in memory. The ledger has the same bytes and puts them back; a version on top of a link does not displace
it.
"""

from __future__ import annotations

from typing import Any

import pytest

from rempart.backup.points import chain, points
from rempart.backup.points.chain import Link, Mark
from rempart.errors import BackupError, IntegrityError, SiteUnavailable
from rempart.flows.backup import mend_links
from rempart.flows.backup.mend_links import check_chain, hashes, mend, named_links
from rempart.flows.backup.point_store import store_at
from rempart.flows.backup.restore_points import survey
from rempart.flows.restore.repair import repair
from rempart.sites.once import store_once
from tests.memory_site import MemorySite
from tests.restorable import NOW, SIGNER, TRUSTED, UNTIL, House, flip, house, wipe

BUCKET = "backups"


@pytest.fixture
def made() -> House:
    """Three points that the ledger knows."""
    found = house()
    for _ in range(3):
        found.point(recorded=True)
    return found


def links(made: House) -> list[Link]:
    named = hashes(named_links(made.platform.ledger, "haven", BUCKET))
    return chain.verify(chain.read(made.haven, BUCKET, TRUSTED, named=named), TRUSTED)


def bodies(made: House) -> dict[int, bytes]:
    return {link.seq: link.body for link in chain.read(made.haven, BUCKET, TRUSTED)}


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_i11_a_link_in_which_a_bit_flipped_is_put_back_from_the_ledger_under_lock(made: House, seq: int) -> None:
    right = bodies(made)[seq]
    flip(made.haven, BUCKET, chain.key_of(seq))
    with pytest.raises(IntegrityError, match=f"broken at link {seq} .*"):
        made.open()
    shown = mend(store_at(made.platform, made.haven))
    assert shown.healed == (seq,) and shown.lost == ()
    with pytest.raises(IntegrityError):
        made.open()
    assert mend(store_at(made.platform, made.haven), dry_run=False).healed == (seq,)
    newest = made.haven.head(BUCKET, chain.key_of(seq))
    assert made.haven.read(BUCKET, chain.key_of(seq)) == right
    assert made.haven.retained_until(BUCKET, chain.key_of(seq), str(newest.version_id))
    assert made.open().link.seq == 3 and len(links(made)) == 3
    # also who has no ledger, the public key alone, reads it
    assert [link.body for link in chain.read(made.haven, BUCKET, TRUSTED)] == list(bodies(made).values())
    assert made.platform.ledger.find("repair", "haven")[0].body["links"] == [seq]
    assert mend(store_at(made.platform, made.haven), dry_run=False) == mend_links.Mended(), (
        "a second repair has nothing to do"
    )
    made.point(recorded=True)
    assert made.open().link.seq == 4


def test_i11_a_repair_does_not_bring_the_altered_link_back_over_the_right_one(made: House) -> None:
    flip(made.haven, BUCKET, chain.key_of(2))
    for _ in range(2):
        repair(made.platform, "haven", dry_run=False)
        assert len(links(made)) == 3 and made.open().link.seq == 3


def test_i11_a_backup_mends_the_end_of_the_chain_before_it_goes_on(
    made: House, caplog: pytest.LogCaptureFixture
) -> None:
    flip(made.haven, BUCKET, chain.key_of(3))
    with pytest.raises(IntegrityError, match="broken at link 3"):  # alone, a backup does not build on it
        chain.append(made.haven, BUCKET, "p", NOW, "0" * 64, SIGNER, consistent=True)
    check_chain(store_at(made.platform, made.haven))
    assert "restored link 3 of the chain at site 'haven'" in caplog.text
    made.point(recorded=True)
    assert [link.seq for link in links(made)] == [1, 2, 3, 4]


def test_i11_the_list_of_points_says_that_the_newest_points_link_is_altered(made: House) -> None:
    assert not any("link" in doubt for doubt in survey(made.platform, "haven").points[0].doubts)
    flip(made.haven, BUCKET, chain.key_of(3))
    assert any(
        "its chain link is altered or missing" in doubt for doubt in survey(made.platform, "haven").points[0].doubts
    )
    mend(store_at(made.platform, made.haven), dry_run=False)
    assert not any("link" in doubt for doubt in survey(made.platform, "haven").points[0].doubts)


def test_i11_a_link_that_is_gone_is_put_back(made: House) -> None:
    for seq in (2, 3):
        wipe(made.haven, BUCKET, chain.key_of(seq))
    check_chain(store_at(made.platform, made.haven))
    assert made.open().link.seq == 3 and len(links(made)) == 3


class Bad(MemorySite):
    """Stores something else than it was given, so many times."""

    times = 0

    def write(self, bucket: str, key: str, body: bytes, **how: Any) -> Any:
        info = super().write(bucket, key, body, **how)
        if self.times and key.startswith(("chain/", "points/")):
            self.times -= 1
            flip(self, bucket, key, which=-1)
        return info


def bad(made: House, times: int) -> Bad:
    site = Bad("haven")
    site.__dict__.update(made.haven.__dict__)
    site.times = times
    made.platform.sites["haven"] = made.haven = site
    return site


def test_i11_a_link_and_a_manifest_that_are_stored_wrong_once_are_put_again_before_they_count(made: House) -> None:
    bad(made, 1)
    point = made.point(recorded=True)
    assert made.open().manifest.id == point
    bad(made, 0).write(BUCKET, "points/x", b"")
    site = bad(made, 0)
    original = site.write

    def once(bucket: str, key: str, body: bytes, **how: Any) -> Any:
        site.times = 1 if key.endswith("manifest.json") and not how.get("seen") else 0
        site.write = original  # type: ignore[method-assign]
        return original(bucket, key, body, **how)

    site.write = once  # type: ignore[method-assign,assignment]
    point = made.point(recorded=True)
    assert made.open().manifest.id == point
    point = made.point(recorded=True)
    assert made.open().manifest.id == point and len(links(made)) == 6


def test_i11_a_site_that_always_stores_links_wrong_gets_no_point_and_no_record(made: House) -> None:
    bad(made, 1000)
    before = points.list(made.haven, BUCKET)
    with pytest.raises(IntegrityError, match="returned other bytes than were written"):
        made.point(recorded=True)
    assert points.list(made.haven, BUCKET) == before
    assert len(made.platform.ledger.find("restore-point")) == 3


def broken_without_a_copy(made: House) -> None:
    """The last link is altered, and no ledger has its bytes: its backup died before the record."""
    made.point(recorded=False)
    flip(made.haven, BUCKET, chain.key_of(4))


def test_i11_a_link_without_any_true_copy_is_marked_as_lost_and_backups_go_on(made: House) -> None:
    newest = made.open().manifest.id
    broken_without_a_copy(made)
    orphan = points.list(made.haven, BUCKET)[0]
    with pytest.raises(IntegrityError, match="broken at link 4"):
        check_chain(store_at(made.platform, made.haven))
    done = repair(made.platform, "haven", dry_run=False)
    assert done.links.lost == (4,) and done.links.marked == ()
    with pytest.raises(IntegrityError, match="broken at link 4"):
        made.open()
    done = repair(made.platform, "haven", dry_run=False, mark_lost=True)
    assert done.links.marked == (4,)
    assert made.platform.ledger.find("repair", "haven")[0].body["lost"] == [4]
    found = made.open()
    assert found.manifest.id == newest and [record.seq for record in found and links(made)] == [1, 2, 3]
    with pytest.raises(IntegrityError, match="the chain has none"):
        made.open(point=orphan, force=True)  # the mark vouches for nothing
    after = made.point(recorded=True)
    assert made.open().manifest.id == after and [link.seq for link in links(made)] == [1, 2, 3, 5]
    marks = list(made.haven.versions(BUCKET, chain.mark_of(4)))
    assert made.haven.retained_until(BUCKET, chain.mark_of(4), str(marks[0].version_id))


def test_i11_a_lost_link_is_taken_from_another_site_by_the_hash_that_the_next_link_names(made: House) -> None:
    second = bodies(made)[2]
    made.platform.sites["primary"].write(BUCKET, chain.key_of(2), second)
    flip(made.haven, BUCKET, chain.key_of(2))
    made.platform.ledger_.records.clear()  # type: ignore[union-attr] # a ledger that was restored to before
    assert mend(store_at(made.platform, made.haven), dry_run=False).healed == (2,)
    assert bodies(made)[2] == second and len(links(made)) == 3


def test_i11_a_true_copy_that_turns_up_takes_the_place_of_the_mark(made: House) -> None:
    right = bodies(made)[2]
    flip(made.haven, BUCKET, chain.key_of(2))
    records = made.platform.ledger_.records  # type: ignore[union-attr]
    kept = [*records]
    records.clear()
    mend(store_at(made.platform, made.haven), dry_run=False, mark_lost=True)
    assert [link.seq for link in links(made)] == [1, 3]
    records[:0] = kept
    mend(store_at(made.platform, made.haven), dry_run=False)
    assert bodies(made)[2] == right and [link.seq for link in links(made)] == [1, 2, 3]


# --- the intruder: he has the signing key, and may add objects and versions at the site -------------------------------


def forged(made: House, seq: int, manifest: str = "f" * 64, previous: str | None = None) -> bytes:
    true = {record.seq: record for record in links(made)}
    link = true.get(seq)
    before = previous or (link.previous if link else None)
    point = link.point if link else "20990401T000000Z-abcdef"
    return chain.encode(Link(seq, point, NOW, manifest, True, before, SIGNER.id), SIGNER)


@pytest.mark.parametrize("seq", [1, 2, 3])
@pytest.mark.parametrize("with_ledger", [True, False])
def test_i11_a_forged_link_on_top_displaces_no_healthy_one(made: House, seq: int, with_ledger: bool) -> None:
    true = bodies(made)
    made.haven.write(BUCKET, chain.key_of(seq), forged(made, seq))
    if not with_ledger:
        made.platform.ledger_.records.clear()  # type: ignore[union-attr]
    assert bodies(made) == true
    assert made.open().link.manifest_sha256 == links(made)[-1].manifest_sha256 != "f" * 64


def test_i11_a_forged_link_that_follows_on_a_forged_one_displaces_no_healthy_one(made: House) -> None:
    """He puts another link 3 on top, and a link 4 that names it."""
    true, other = bodies(made), forged(made, 3)
    made.haven.write(BUCKET, chain.key_of(3), other)
    made.haven.write(BUCKET, chain.key_of(4), forged(made, 4, previous=chain.StoredLink(3, other).hash))
    assert {seq: bodies(made)[seq] for seq in (1, 2, 3)} == true
    with pytest.raises(IntegrityError, match=r"broken at link 4 .*does not follow"):
        made.open()
    repair(made.platform, "haven", dry_run=False, mark_lost=True)
    assert made.open().link.seq == 3
    point = made.point(recorded=True)
    assert made.open().link.point == point


def test_i11_a_forged_mark_hides_no_healthy_link(made: House) -> None:
    for seq in (1, 2, 3):
        mark = Mark(seq, NOW, tuple(points.list(made.haven, BUCKET)))
        made.haven.write(BUCKET, chain.mark_of(seq), chain.encode_mark(mark, SIGNER))
    assert [link.seq for link in links(made)] == [1, 2, 3] and made.open().link.seq == 3
    assert made.find().lost == frozenset()


def test_i11_a_forged_link_in_place_of_a_damaged_one_is_not_taken_while_the_next_or_the_ledger_names_another(
    made: House,
) -> None:
    true, other = bodies(made), {seq: forged(made, seq) for seq in (2, 3)}
    for seq in (2, 3):
        flip(made.haven, BUCKET, chain.key_of(seq))
        made.haven.write(BUCKET, chain.key_of(seq), other[seq])
    mend(store_at(made.platform, made.haven), dry_run=False)
    named = hashes(named_links(made.platform.ledger, "haven", BUCKET))
    assert [link.body for link in chain.read(made.haven, BUCKET, TRUSTED, named=named)] == list(true.values())
    made.platform.ledger_.records.clear()  # type: ignore[union-attr]
    assert bodies(made)[2] == true[2], "link 3 names it"


# --- L9: all of it gone -----------------------------------------------------------------------------------------------


def test_l9_a_bucket_that_was_emptied_is_an_alarm_and_no_chain_begins_anew(made: House) -> None:
    true = bodies(made)
    for key in [*made.haven._buckets[BUCKET]]:
        wipe(made.haven, BUCKET, key)
    with pytest.raises(IntegrityError, match=r"All links of the chain are missing .* the last is 3"):
        check_chain(store_at(made.platform, made.haven))
    assert not [*made.haven.list(BUCKET)]
    done = repair(made.platform, "haven", dry_run=False)
    assert done.links.healed == (1, 2, 3) and bodies(made) == true
    check_chain(store_at(made.platform, made.haven))
    point = made.point(recorded=True)
    assert made.open().link.seq == 4 and made.open().manifest.id == point


# --- P8: the answer to a put is lost ----------------------------------------------------------------------------------


class Mute(MemorySite):
    """Stores what it is given, and its answer is lost: an error, or a client that asked again met its own object."""

    kind = "error"

    def write_new(self, bucket: str, key: str, body: bytes, **how: Any) -> bool:
        super().write_new(bucket, key, body, **how)
        if self.kind == "error":
            raise SiteUnavailable(f"put {bucket}/{key}: ReadTimeoutError", "Retry.")
        return False


@pytest.mark.parametrize("kind", ["error", "met its own object"])
def test_p8_a_point_whose_puts_were_not_answered_is_whole_and_reported_so(made: House, kind: str) -> None:
    site = Mute("haven")
    site.__dict__.update(made.haven.__dict__)
    site.kind = kind
    made.platform.sites["haven"] = made.haven = site
    point = made.point(recorded=True)
    assert made.open().manifest.id == point and [link.seq for link in links(made)] == [1, 2, 3, 4]
    (version,) = made.haven.versions(BUCKET, chain.key_of(4))
    assert made.haven.retained_until(BUCKET, chain.key_of(4), str(version.version_id)) == UNTIL


def test_p8_a_put_that_was_not_answered_and_not_stored_is_an_error() -> None:
    class Deaf(MemorySite):
        def write_new(self, bucket: str, key: str, body: bytes, **how: Any) -> bool:
            raise SiteUnavailable(f"put {bucket}/{key}: ReadTimeoutError", "Retry.")

    site = Deaf("haven")
    site.ensure_bucket(BUCKET, versioned=True, locked=True)
    with pytest.raises(SiteUnavailable):
        store_once(site, BUCKET, "a", b"one", content_type="text/plain")
    MemorySite.write_new(site, BUCKET, "a", b"another's")
    with pytest.raises(SiteUnavailable):
        store_once(site, BUCKET, "a", b"one", content_type="text/plain")


def test_p8_another_body_under_the_key_is_not_taken_for_ours(made: House) -> None:
    assert store_once(made.haven, BUCKET, "a", b"one", content_type="text/plain", retain_until=UNTIL)
    assert store_once(made.haven, BUCKET, "a", b"one", content_type="text/plain", retain_until=UNTIL)
    assert store_once(made.haven, BUCKET, "a", b"two", content_type="text/plain", retain_until=UNTIL) is None
    with pytest.raises(BackupError, match="already exists"):
        manifest = made.open().manifest
        points.write(made.haven, BUCKET, points.decode(points.encode(manifest).replace(b'"0.1.0"', b'"0.1.1"')))
