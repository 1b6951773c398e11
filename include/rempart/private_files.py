"""Write private files that appear whole: readers find the old content or the new one, also after a loss of power."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(file: Path, content: bytes | str) -> None:
    """Replace a file; text is UTF-8. Only this user may read it. Its folder must exist. Raises OSError."""
    number, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(number, "wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
            out.flush()
            os.fsync(out.fileno())
        Path(part).replace(file)
    finally:
        Path(part).unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Bring names of files in a folder to disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
