"""Reading the versions of a key that is written once."""

from __future__ import annotations

import pytest

from rempart.sites import once
from tests.memory_site import MemorySite


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the versions that were read."""
    sizes: list[int] = []
    fetch = MemorySite.fetch

    def watched(self, *where, **which):
        found = fetch(self, *where, **which)
        sizes.append(len(found[1]))
        return found

    monkeypatch.setattr(MemorySite, "fetch", watched)
    return sizes


def test_a_version_that_is_too_large_to_be_ours_is_not_read(monkeypatch, fetched):
    monkeypatch.setattr(once, "MOST_BYTES", 100)
    site = MemorySite("haven")
    site.ensure_bucket("evidence", versioned=True)
    site.write("evidence", "segment", b"ours")
    site.write("evidence", "segment", bytes(101))
    assert [body for _, body in once.bodies(site, "evidence", "segment")] == [b"ours"]
    assert fetched == [4]


def test_a_body_is_looked_for_among_the_versions_of_its_size(fetched):
    site = MemorySite("haven")
    site.ensure_bucket("evidence", versioned=True)
    for body in (b"ours", bytes(5000), b"his!"):
        site.write("evidence", "segment", body)
    assert once.store_once(site, "evidence", "segment", b"ours", content_type="text/plain")
    assert set(fetched) == {4}
