"""Segment files of the journal: which are closed, and who may ship them."""

from __future__ import annotations

from pathlib import Path

from rempart.serving import segments
from rempart.serving.segments import Segment, closed_in


def test_a_segment_is_closed_once_its_writer_is_gone(tmp_path: Path) -> None:
    writing, done, empty = Segment(tmp_path, "a"), Segment(tmp_path, "b"), Segment(tmp_path, "c")
    for segment in (writing, done):
        segment.append(b"frames")
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
