"""Sealed segments: a prefix opens to what was whole in it, and what is not as it was written is refused and told."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ServingError
from rempart.serving import frames, records, seals
from rempart.serving.frames import MARK, framed
from rempart.serving.seals import OpenedSegment, Sealing, SegmentSeal, open_segment
from tests.logged import entry, grouped

SEALED = Sealing("scope 0001", lambda data_key: bytes(byte ^ 0x5A for byte in data_key))
TEXTS = st.text(max_size=30) | st.sampled_from(["\xa7RJ2", "\x00" * 20, '{"at":'])
GROUPS = st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=5)
SEALINGS = st.sampled_from([SEALED, None])


def unwrap(name: str, wrapped: bytes) -> bytes:
    assert name == SEALED.key
    return SEALED.wrap(wrapped)


def segment(
    groups: Sequence[Sequence[str]], sealing: Sealing | None = SEALED, name: str = "s1"
) -> tuple[list[bytes], list[list[str]]]:
    """The head and the frames of a segment with a record for each group of texts, and the ids of each."""
    number, seal = itertools.count(), SegmentSeal(name, sealing)
    made = [grouped(*(entry(next(number), inputs={"agent": text}) for text in texts)) for texts in groups]
    first = framed(0, seal._head)
    body = b"".join(seal.framed([records.encode(each)]) for each in made)
    parts, place = [first], len(first)
    for frame in frames.read(body).whole[1:]:
        size = len(framed(frame.position, frame.payload))
        parts.append(body[place : place + size])
        place += size
    assert b"".join(parts) == body
    return parts, [list(each.public.ids) for each in made]


def ids(found: OpenedSegment) -> list[str]:
    return [each.id for each in found.entries]


@given(GROUPS, SEALINGS, st.data())
def test_any_prefix_opens_to_the_records_that_were_whole(
    groups: list[list[str]], sealing: Sealing | None, data: st.DataObject
) -> None:
    parts, written = segment(groups, sealing)
    body = b"".join(parts)
    cut = data.draw(st.integers(0, len(body)))
    found = open_segment("s1", body[:cut], unwrap)
    ends = list(itertools.accumulate(map(len, parts)))
    whole = sum(end <= cut for end in ends)
    assert ids(found) == [id_ for group in written[: max(0, whole - 1)] for id_ in group]
    assert found.torn == cut - (ends[whole - 1] if whole else 0) and not found.faults
    texts = [text for group in groups for text in group]
    assert [each.inputs["agent"] for each in found.entries] == texts[: len(found.entries)]


@given(GROUPS, SEALINGS, st.data())
def test_an_altered_byte_costs_its_record_and_is_told(
    groups: list[list[str]], sealing: Sealing | None, data: st.DataObject
) -> None:
    parts, written = segment(groups, sealing)
    body = bytearray(b"".join(parts))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    hit = next(number for number, end in enumerate(itertools.accumulate(map(len, parts))) if place < end)
    found = open_segment("s1", bytes(body), unwrap)
    assert ids(found) == [id_ for number, group in enumerate(written, 1) if number != hit and hit for id_ in group]
    # a last frame whose length was enlarged looks as if its end was never written
    assert found.faults or (found.torn == len(parts[-1]) and hit == len(parts) - 1)


def resealed(part: bytes, **changed: bytes) -> bytes:
    """A frame whose payload was altered by somebody who knows the format: its checksum is right."""
    (frame,) = frames.read(part).whole
    payload = frame.payload
    for old, new in ((changed["old"], changed["new"]),):
        assert old in payload and len(old) == len(new)
        payload = payload.replace(old, new)
    return framed(frame.position, payload)


def test_nobody_without_the_data_key_alters_a_record() -> None:
    parts, written = segment([["a"], ["b"], ["c"]])
    altered = resealed(parts[2], old=b'"prediction":81', new=b'"prediction":10')
    found = open_segment("s1", b"".join([*parts[:2], altered, parts[3]]), unwrap)
    assert ids(found) == written[0] + written[2]
    assert found.faults[0] == "record 2 was altered, or was written to another place"
    assert "record" in found.faults[1] and "2 are missing" in found.faults[1]


@given(st.permutations(range(1, 5)))
def test_records_in_another_order_are_refused(order: list[int]) -> None:
    parts, written = segment([["a"], ["b"], ["c"], ["d"]])
    found = open_segment("s1", b"".join([parts[0], *(parts[number] for number in order)]), unwrap)
    assert ids(found) == sorted(ids(found)) and set(ids(found)) <= {id_ for group in written for id_ in group}
    assert bool(found.faults) == (order != [1, 2, 3, 4])


@given(st.sets(st.integers(1, 4)))
def test_records_that_were_cut_out_before_others_are_told(gone: set[int]) -> None:
    parts, written = segment([["a"], ["b"], ["c"], ["d"]])
    left = [number for number in range(1, 5) if number not in gone]
    found = open_segment("s1", b"".join([parts[0], *(parts[number] for number in left)]), unwrap)
    assert ids(found) == [written[number - 1][0] for number in left]
    assert bool(found.faults) == (left != list(range(1, len(left) + 1)))
    assert all("missing before record" in fault for fault in found.faults)


def test_a_record_that_stands_twice_counts_once_and_is_told() -> None:
    parts, written = segment([["a"], ["b"]])
    found = open_segment("s1", b"".join([*parts, parts[1]]), unwrap)
    assert ids(found) == written[0] + written[1] and found.faults == ("record 1 stands behind record 2",)


def test_a_record_of_another_segment_is_refused() -> None:
    parts, written = segment([["a"], ["b"]])
    others, _ = segment([["x"], ["y"]], name="s2")
    found = open_segment("s1", b"".join([parts[0], parts[1], others[2]]), unwrap)
    assert ids(found) == written[0] and "record 2 was altered" in found.faults[0]
    renamed = open_segment("s1", b"".join(others), unwrap)
    assert not renamed.entries and renamed.faults == ("no record can be opened: the head is of another segment",)
    (frame,) = frames.read(others[0]).whole
    relabelled = framed(0, frame.payload.replace(b'"s2"', b'"s1"'))
    assert not open_segment("s1", b"".join([relabelled, *others[1:]]), unwrap).entries


def test_without_its_head_no_record_opens_and_nothing_is_taken_for_whole() -> None:
    parts, _ = segment([["a"], ["b"]])
    found = open_segment("s1", b"".join(parts[1:]), unwrap)
    assert not found.entries and found.faults == ("no record can be opened: the head is missing or damaged",)
    (frame,) = frames.read(parts[0]).whole
    older = framed(0, frame.payload.replace(b"journal 2", b"journal 1"))
    assert "another format" in open_segment("s1", b"".join([older, *parts[1:]]), unwrap).faults[0]


def test_a_destroyed_key_leaves_what_is_public() -> None:
    parts, written = segment([["CANARY", "b"]])
    assert b"CANARY" not in b"".join(parts)
    found = open_segment("s1", b"".join(parts), lambda name, wrapped: None)
    assert ids(found) == written[0] and not found.is_readable and not found.faults
    assert found.key == SEALED.key and [each.inputs for each in found.entries] == [{}, {}]


def test_zeros_and_the_beginning_of_a_frame_are_a_torn_write_and_other_bytes_are_damage() -> None:
    parts, written = segment([["a"]])
    for tail in (bytes(64), MARK, MARK[:2], parts[1][:-1]):
        found = open_segment("s1", b"".join(parts) + tail, unwrap)
        assert (ids(found), found.torn, found.faults) == (written[0], len(tail), ())
    found = open_segment("s1", b"".join(parts) + b"stray", unwrap)
    assert (ids(found), found.torn, found.faults) == (written[0], 0, ("5 bytes belong to no record",))
    assert open_segment("s1", b"", unwrap) == seals.OpenedSegment()


def test_equal_records_are_sealed_with_other_nonces_and_keys() -> None:
    seal, record = SegmentSeal("s1", SEALED), records.encode(grouped(entry(1)))
    first, second = frames.read(seal.framed([record, record])).whole[1:]
    assert first.position + 1 == second.position and first.payload != second.payload
    other = frames.read(SegmentSeal("s1", SEALED).framed([record])).whole[1]
    assert other.payload != first.payload


def test_a_record_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 100)
    with pytest.raises(ServingError, match="more than 100"):
        records.encode(grouped(entry(1)))


def test_a_record_that_is_nested_too_deep_costs_no_other() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ServingError, match="no form in JSON"):
        records.encode(grouped(entry(1, inputs={"agent": deep})))
    whole = records.encode(grouped(entry(1)))
    nested = b'{"inputs": [{"agent": ' + b"[" * 5000 + b"]" * 5000 + b'}], "names": [], "features": [[]]}'
    body = SegmentSeal("s1", SEALED).framed([records.EncodedGroup(whole.public, nested), whole])
    found = open_segment("s1", body, unwrap)
    assert ids(found) == [entry(1).id] and len(found.faults) == 2
