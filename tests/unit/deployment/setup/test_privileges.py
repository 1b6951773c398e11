"""Rights to enter a folder, and how PostgreSQL's user gets access to a closed folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.deployment.setup import privileges
from rempart.deployment.setup.privileges import User, may_pass

WHO = User("postgres", 101, 104)


@given(st.integers(min_value=0, max_value=0o777))
def test_permission_bits(mode: int) -> None:
    folder, file = stat.S_IFDIR | mode, stat.S_IFREG | mode
    assert may_pass(folder, 0, 0, WHO) == bool(mode & 0o001)
    assert may_pass(folder, 0, 104, WHO) == bool(mode & 0o010)
    assert may_pass(folder, 101, 104, WHO) == bool(mode & 0o100)
    assert may_pass(file, 0, 0, WHO) == bool(mode & 0o004)


def test_a_closed_folder_on_the_way_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "inner"
    inner.mkdir(parents=True)
    tmp_path.chmod(0o755)
    inner.parent.chmod(0o700)
    stranger = User("stranger", os.getuid() + 4000, os.getgid() + 4000)
    assert inner.parent in privileges.closed([inner], stranger)
    assert inner not in privileges.closed([inner], stranger)


def test_the_same_user_runs_the_command_as_it_is() -> None:
    assert privileges.command_as(None, ["postgres", "-D", "x"], []) == ["postgres", "-D", "x"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root drops to another user")
def test_root_gives_up_everything_but_one_capability_where_a_folder_is_closed(tmp_path: Path) -> None:
    import subprocess

    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("reached")
    (closed / "file").chmod(0o600)
    user = privileges.database_user()
    assert user is not None
    show = ["sh", "-c", 'cat "$1"; id -u; grep CapEff /proc/self/status', "-", str(closed / "file")]
    done = subprocess.run(privileges.command_as(user, show, [closed]), capture_output=True, text=True, check=False)
    assert done.stdout.split()[:2] == ["reached", str(user.uid)] or done.stdout.startswith("reached"), done.stderr
    assert bin(int(done.stdout.split()[-1], 16)).count("1") == 1
