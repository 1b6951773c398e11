"""Checkpoints: after any lost, cut or failed write, the next attempt continues from the newest complete one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import TrainingError
from rempart.training.attempts import checkpoints as ck
from rempart.training.attempts.checkpoints import KEEP, Checkpoints, Manifest, StoredCheckpoint, is_checkpoint
from tests.unit.training import stage
from tests.unit.training.test_job import spec

SPEC = spec()
KEPT = st.builds(StoredCheckpoint, st.integers(0, 50), st.integers(0, 9).map(lambda digit: str(digit) * 64))
MANIFESTS = st.builds(
    lambda kept, done: Manifest(SPEC.job_id, done, tuple(dict.fromkeys(kept))),
    st.lists(KEPT, max_size=KEEP),
    st.integers(0, 1000),
)


@given(MANIFESTS, KEPT, st.integers(0, 1000), st.lists(KEPT.map(lambda checkpoint: checkpoint.name), max_size=6))
def test_a_commit_keeps_the_newest_and_one_before_and_deletes_nothing_that_is_named(manifest, newest, done, orphans):
    after = ck.committed(manifest, newest, done)
    assert after.kept[0] == newest and len(after.kept) == len(set(after.kept)) <= KEEP and after.done == done
    assert set(after.kept) <= {newest, *manifest.kept}
    present = {newest.name, *(checkpoint.name for checkpoint in manifest.kept), *orphans}
    gone = ck.superfluous(after, present)
    assert present - set(gone) == {checkpoint.name for checkpoint in after.kept}


@given(MANIFESTS)
def test_a_manifest_survives_a_round_trip(manifest):
    assert ck.parse_manifest(manifest.to_json(), SPEC.job_id) == manifest
    for checkpoint in manifest.kept:
        assert [*ck.without(manifest, checkpoint).kept] == [other for other in manifest.kept if other != checkpoint]


@given(st.binary(max_size=60) | st.recursive(st.integers() | st.text(max_size=3), st.lists).map(json.dumps))
def test_what_is_no_manifest_is_none(body):
    assert ck.parse_manifest(body if isinstance(body, bytes) else body.encode(), SPEC.job_id) is None


@pytest.mark.parametrize("sha256", ["../../x", "A" * 64, ""])
def test_a_manifest_that_names_anything_but_a_hash_is_not_usable(sha256):
    assert ck.parse_manifest(Manifest(SPEC.job_id, 1, (StoredCheckpoint(1, sha256),)).to_json(), SPEC.job_id) is None


class Killed(BaseException):
    """The process ended here."""


class Site:
    """A site in memory that can lose its client between two writes."""

    def __init__(self) -> None:
        self._site = stage.memory_site()
        self.killed_after: int | None = None

    def __getattr__(self, name):
        return getattr(self._site, name)

    def write(self, *arguments, **keywords):
        if self.killed_after is not None:
            self.killed_after -= 1
            if self.killed_after < 0:
                raise Killed
        return self._site.write(*arguments, **keywords)


def opened(site, lines=None):
    return Checkpoints(site, SPEC, lambda stage, **facts: None if lines is None else lines.append((stage, facts)))


def bodies(site):
    return [info.key for info in site.list("artifacts", SPEC.key(ck.FOLDER))]


ACTIONS = st.lists(st.sampled_from(["save", "kill before commit", "reopen", "corrupt"]), max_size=12)


@given(ACTIONS)
def test_whatever_happens_the_newest_whole_one_is_found(actions):
    site, step = Site(), 0
    kept: list[list] = []  # what the manifest names, oldest first: step, and whether its body is whole
    now = opened(site)
    for action in [*actions, "reopen"]:
        if action in ("save", "kill before commit"):
            step += 1
            site.killed_after = 1 if action != "save" else None
            try:
                now.save(step, {"x": np.array(step)}, step)
                kept = [*kept, [step, True]][-KEEP:]
            except Killed:
                now = opened(site)
                now.newest()
            site.killed_after = None
        elif action == "corrupt" and any(whole for _, whole in kept):
            newest = next(checkpoint for checkpoint in reversed(kept) if checkpoint[1])
            name = next(checkpoint for checkpoint in now.manifest.kept if checkpoint.step == newest[0]).name
            site.write("artifacts", SPEC.key(name), b"something else")
            newest[1] = False
        else:
            now = opened(site)
        if action != "corrupt":
            while kept and not kept[-1][1]:
                kept.pop()  # it was seen to be corrupt, and is named no more
            found = now.newest()
            assert (found and found[0]) == (kept[-1][0] if kept else None)
            assert found is None or int(found[1]["x"]) == found[0]
            assert len(bodies(site)) <= KEEP + 1
    now.clear()
    assert not bodies(site) and opened(site).newest() is None


def test_a_corrupt_manifest_means_a_start_from_nothing_and_says_so():
    site, lines = Site(), []
    opened(site).save(3, {"x": np.zeros(2)}, 3)
    site.write("artifacts", SPEC.key(ck.MANIFEST), b"{")
    assert opened(site, lines).newest() is None
    assert lines == [("checkpoint not usable", {"name": ck.MANIFEST})] and bodies(site) == []


def test_a_checkpoint_of_another_job_is_refused():
    site = Site()
    other = Manifest("0123456789abcdef", 1, ())
    site.write("artifacts", SPEC.key(ck.MANIFEST), other.to_json())
    with pytest.raises(TrainingError, match="belongs to job 0123456789abcdef"):
        opened(site).newest()


def test_where_versions_are_kept_no_version_of_a_body_stays():
    site = Site()
    now = opened(site)
    for _ in range(3):
        for step in (1, 2, 3):
            now.save(step, {"x": np.array(step)}, step)
    now.clear()
    held = [key for key, versions in site._site._buckets["artifacts"].items() if any(body for _, body in versions)]
    assert [key for key in held if key.startswith(SPEC.key(ck.FOLDER))] == []


def test_nothing_that_only_pickle_could_hold_is_stored_or_read():
    with pytest.raises(TrainingError, match="'x' contains Python objects"):
        ck.pack({"x": np.array([object()])})
    import io

    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], object))
    assert ck.unpack(buffer.getvalue()) is None
    assert ck.unpack(b"") is None and ck.unpack(b"PK\x03\x04broken") is None


def test_equal_arrays_give_equal_bytes():
    arrays = {"file": np.arange(5), "trees": np.zeros(3, [("value", "<f8"), ("left", "<u4")])}
    assert ck.pack(arrays) == ck.pack(dict(arrays))
    read = ck.unpack(ck.pack(arrays))
    assert set(read) == {"file", "trees"} and read["trees"].dtype == arrays["trees"].dtype


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        ("jobs/0123456789abcdef/checkpoint.json", True),
        ("jobs/0123456789abcdef/checkpoint/12-abc.npz", True),
        ("jobs/0123456789abcdef/result.json", False),
        ("jobs/0123456789abcdef/checkpointed.txt", False),
        ("models/checkpoint/1", False),
    ],
)
def test_which_objects_are_not_replicated(key, is_one):
    assert is_checkpoint(key) == is_one
