"""Written entries reach the disk in groups behind their answers; what the disk refuses is written again."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from rempart.errors import ServingError
from rempart.serving import group_commit, records, segments
from rempart.serving.journal import Journal
from tests.logged import entry, grouped, opened

MANY = [entry(number) for number in range(1, 6)]
MANY_FAULTS = 10**9
"""More than a disk has calls in a test."""


class Disk:
    """The call that brings a file to disk. `goes_on`: whether it answers; `faults`: how many calls fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.goes_on, self.faults, self.calls = threading.Event(), 0, 0
        self._real, self._lock = os.fdatasync, threading.Lock()
        self.goes_on.set()
        patch.setattr(segments.os, "fdatasync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.calls += 1
        assert self.goes_on.wait(120)
        with self._lock:
            if self.faults:
                self.faults -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._real(descriptor)

    def heal(self) -> None:
        """No more call fails. With the lock: the disk's thread may be counting."""
        with self._lock:
            self.faults = 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def logged(folder: Path) -> set[str]:
    assert not [each.faults for each in opened(folder) if each.faults]
    return {each.id for segment in opened(folder) for each in segment.entries}


def test_a_write_does_not_wait_for_the_disk_which_has_it_soon_with_others(tmp_path: Path, disk: Disk) -> None:
    async def run() -> None:
        log = Journal(tmp_path)
        disk.goes_on.clear()
        await log.write(grouped(MANY[0]))
        (file,) = segments.all_in(tmp_path)
        assert MANY[0].id.encode() in file.read_bytes(), "the system has it, also if the process is killed"
        disk.goes_on.set()
        for each in MANY[1:]:
            await log.write(grouped(each))
        while log._commit.at_risk:
            await asyncio.sleep(0.001)
        assert 1 <= disk.calls <= len(MANY)
        await log.close()

    asyncio.run(run())
    assert logged(tmp_path) == {each.id for each in MANY}


def test_while_the_disk_stalls_no_more_is_answered_than_of_the_window(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "WINDOW", 0.0)

    async def run() -> None:
        log = Journal(tmp_path)
        disk.goes_on.clear()
        await log.write(grouped(MANY[0]))
        late = asyncio.create_task(log.write(grouped(MANY[1])))
        done, _ = await asyncio.wait([late], timeout=0.2)
        assert not done and len(log._commit.at_risk) == 1
        disk.goes_on.set()
        await late
        await log.close()

    asyncio.run(run())
    assert logged(tmp_path) == {MANY[0].id, MANY[1].id}


def test_what_the_disk_refuses_is_written_to_another_segment_without_a_further_write(
    tmp_path: Path, disk: Disk
) -> None:
    async def run() -> None:
        log, disk.faults = Journal(tmp_path), 1
        await log.write(grouped(MANY[0]))
        while len(segments.all_in(tmp_path)) < 2 or log._commit.at_risk:
            await asyncio.sleep(0.001)
        await log.write(grouped(MANY[1]))
        await log.close()

    asyncio.run(run())
    found = sorted([each.id for each in segment.entries] for segment in opened(tmp_path))
    assert found == [[MANY[0].id], [MANY[0].id, MANY[1].id]]


def test_while_the_disk_refuses_nothing_is_answered_and_what_was_is_kept(tmp_path: Path, disk: Disk) -> None:
    async def run() -> None:
        log, disk.faults = Journal(tmp_path), MANY_FAULTS
        await log.write(grouped(MANY[0]))
        while disk.faults > MANY_FAULTS - 2:
            await asyncio.sleep(0.001)
        with pytest.raises(ServingError, match="Input/output error"):
            await log.write(grouped(MANY[1]))
        assert [record.public.count(MANY[0].id.encode()) for record in log._commit.at_risk] == [1]
        disk.heal()
        await log.write(grouped(MANY[2]))
        assert not log._commit.at_risk, "both are on disk before the answer"
        await log.close()

    asyncio.run(run())
    assert logged(tmp_path) == {MANY[0].id, MANY[2].id}


def test_what_is_at_risk_stays_so_until_a_segment_that_holds_it_is_on_disk(tmp_path: Path, disk: Disk) -> None:
    async def run() -> None:
        log, disk.faults = Journal(tmp_path), 3  # of the group, of the segment's end, and of the segment after it
        await log.write(grouped(MANY[0]))
        (first,) = segments.all_in(tmp_path)
        while disk.faults:
            await asyncio.sleep(0.001)
        await log.close()
        first.unlink()  # the disk never had it

    asyncio.run(run())
    assert MANY[0].id in logged(tmp_path)


def test_a_full_disk_after_a_failed_flush_forgets_nothing(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, body: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def run() -> None:
        log, disk.faults = Journal(tmp_path), 1
        disk.goes_on.clear()
        await log.write(grouped(MANY[0]))
        (first,) = segments.all_in(tmp_path)
        with monkeypatch.context() as broken:
            broken.setattr(segments.os, "write", full)
            disk.goes_on.set()
            while disk.faults:
                await asyncio.sleep(0.001)
            with pytest.raises(ServingError, match="No space left"):
                await log.write(grouped(MANY[1]))
        await log.write(grouped(MANY[2]))
        await log.close()
        first.unlink()  # the disk never had it

    asyncio.run(run())
    assert logged(tmp_path) == {MANY[0].id, MANY[2].id}


def test_what_the_disk_refuses_of_a_segment_that_grew_old_is_in_another_without_a_further_write(
    tmp_path: Path, disk: Disk
) -> None:
    async def run() -> None:
        log = Journal(tmp_path, segment_seconds=0.05)
        await log.write(grouped(MANY[0]))
        while log._commit.at_risk:
            await asyncio.sleep(0.001)
        disk.faults, log._commit.at_risk = 1, [records.encode(grouped(MANY[1]))]  # as if written a moment ago
        while disk.faults or len(segments.closed_in(tmp_path)) < 2:
            await asyncio.sleep(0.001)
        await log.close()

    asyncio.run(run())
    assert logged(tmp_path) == {MANY[0].id, MANY[1].id}
