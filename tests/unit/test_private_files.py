"""Files that appear whole, for this user only."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from rempart import private_files


def test_a_file_is_replaced_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "secrets.env"
    file.write_text("KEY=old\n", encoding="utf-8")
    file.chmod(0o644)
    private_files.write(file, "KEY=é\n")
    assert file.read_bytes() == "KEY=é\n".encode()
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    file.write_bytes(b"old")
    with patch.object(os, "fsync", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError):
        private_files.write(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
