"""Dumps hold personal data: no spool folder outlives its process."""

import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from rempart.sites.spool import remove_orphans, spool_folder


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_gone_at_the_end(temporary):
    with spool_folder() as folder:
        (folder / "body").write_text("x")
        assert folder.stat().st_mode & 0o077 == 0
    assert list(temporary.iterdir()) == []


def die_in_a_folder():
    with spool_folder() as folder:
        (folder / "body").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(temporary):
    child = multiprocessing.get_context("fork").Process(target=die_in_a_folder)
    child.start()
    child.join(120)
    (left,) = temporary.iterdir()
    (temporary / "rempart-spool-link").symlink_to(Path("/"))
    with spool_folder() as used:
        assert remove_orphans(time.time()) == 0  # too young to tell
        assert remove_orphans(time.time() + 3600) == 1
        assert used.is_dir()
    assert not left.exists()
