"""Segment files of the journal: who writes them, which are closed, and who may ship them.

A writer holds a lock on its segment; the operating system releases the lock when the process ends, however it ends. So
a segment that can be locked has no writer any more.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rempart import private_files

_SUFFIX = ".journal"
_LOCK = ".shipping"
_DAMAGED = "damaged"


class Segment:
    """A new segment file that this process appends to. One thread uses it. Raises OSError."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file, self.size = folder / f"{name}{_SUFFIX}", 0
        made = folder / f".{name}{_SUFFIX}"
        self._descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made.rename(self.file)  # nobody sees it unlocked
            private_files.sync_folder(folder)
        except OSError:
            os.close(self._descriptor)
            made.unlink(missing_ok=True)
            raise

    def append(self, frames: bytes, *, at_once: bool = False) -> None:
        """Write frames. They are on disk after the next `sync`, or `at_once`."""
        left = memoryview(frames)
        while left:
            left = left[os.write(self._descriptor, left) :]
        if at_once:
            self.sync()
        self.size += len(frames)

    def sync(self) -> None:
        """Return once everything that was written is on disk. Another thread may call it."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Cut off what a failed write left behind, and release the segment to whoever ships it, once it is on disk."""
        try:
            os.ftruncate(self._descriptor, self.size)
            self.sync()
        finally:
            with suppress(OSError):
                if not self.size:
                    self.file.unlink(missing_ok=True)
            os.close(self._descriptor)


def all_in(folder: Path) -> list[Path]:
    """Return the segments in a folder, oldest first, with those that are being written."""
    return sorted(folder.glob(f"[!.]*{_SUFFIX}")) if folder.is_dir() else []


def closed_in(folder: Path) -> list[Path]:
    """Return the segments in a folder that no process writes any more, oldest first. Raises OSError."""
    for made in folder.glob(f".*{_SUFFIX}"):  # of a process that was killed while it made one
        if _has_no_writer(made):
            made.unlink(missing_ok=True)
    return [file for file in all_in(folder) if _has_no_writer(file)]


def _has_no_writer(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def shipping(folder: Path) -> Iterator[bool]:
    """Hold the right to ship and delete the segments of a folder. Yield False if another process holds it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def delete(folder: Path, files: list[Path]) -> None:
    """Delete segments that were shipped. Raises OSError."""
    for file in files:
        file.unlink(missing_ok=True)
    if files:
        private_files.sync_folder(folder)


def set_aside(file: Path) -> Path:
    """Move a damaged segment to the folder `damaged`, for a person. Return where it is. Raises OSError."""
    aside = file.parent / _DAMAGED
    aside.mkdir(mode=0o700, exist_ok=True)
    file.rename(to := aside / file.name)
    private_files.sync_folder(aside)
    private_files.sync_folder(file.parent)
    return to


def set_aside_in(folder: Path) -> list[Path]:
    """Return the damaged segments of a folder, which a person may look at."""
    return all_in(folder / _DAMAGED)
