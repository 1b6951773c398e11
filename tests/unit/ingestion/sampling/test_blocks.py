"""A sample of a file is whole lines of it, with their numbers, whatever the packing."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.ingestion.sampling import blocks
from rempart.ingestion.unpacking import Unreadable


def packed(body: bytes, packing: str) -> bytes:
    if packing == "gz":
        return gzip.compress(body)
    if packing == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(body)
        return sink.getvalue().to_pybytes()
    return body


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=200), most=st.integers(40, 3000))
def test_lines_are_those_of_the_file_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str, lengths: list[int], most: int
) -> None:
    for name, size in (("_HEAD", 200), ("_BLOCK", 64), ("_READ", 100)):
        monkeypatch.setattr(blocks, name, size)
    written = [f"{i}," + "x" * length for i, length in enumerate(lengths, 1)]
    body = "".join(f"{line}\n" for line in written).encode()
    file = tmp_path / "x"
    file.write_bytes(packed(body, packing))
    found = blocks.lines(file, most, numbered=True)
    assert found.size == len(body) or (found.whole and not packing)
    if found.whole:
        assert found.body == body
    lines = found.body.decode().splitlines()
    assert lines[:1] == written[:1]
    for i, line in enumerate(lines, 1):
        assert written[found.number(i) - 1] == line
    assert len(found.body) <= max(most, 200) + 600


def test_a_large_plain_file_is_not_read_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    with file.open("wb") as stream:
        for i in range(400_000):
            stream.write(b"%09d,abcdefghij\n" % i)
    found = blocks.lines(file, 2 << 20)
    assert not found.whole and len(found.body) <= 2 << 20
    numbers = [int(line.split(b",")[0]) for line in found.body.splitlines()]
    assert numbers[0] == 0 and numbers[-1] > 350_000 and all(b > a for a, b in itertools.pairwise(numbers))


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_damage_is_told_without_content(tmp_path: Path, packing: str) -> None:
    body = packed(bytes(range(256)) * 4000, packing)
    file = tmp_path / "cut"
    file.write_bytes(body[: len(body) // 2])
    with pytest.raises(Unreadable, match=r"truncated|damaged"):
        blocks.lines(file, 1 << 20)
