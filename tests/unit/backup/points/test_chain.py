"""The chain that attests restore points: after any attack, no altered result passes as the original."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.points import chain
from rempart.errors import BackupError, IntegrityError
from rempart.ledger.keys import signer
from tests.memory_site import MemorySite

KEY, OTHER = signer(bytes(31) + b"\1"), signer(bytes(31) + b"\2")
TRUSTED = {KEY.id: KEY.public}
NOW = datetime(2026, 2, 28, 23, 30, tzinfo=UTC)


def written(count: int, *, key=KEY) -> list[chain.StoredLink]:
    site = MemorySite("haven")
    site.ensure_bucket("backups", versioned=True)
    for number in range(count):
        at = NOW + timedelta(minutes=30 * number)
        chain.append(site, "backups", f"point-{number}", at, f"{number:064x}", key, consistent=number % 3 != 1)
    return chain.read(site, "backups", {key.id: key.public})


def test_a_chain_reads_back_as_written():
    links = chain.verify(written(5), TRUSTED)
    assert [(link.seq, link.point, link.consistent) for link in links] == [
        (1, "point-0", True),
        (2, "point-1", False),
        (3, "point-2", True),
        (4, "point-3", True),
        (5, "point-4", False),
    ]
    assert links[3].at == NOW + timedelta(minutes=90)
    assert chain.of_point(links, "point-2").manifest_sha256 == f"{2:064x}"
    with pytest.raises(IntegrityError, match="the chain has none"):
        chain.of_point(links, "point-9")


def test_i7_a_tail_of_the_chain_can_be_read_alone():
    assert [link.seq for link in chain.verify(written(5)[3:], TRUSTED)] == [4, 5]


@given(which=st.integers(0, 4), at=st.integers(0, 10_000), by=st.integers(1, 255))
def test_i7_any_byte_that_changes_breaks_the_chain(which, at, by):
    stored = WHOLE.copy()
    body = bytearray(stored[which].body)
    place = at % (len(body) - 1)  # all but the line's end
    body[place] ^= by
    stored[which] = chain.StoredLink(stored[which].seq, bytes(body))
    with pytest.raises(IntegrityError, match=r"broken at link \d"):
        chain.verify(stored, TRUSTED)


WHOLE = written(5)


@pytest.mark.parametrize(
    "done",
    [
        lambda links: links[:2] + links[3:],
        lambda links: links[1:2] + links[:1] + links[2:],
        lambda links: [*links[:2], chain.StoredLink(3, links[1].body), *links[3:]],
        lambda links: [chain.StoredLink(link.seq - 1, link.body) for link in links[1:]],
        lambda links: written(3, key=OTHER),
        lambda links: links[:4] + written(5, key=OTHER)[4:],
        lambda links: [chain.StoredLink(link.seq, link.body.split(b',"sig"')[0] + b"}") for link in links],
    ],
    ids=["removed", "swapped", "repeated", "renumbered", "another's", "another's at the end", "unsigned"],
)
def test_i7_a_chain_that_was_tampered_with_is_refused(done):
    with pytest.raises(IntegrityError, match="chain of restore points: it is broken"):
        chain.verify(done(WHOLE), TRUSTED)


def test_after_a_rotation_both_keys_count():
    site = MemorySite("haven")
    site.ensure_bucket("backups", versioned=True)
    for number, key in enumerate((KEY, KEY, OTHER)):
        chain.append(site, "backups", f"point-{number}", NOW, "0" * 64, key, consistent=True, keys=TRUSTED)
    both = TRUSTED | {OTHER.id: OTHER.public}
    assert len(chain.verify(chain.read(site, "backups", both), both)) == 3
    with pytest.raises(IntegrityError, match=r"broken at link 3 .* which is not trusted"):
        chain.verify(chain.read(site, "backups", TRUSTED), TRUSTED)


def test_p6_two_backups_at_once_make_one_chain():
    class Slow(MemorySite):
        """Another backup is always faster, so many times."""

        faster = 2

        def write_new(self, bucket, key, body, **how):
            if self.faster:
                self.faster -= 1
                chain.append(self.under, bucket, "faster", NOW, "1" * 64, KEY, consistent=True)
            return self.under.write_new(bucket, key, body, **how)

        def __init__(self, under):
            super().__init__("haven")
            self.under = under
            self.versions, self.fetch = under.versions, under.fetch

    under = MemorySite("haven")
    under.ensure_bucket("backups", versioned=True)
    assert chain.append(Slow(under), "backups", "slow", NOW, "2" * 64, KEY, consistent=True).seq == 3
    assert [link.point for link in chain.verify(chain.read(under, "backups", TRUSTED), TRUSTED)] == [
        "faster",
        "faster",
        "slow",
    ]
    never = Slow(under)
    never.faster = 99
    with pytest.raises(BackupError, match="other backups"):
        chain.append(never, "backups", "slow", NOW, "2" * 64, KEY, consistent=True)
