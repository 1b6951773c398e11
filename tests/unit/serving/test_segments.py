"""Segments of the journal: what lies before a torn tail is read, and damage costs what it hit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ServingError
from rempart.serving import segments
from rempart.serving.segments import Segment, closed_in, content, framed

TEXTS = st.text(max_size=40) | st.sampled_from(['{"id":"', '\\{"id":"x"}', "\x00\x00\x00\x00" + '{"id":"'])
PAYLOADS = st.lists(TEXTS.map(lambda text: json.dumps({"id": text}, separators=(",", ":")).encode()), max_size=6)


@given(PAYLOADS, st.data())
def test_a_torn_tail_costs_only_the_write_that_was_torn(payloads: list[bytes], data: st.DataObject) -> None:
    frames = [framed(payload) for payload in payloads]
    body = b"".join(frames)
    cut = data.draw(st.integers(0, len(body)))
    whole = [i for i in range(len(frames)) if sum(map(len, frames[: i + 1])) <= cut]
    found = content(body[:cut])
    assert found.payloads == tuple(payloads[i] for i in whole)
    assert found.torn == cut - sum(len(frames[i]) for i in whole) and found.damaged == 0


@given(PAYLOADS.filter(bool), st.data())
def test_an_altered_byte_costs_one_entry_and_is_told(payloads: list[bytes], data: st.DataObject) -> None:
    frames = [framed(payload) for payload in payloads]
    body = bytearray(b"".join(frames))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    hit = next(i for i in range(len(frames)) if place < sum(map(len, frames[: i + 1])))
    found = content(bytes(body))
    assert found.payloads == tuple(payload for i, payload in enumerate(payloads) if i != hit)
    lost = (0, len(frames[hit])) if hit == len(frames) - 1 else (len(frames[hit]), 0)
    assert (found.damaged, found.torn) == lost


def test_zeros_that_a_lost_write_left_are_no_entry() -> None:
    assert content(framed(b'{"id":"a"}') + bytes(64)).torn == 64
    assert content(b"") == segments.SegmentContent(())
    with pytest.raises(ServingError, match="more than"):
        framed(bytes(segments.MOST_BYTES + 1))


def test_a_segment_is_closed_once_its_writer_is_gone(tmp_path: Path) -> None:
    writing, done, empty = Segment(tmp_path, "a"), Segment(tmp_path, "b"), Segment(tmp_path, "c")
    for segment in (writing, done):
        segment.append(framed(b'{"id":"1"}'))
    done.close()
    empty.close()
    (tmp_path / ".killed.journal").touch()
    assert closed_in(tmp_path) == [done.file] and segments.all_in(tmp_path) == [writing.file, done.file]
    writing.close()
    assert closed_in(tmp_path) == [writing.file, done.file]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.journal", "b.journal"]
    assert closed_in(tmp_path / "nowhere") == []


def test_one_process_ships_a_folder_at_a_time(tmp_path: Path) -> None:
    with segments.shipping(tmp_path) as first, segments.shipping(tmp_path) as second:
        assert first and not second
    with segments.shipping(tmp_path) as again:
        assert again
