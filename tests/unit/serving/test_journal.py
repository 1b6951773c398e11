"""The journal: acknowledged entries are on disk, whatever ends the process or fills the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rempart.backup.keys import age
from rempart.errors import ServingError
from rempart.serving import journal as journals
from rempart.serving import records, segments
from rempart.serving.entries import new_id, time_of
from rempart.serving.journal import Journal, Journals
from rempart.serving.records import Sealing
from tests.logged import AT, entry, written


def logged(folder: Path) -> list[str]:
    """Ids of the entries in a folder, as they were written."""
    files = segments.all_in(folder)
    return [records.decode(p).id for file in files for p in segments.content(file.read_bytes()).payloads]


def test_entries_are_written_as_they_were(tmp_path: Path) -> None:
    written(Journal(tmp_path), [entry(1), entry(2)])
    (file,) = segments.closed_in(tmp_path)
    first, second = map(records.decode, segments.content(file.read_bytes()).payloads)
    assert (first.id, first.at, first.output, first.key) == (entry(1).id, entry(1).at, {"prediction": 81.0}, "")
    assert records.private(second.private).inputs == entry(2).inputs
    assert oct(file.stat().st_mode)[-3:] == "600"


def test_sealed_entries_tell_nothing_without_the_key(tmp_path: Path) -> None:
    own = age.new_identity()
    written(Journal(tmp_path, Sealing("k 0001", lambda body: age.encrypt(body, [own.recipient]))), [entry(1)])
    (file,) = segments.closed_in(tmp_path)
    assert b"CANARY" not in file.read_bytes()
    record = records.decode(segments.content(file.read_bytes()).payloads[0])
    assert record.key == "k 0001"
    assert records.private(age.decrypt(record.private, own, "entry")).features == entry(1).features


def test_whoever_writes_meanwhile_joins_the_next_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, append = list[int](), Journal._append

    def counted(self: Journal, group: Any) -> Any:
        groups.append(len(group))
        return append(self, group)

    monkeypatch.setattr(Journal, "_append", counted)
    written(Journal(tmp_path), *([entry(number)] for number in range(50)))
    assert groups == [50]
    assert sorted(logged(tmp_path)) == sorted(entry(number).id for number in range(50))


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: int, *, times: int) -> None:
    """Let a call of the operating system fail; a write does a part of its work before."""
    real: Callable[..., Any] = getattr(os, name)
    left = [times]

    def call(*given: Any) -> Any:
        if not left[0]:
            return real(*given)
        left[0] -= 1
        if name == "write" and left[0] == times - 1:
            return real(given[0], given[1][:11])
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(segments.os, name, call)


@pytest.mark.parametrize(("call", "times"), [("write", 2), ("fdatasync", 2), ("open", 1)])
def test_a_full_disk_is_told_and_the_next_write_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    async def run() -> None:
        log = Journal(tmp_path)
        if call != "open":
            await log.write([entry(1)])
        with monkeypatch.context() as broken:
            failing(broken, call, errno.ENOSPC, times=times)
            with pytest.raises(ServingError, match="No space left on device") as caught:
                await log.write([entry(2)])
        assert "Make room" in caught.value.hint
        await log.write([entry(3)])
        await log.close()

    asyncio.run(run())
    assert set(logged(tmp_path)) >= {entry(3).id} and entry(2).id not in logged(tmp_path)
    found = [segments.content(file.read_bytes()) for file in segments.closed_in(tmp_path)]
    assert sum(content.torn + content.damaged for content in found) == 0


def test_an_entry_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    async def run() -> None:
        log = Journal(tmp_path)
        bad = [entry(1, id="x"), entry(2, inputs={"a": object()}), entry(3, at=AT.replace(tzinfo=None))]
        good = asyncio.gather(*(log.write([each]) for each in bad), return_exceptions=True)
        await log.write([entry(4)])
        assert [type(outcome) for outcome in await good] == [ServingError] * 3
        await log.close()

    asyncio.run(run())
    assert logged(tmp_path) == [entry(4).id]


def test_a_failure_of_the_seal_leaves_nobody_waiting(tmp_path: Path) -> None:
    def seal(body: bytes) -> bytes:
        raise RuntimeError("no seal")

    with pytest.raises(ServingError, match="RuntimeError"):
        written(Journal(tmp_path, Sealing("k", seal)), [entry(1)])


def test_segments_roll_by_size_and_are_closed_when_nobody_writes(tmp_path: Path) -> None:
    async def run() -> None:
        log = Journal(tmp_path, segment_bytes=1, segment_seconds=0.05)
        await log.write([entry(1)])
        await log.write([entry(2)])
        assert len(segments.all_in(tmp_path)) == 2
        while len(segments.closed_in(tmp_path)) < 2:
            await asyncio.sleep(0.01)
        await log.write([entry(3)])
        await log.close()

    asyncio.run(run())
    assert len(segments.closed_in(tmp_path)) == 3


def test_a_share_is_logged_by_the_id_and_journals_part_by_pipeline(tmp_path: Path) -> None:
    many = [entry(number) for number in range(400)]
    written(Journal(tmp_path / "half", sample=0.5), many)
    kept = logged(tmp_path / "half")
    assert kept == [each.id for each in many if records.is_sampled(each.id, 0.5)] and 120 < len(kept) < 280

    async def run() -> None:
        log = Journals({name: Journal(tmp_path / name) for name in ("hotel_bookings", "trips")})
        await log.write([entry(1), entry(2, pipeline="trips")])
        with pytest.raises(ServingError, match="'weather'"):
            await log.write([entry(3, pipeline="weather")])
        await log.close()

    asyncio.run(run())
    assert (logged(tmp_path / "hotel_bookings"), logged(tmp_path / "trips")) == ([entry(1).id], [entry(2).id])


def test_an_id_tells_its_time() -> None:
    assert time_of(new_id(AT, bytes(10))) == AT and time_of("f" * 32) is None


WRITER = """
import asyncio, sys
from pathlib import Path
from rempart.serving.journal import Journal
from tests.logged import entry

async def run():
    log = Journal(Path(sys.argv[1]), segment_bytes=5000)
    for number in range(1_000_000):
        await log.write([entry(number)])
        print(entry(number).id, flush=True)

asyncio.run(run())
"""


def test_every_acknowledged_entry_outlives_kill_9(tmp_path: Path) -> None:
    root = Path(journals.__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout is not None
    told = [process.stdout.readline().strip() for _ in range(60)]
    assert segments.closed_in(tmp_path) != segments.all_in(tmp_path)  # one is being written
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().split()
    assert process.wait() == -signal.SIGKILL
    found = logged(tmp_path)
    assert len(set(found)) == len(found) and segments.closed_in(tmp_path) == segments.all_in(tmp_path)
    assert {each for each in told if len(each) == 32} <= set(found)
