"""pip's standard settings reach uv; the user's own settings for uv stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rempart.stack import bootstrap


def test_pip_settings_are_handed_on() -> None:
    pip = {"index-url": "https://mirror/simple", "cert": "/ca.pem", "trusted-host": "mirror", "timeout": "9"}
    assert bootstrap.uv_settings(pip, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INSECURE_HOST": "mirror",
    }
    assert bootstrap.uv_settings(pip, {"UV_DEFAULT_INDEX": "https://mine"})["SSL_CERT_FILE"] == "/ca.pem"
    assert "UV_DEFAULT_INDEX" not in bootstrap.uv_settings(pip, {"UV_DEFAULT_INDEX": "https://mine"})


def test_files_and_environment_variables_are_read_as_pip_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://file/simple\nextra-index-url = https://b\n  https://c\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    found = bootstrap.read_pip_settings(Path(sys.executable))
    assert found["index-url"] == "https://file/simple" and found["extra-index-url"] == "https://b https://c"
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable/simple")
    assert bootstrap.read_pip_settings(Path(sys.executable))["index-url"] == "https://variable/simple"


def test_the_trainers_environment_is_another_folder_and_depends_on_what_it_installs() -> None:
    made, platform = bootstrap.ENVIRONMENTS["trainer"], bootstrap.ENVIRONMENTS["rempart"]
    assert made.folder != platform.folder
    root = Path(__file__).resolve().parents[3]
    files = made.files(root)
    assert [file.name for file in files] == ["requirements-trainer.txt", "requirements-torch.txt"]
    assert all(file.is_file() for file in (*files, *platform.files(root)))


def test_a_changed_lock_is_another_installation(tmp_path: Path) -> None:
    for name in ("lock.txt", "requirements-bootstrap.txt", "pyproject.toml"):
        (tmp_path / name).write_text("a")
    before = bootstrap.fingerprint(tmp_path, [tmp_path / "lock.txt"])
    assert bootstrap.fingerprint(tmp_path, [tmp_path / "lock.txt"]) == before
    (tmp_path / "lock.txt").write_text("b")
    assert bootstrap.fingerprint(tmp_path, [tmp_path / "lock.txt"]) != before
