"""Objects that only one site wrote are found, whatever the catalogues hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.replication.divergence import KnownVersion, diverged
from rempart.sites.port import ObjectInfo

START = datetime(2026, 1, 1, tzinfo=UTC)


def info(key: str, etag: str, minute: int = 0) -> ObjectInfo:
    return ObjectInfo(key, 1, START + timedelta(minutes=minute), None, etag)


def test_each_case_of_one_key() -> None:
    home = [
        info("same", "h1"),
        info("newer here", "h2", 5),
        info("new here", "h1", 3),
        info("both", "h2", 9),
        info("deleted there", "h1"),
        info("deleted there, changed here", "h2", 7),
        info("changed there", "h1"),
    ]
    active = [info("same", "a1"), info("newer here", "a1"), info("both", "a2"), info("changed there", "a2")]
    shared = ["same", "newer here", "both", "deleted there", "deleted there, changed here", "changed there"]
    known = [KnownVersion(key, "h1") for key in shared], [KnownVersion(key, "a1") for key in shared]
    found = diverged(home, active, *known, lambda at: at < START + timedelta(minutes=6))
    assert [change.key for change in found.adopt] == ["new here", "newer here"], "oldest first"
    assert [change.key for change in found.both] == ["deleted there, changed here", "both"]
    late = diverged(home, active, *known, lambda at: False)
    assert [change.key for change in late.adopt] == ["new here"]
    assert [change.key for change in late.both] == ["newer here", "deleted there, changed here", "both"]


VERSIONS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(("1", "2", "3")))


@given(home=VERSIONS, active=VERSIONS, known_home=VERSIONS, known_active=VERSIONS, own=st.booleans())
def test_a_version_that_was_never_at_the_other_site_is_taken_over_or_looked_at(
    home: dict[str, str], active: dict[str, str], known_home: dict[str, str], known_active: dict[str, str], own: bool
) -> None:
    found = diverged(
        [info(*fields) for fields in home.items()],
        [info(*fields) for fields in active.items()],
        [KnownVersion(*fields) for fields in known_home.items()],
        [KnownVersion(*fields) for fields in known_active.items()],
        lambda at: own,
    )
    named = {change.key for change in (*found.adopt, *found.both)}
    assert named == {key for key, etag in home.items() if known_home.get(key) != etag}
    for change in found.adopt:
        there = active.get(change.key)
        assert there is None or (own and known_active.get(change.key) == there), (
            "what the active site wrote alone is never replaced"
        )
