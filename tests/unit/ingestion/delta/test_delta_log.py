"""Publishing is written once, repeatable, and safe between two writers; a damaged log is named with its remedy."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from rempart.errors import IntegrityError, SiteError
from rempart.flows.ingestion import delta_log
from rempart.ingestion import snapshots
from rempart.ingestion.delta import checkpoint, log
from tests.delta_tables import NAME, NOON, rows, snapshot, stored
from tests.memory_site import MemorySite


class RivalledSite(MemorySite):
    """Another writer takes the version that is about to be written, as often as `rivals` has bodies."""

    rivals: list[bytes]

    def write_new(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        retain_until: datetime | None = None,
    ) -> bool:
        if "_delta_log" in key and self.rivals:
            self.write(bucket, key, self.rivals.pop(0))
        return super().write_new(bucket, key, body, metadata=metadata)


@pytest.fixture
def site() -> MemorySite:
    made = RivalledSite()
    made.rivals = []
    made.ensure_bucket("lake", versioned=True)
    return made


def versions(site: MemorySite) -> list[str]:
    return [info.key for info in site.list("lake", log.folder(NAME))]


def test_publishing_again_writes_nothing(site: MemorySite) -> None:
    made = stored(site, rows(1))
    assert [delta_log.publish(site, "lake", made) for _ in range(3)] == [0, 0, 0]
    assert len(list(site.versions("lake", log.folder(NAME)))) == 1


def test_of_two_writers_one_takes_the_version_and_the_other_follows(site: Any) -> None:
    delta_log.publish(site, "lake", stored(site, rows(1)))
    state, _ = delta_log.read(site, "lake", NAME)
    theirs = stored(site, rows(1), rows(2), number=1)
    ours = stored(site, rows(1), rows(4), number=2)
    site.rivals = [log.commit(state, theirs)]
    assert delta_log.publish(site, "lake", ours) == 2
    state, _ = delta_log.read(site, "lake", NAME)
    assert set(state.files) == {part.key.removeprefix(log.root(NAME)) for part in ours.parts}


def test_the_same_version_of_a_rival_is_ours_as_well(site: Any) -> None:
    made = stored(site, rows(1))
    site.rivals = [log.commit(log.State(), made)]
    assert delta_log.publish(site, "lake", made) == 0


def test_a_writer_that_lost_publishes_what_is_current_by_then(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, newest = stored(site, rows(1)), stored(site, rows(1), rows(2), number=1)
    site.rivals = [log.commit(log.State(), newest)]
    monkeypatch.setattr(snapshots, "current", lambda *_: newest)
    assert delta_log.publish(site, "lake", stale) == 0
    state, _ = delta_log.read(site, "lake", NAME)
    assert state.snapshot == newest.id


def test_a_stream_of_rivals_ends_in_an_error(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stored(site, rows(1))
    monkeypatch.setattr(snapshots, "current", lambda *_: made)
    line = [stored(site, rows(2 + n), number=n) for n in range(delta_log.TRIES)]
    site.rivals = [body for _, body in log.chain(line)]
    with pytest.raises(SiteError, match="other writers took 5 versions"):
        delta_log.publish(site, "lake", made)


def test_a_checkpoint_that_a_kill_prevented_is_written_by_the_next_run(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    line = [stored(site, rows(n + 1), number=n) for n in range(checkpoint.EVERY + 1)]
    for earlier in line[:-1]:
        delta_log.publish(site, "lake", earlier)
    with monkeypatch.context() as patched:
        patched.setattr(delta_log, "_write_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            delta_log.publish(site, "lake", line[-1])
    assert delta_log.publish(site, "lake", line[-1]) == checkpoint.EVERY
    assert checkpoint.checkpoint_key(NAME, checkpoint.EVERY) in versions(site)


@pytest.mark.parametrize("damage", ["other bytes", "a bad checkpoint"])
def test_a_damaged_log_is_named_and_mended_by_its_remedy_or_a_rebuild(site: MemorySite, damage: str) -> None:
    made = [stored(site, rows(n + 1), number=n) for n in range(12)]
    for found in made:
        delta_log.publish(site, "lake", found)
    key = log.version_key(NAME, 11) if damage == "other bytes" else checkpoint.checkpoint_key(NAME, 10)
    site.write("lake", key, b"<Error/>")
    with pytest.raises(IntegrityError, match="read the Delta log lake/snapshots/trips/_delta_log/") as red:
        delta_log.publish(site, "lake", made[-1])
    assert "Delete every object under snapshots/trips/_delta_log/" in red.value.hint
    before = versions(site)
    delta_log.drop_before(
        site, "lake", made[-1].pipeline, delta_log.restart(site, "lake", made[-1]), NOON + timedelta(days=1)
    )
    state, _ = delta_log.read(site, "lake", NAME)
    assert len(state.files) == 1 and state.snapshot == made[-1].id and not set(versions(site)) & set(before)
    for key in delta_log.withdraw(site, "lake", NAME, NOON).keys:
        assert key not in versions(site)
    assert delta_log.publish(site, "lake", made[-1]) == 0


@pytest.mark.parametrize("kept", [[12], [10, 11], [3, 12], []])
def test_a_torn_log_goes_on_with_a_version_that_names_every_file(site: MemorySite, kept: list[int]) -> None:
    """A deletion was killed: versions are missing. Without any version a checkpoint is left."""
    made = [stored(site, rows(n + 1), number=n) for n in range(13)]
    for found in made:
        delta_log.publish(site, "lake", found)
    for number in set(range(13)) - set(kept):
        site.delete("lake", log.version_key(NAME, number))
    if len(kept) == 1:
        site.delete("lake", checkpoint.checkpoint_key(NAME, 10))
    assert delta_log.is_behind(site, "lake", NAME, made[-1])
    version = delta_log.publish(site, "lake", made[-1])
    state, checkpoints = delta_log.read(site, "lake", NAME)
    assert (state.version, state.snapshot, len(state.files)) == (version, made[-1].id, 1)
    assert version in checkpoints or kept == [10, 11]
    assert not delta_log.is_behind(site, "lake", NAME, made[-1]) and delta_log.is_behind(site, "lake", NAME, None)
    assert delta_log.publish(site, "lake", made[-1]) == version


def test_a_withdrawn_log_leaves_no_version_behind(site: MemorySite) -> None:
    for number in range(3):
        delta_log.publish(site, "lake", stored(site, rows(number + 1), number=number))
    assert delta_log.withdraw(site, "lake", NAME, NOON).versions == 3
    assert not list(site.versions("lake", log.folder(NAME)))
    assert len(list(site.list("lake", snapshots.folder(NAME)))) == 3  # the parts stay


def test_an_earlier_snapshot_after_a_restore_is_a_new_version(site: MemorySite) -> None:
    first, second = stored(site, rows(1)), stored(site, rows(1, 2), number=1)
    for expected, made in enumerate((first, second, first)):
        assert delta_log.publish(site, "lake", made) == expected
    state, _ = delta_log.read(site, "lake", NAME)
    assert state.snapshot == first.id and len(state.files) == 1
    assert delta_log.publish(site, "lake", snapshot(first.parts, 0)) == 2
