"""Provide private folders on local disk for bodies in transit. They are removed with their process, even if it is
killed.

The process that uses a folder locks it; the next caller removes unlocked folders.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "rempart-spool-"
_GRACE_SECONDS = 60  # a folder is made a moment before it is locked


@contextmanager
def spool_folder() -> Iterator[Path]:
    """Provide an empty folder that only this user can enter; remove it at the end, with those of killed processes."""
    remove_orphans(time.time())
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(handle)


def remove_orphans(now: float) -> int:
    """Remove this user's spool folders that no process holds (`now`: seconds since the epoch); how many."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            facts = folder.lstat()
            if facts.st_uid != os.getuid() or now - facts.st_mtime < _GRACE_SECONDS:
                continue
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone in the meantime, or no folder of ours
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # in use
        else:
            shutil.rmtree(folder, ignore_errors=True)  # another caller may be removing it, too
            removed += 1
        finally:
            os.close(handle)
    return removed
