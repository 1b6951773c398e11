"""The journal: acknowledged entries are on disk, whatever ends the process or fills the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rempart.backup.keys import age
from rempart.errors import ServingError
from rempart.serving import frames, records, segments
from rempart.serving import journal as journals
from rempart.serving.entries import new_id, time_of
from rempart.serving.journal import Journal
from rempart.serving.seals import Sealing
from tests.logged import AT, entry, grouped, opened, written


def logged(folder: Path) -> list[str]:
    """Ids of the entries in a folder, as they were written."""
    return [each.id for segment in opened(folder) for each in segment.entries]


def test_entries_are_written_as_they_were(tmp_path: Path) -> None:
    written(Journal(tmp_path), [entry(1), entry(2)])
    (file,) = segments.closed_in(tmp_path)
    (segment,) = opened(tmp_path)
    assert segment.entries == (entry(1), entry(2)) and segment.key == "" and segment.is_readable
    assert oct(file.stat().st_mode)[-3:] == "600"


def test_the_rows_of_one_request_are_one_record(tmp_path: Path) -> None:
    rows = [entry(number, AT) for number in range(100)]

    async def run() -> None:
        log = Journal(tmp_path)
        await log.write(grouped(*rows))
        await log.close()

    asyncio.run(run())
    (file,) = segments.closed_in(tmp_path)
    assert len(frames.read(file.read_bytes()).whole) == 2  # the head, and the request
    assert opened(tmp_path)[0].entries == tuple(rows)


def test_sealed_entries_tell_nothing_without_the_key(tmp_path: Path) -> None:
    own = age.new_identity()
    written(Journal(tmp_path, Sealing("k 0001", lambda key: age.encrypt(key, [own.recipient]))), [entry(1)])
    (file,) = segments.closed_in(tmp_path)
    assert b"CANARY" not in file.read_bytes()
    (segment,) = opened(tmp_path, lambda name, wrapped: age.decrypt(wrapped, own, name))
    assert segment.key == "k 0001" and segment.entries == (entry(1),)


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


@pytest.mark.parametrize(("call", "times"), [("write", 2), ("open", 1)])
def test_a_full_disk_is_told_and_the_next_write_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    async def run() -> None:
        log = Journal(tmp_path)
        if call != "open":
            await log.write(grouped(entry(1)))
        with monkeypatch.context() as broken:
            failing(broken, call, errno.ENOSPC, times=times)
            with pytest.raises(ServingError, match="No space left on device") as caught:
                await log.write(grouped(entry(2)))
        assert "Make room" in caught.value.hint
        await log.write(grouped(entry(3)))
        await log.close()

    asyncio.run(run())
    assert set(logged(tmp_path)) >= {entry(3).id} and entry(2).id not in logged(tmp_path)
    assert all(segment.torn == 0 and not segment.faults for segment in opened(tmp_path))


def test_a_segment_whose_close_fails_is_not_written_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment_close = segments.Segment.close

    def failing_close(self: segments.Segment) -> None:
        segment_close(self)
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # as a network file system says it late

    async def run() -> None:
        log = Journal(tmp_path, segment_bytes=1)
        await log.write(grouped(entry(1)))
        with monkeypatch.context() as broken:
            broken.setattr(segments.Segment, "close", failing_close)
            await log.write(grouped(entry(2)))
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)  # it gets the number of the closed one
        await log.write(grouped(entry(3)))
        assert os.fstat(other).st_size == 0
        os.close(other)
        await log.close()

    asyncio.run(run())
    assert set(logged(tmp_path)) == {entry(number).id for number in (1, 2, 3)}


def test_while_the_disk_stalls_memory_holds_only_writes_that_somebody_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, goes_on, append = threading.Event(), threading.Event(), Journal._append

    def stalled(self: Journal, group: Any) -> Any:
        began.set()
        assert goes_on.wait(20)
        return append(self, group)

    monkeypatch.setattr(Journal, "_append", stalled)

    async def run() -> None:
        log = Journal(tmp_path)
        first = asyncio.create_task(log.write(grouped(entry(1))))
        while not began.is_set():
            await asyncio.sleep(0.001)
        for number in range(2, 6):
            waiting = asyncio.create_task(log.write(grouped(entry(number))))
            while len(log._waiting) < 1:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert not log._waiting, "its client was told that there is no answer"
        last = asyncio.create_task(log.write(grouped(entry(6))))
        while len(log._waiting) < 1:
            await asyncio.sleep(0)
        goes_on.set()
        await asyncio.gather(first, last)
        await log.close()

    asyncio.run(run())
    assert logged(tmp_path) == [entry(1).id, entry(6).id]


def test_an_entry_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    async def run() -> None:
        log = Journal(tmp_path)
        bad = [entry(1, id="x"), entry(2, inputs={"a": object()}), entry(3, at=AT.replace(tzinfo=None))]
        good = asyncio.gather(*(log.write(grouped(each)) for each in bad), return_exceptions=True)
        await log.write(grouped(entry(4)))
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
        await log.write(grouped(entry(1)))
        await log.write(grouped(entry(2)))
        assert len(segments.all_in(tmp_path)) == 2
        while len(segments.closed_in(tmp_path)) < 2:
            await asyncio.sleep(0.01)
        await log.write(grouped(entry(3)))
        await log.close()

    asyncio.run(run())
    assert len(segments.closed_in(tmp_path)) == 3


def test_a_share_is_logged_by_the_id(tmp_path: Path) -> None:
    many = [entry(number) for number in range(400)]
    written(Journal(tmp_path / "half", sample=0.5), many)
    kept = logged(tmp_path / "half")
    assert kept == [each.id for each in many if records.is_sampled(each.id, 0.5)] and 120 < len(kept) < 280
    part = records.sampled(grouped(*many), 0.5)
    assert (
        part is not None
        and list(part.public.ids) == kept
        and part.private.inputs[0]["booking_id"] + 80 == part.public.outputs[0]["prediction"]
    )
    assert records.sampled(grouped(*many), 0.0) is None


def test_another_key_begins_another_segment(tmp_path: Path) -> None:
    async def run() -> None:
        log = Journal(tmp_path, Sealing("k 0001", bytes))
        await log.write(grouped(entry(1)))
        log.sealing = Sealing("k 0002", bytes)
        await log.write(grouped(entry(2)))
        await log.close()

    asyncio.run(run())
    found = opened(tmp_path, lambda name, wrapped: wrapped)
    assert sorted((each.key, each.entries[0].id) for each in found) == [
        ("k 0001", entry(1).id), ("k 0002", entry(2).id)
    ]  # fmt: skip


def test_an_id_tells_its_time() -> None:
    assert time_of(new_id(AT, bytes(10))) == AT and time_of("f" * 32) is None


WRITER = """
import asyncio, sys
from pathlib import Path
from rempart.serving.journal import Journal
from tests.logged import entry, grouped

async def run():
    log = Journal(Path(sys.argv[1]), segment_bytes=5000)
    for number in range(1_000_000):
        await log.write(grouped(entry(number)))
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
