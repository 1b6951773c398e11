"""LightGBM trains on a machine without libgomp: a job's process finds scikit-learn's copy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rempart.training.trainers import openmp

MAPPED = """
import ctypes, pathlib
ctypes.CDLL("libgomp.so.1")
print([line.split()[-1] for line in pathlib.Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line][0])
"""


def test_a_system_that_has_the_library_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "on_system", lambda: True)
    assert openmp.variables({}, tmp_path / "lib") == {} and not (tmp_path / "lib").exists()


def test_a_process_finds_scikit_learns_copy_under_the_name_that_lightgbm_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openmp, "on_system", lambda: False)
    (tmp_path / openmp.LIBRARY).symlink_to(tmp_path / "of an environment that is gone")
    given = openmp.variables({"LD_LIBRARY_PATH": "/opt/own"}, tmp_path)
    assert given["LD_LIBRARY_PATH"] == f"{tmp_path}:/opt/own"
    done = subprocess.run(
        [sys.executable, "-c", MAPPED], env={**os.environ, **given}, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == openmp.copied()
    assert openmp.variables({}, tmp_path) == {"LD_LIBRARY_PATH": str(tmp_path)}


def test_without_a_copy_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "on_system", lambda: False)
    monkeypatch.setattr(openmp, "copied", lambda: None)
    assert openmp.variables({}, tmp_path) == {}
