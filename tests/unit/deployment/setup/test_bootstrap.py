"""pip's standard settings reach uv; the user's own settings for uv take precedence."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from rempart.deployment.setup import bootstrap


def test_pip_settings_are_handed_on() -> None:
    pip = {"index-url": "https://mirror/simple", "cert": "/ca.pem", "trusted-host": "mirror", "timeout": "9"}
    assert bootstrap.uv_settings(pip, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror/simple",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_INSECURE_HOST": "mirror",
    }
    assert bootstrap.uv_settings(pip, {"UV_DEFAULT_INDEX": "https://mine"})["SSL_CERT_FILE"] == "/ca.pem"
    assert "UV_DEFAULT_INDEX" not in bootstrap.uv_settings(pip, {"UV_DEFAULT_INDEX": "https://mine"})


@pytest.mark.parametrize("own", [None, "0"])
def test_packages_are_compiled_at_once_unless_the_user_s_uv_says_otherwise(
    own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[str]()

    def sync(command: object, environment: Mapping[str, str], *_: object) -> None:
        given.append(environment["UV_COMPILE_BYTECODE"])

    monkeypatch.delenv("UV_COMPILE_BYTECODE", raising=False)
    if own is not None:
        monkeypatch.setenv("UV_COMPILE_BYTECODE", own)
    monkeypatch.setattr(bootstrap, "_run", lambda *_: None)
    monkeypatch.setattr(bootstrap, "read_pip_settings", lambda _: {})
    monkeypatch.setattr(bootstrap, "_sync", sync)
    for name in ("rempart", "spark"):
        bootstrap._install(tmp_path, bootstrap.ENVIRONMENTS[name], tmp_path / ".venv", SimpleNamespace(update=print))
    assert given == [own or "1"] * 2


@pytest.mark.parametrize(("output", "options"), [("1", ["--no-index"]), ("true", ["--no-index"]), ("0", []), ("", [])])
def test_where_pip_asks_no_index_uv_asks_none(output: str, options: list[str]) -> None:
    assert bootstrap.uv_options({"no-index": output, "find-links": "/wheels"}) == options


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
    root = Path(__file__).resolve().parents[4]
    files = made.files(root)
    assert [file.name for file in files] == ["requirements-trainer.txt", "requirements-torch.txt"]
    assert all(file.is_file() for file in (*files, *platform.files(root)))


def test_the_gpu_image_replaces_xgboost_by_the_same_version_with_cuda() -> None:
    root = Path(__file__).resolve().parents[4]
    made = bootstrap.ENVIRONMENTS["cuda"]
    locked = (root / made.lock).read_text(encoding="utf-8")
    lines = (root / str(made.chosen)).read_text(encoding="utf-8").splitlines()
    (cuda,) = (line for line in lines if line.startswith("xgboost=="))
    assert made.replaced == "xgboost-cpu" and f"\n{cuda.replace('xgboost', made.replaced)} " in locked
    assert "-r requirements-torch.txt" in lines


def test_a_changed_lock_is_another_installation(tmp_path: Path) -> None:
    for name in ("lock.txt", "requirements-bootstrap.txt", "pyproject.toml"):
        (tmp_path / name).write_text("a")
    before = bootstrap.fingerprint(tmp_path, [tmp_path / "lock.txt"])
    assert bootstrap.fingerprint(tmp_path, [tmp_path / "lock.txt"]) == before
    (tmp_path / "lock.txt").write_text("b")
    assert bootstrap.fingerprint(tmp_path, [tmp_path / "lock.txt"]) != before


def test_where_every_package_is_the_lock_s_the_project_alone_is_installed_anew() -> None:
    assert bootstrap.only_the_project(
        "Resolved 285 packages\nWould uninstall 1 package\n - rempart==0.1.0 (from file:///x)\n"
    )
    assert bootstrap.only_the_project("Would make no changes\n")
    assert not bootstrap.only_the_project(" - rempart==0.1.0\n - uvicorn==1.0\n + uvicorn==1.1\n")


def test_a_second_set_up_of_an_environment_waits_for_the_first_and_no_other_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entered = list[str]()

    def second() -> None:
        with bootstrap.alone(tmp_path / ".venv"):
            entered.append("second")

    thread, told = threading.Thread(target=second), ""
    with bootstrap.alone(tmp_path / ".venv"):
        with bootstrap.alone(tmp_path / ".venv-docs"):
            entered.append("another")
        thread.start()
        while thread.is_alive() and "waiting for its end" not in (told := told + capsys.readouterr().out):
            time.sleep(0.01)
        entered.append("first ends")
    thread.join(60)
    assert entered == ["another", "first ends", "second"]


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose environment is of an older lock."""
    for name in ("requirements-dev.txt", "requirements-bootstrap.txt", "pyproject.toml"):
        (tmp_path / name).write_text("a")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    tools = hashlib.sha256(b"a").hexdigest()
    (tmp_path / ".venv" / "rempart-installed").write_text(f"{'0' * 64}\n{tools}\n")
    monkeypatch.setattr(bootstrap, "check_machine", lambda: None)
    monkeypatch.setattr(bootstrap.preflight, "check_index", lambda *_, needed: SimpleNamespace(outcome="ok"))
    monkeypatch.setattr(bootstrap.debian, "install_restic", lambda *_: None)
    return tmp_path


def _set_up(root: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool | None, installed: bool) -> list[str]:
    """Run a set-up whose steps succeed, or (None, False) end the process; return the steps."""
    steps = list[str]()

    def project(*_: object) -> bool:
        steps.append("project")
        if again is None:
            raise Killed
        return again

    def install(*_: object) -> None:
        steps.append("all")
        if not installed:
            raise Killed

    monkeypatch.setattr(bootstrap, "_project_again", project)
    monkeypatch.setattr(bootstrap, "_install", install)
    with contextlib.suppress(Killed):
        bootstrap.set_up(root, bootstrap.ENVIRONMENTS["rempart"])
    return steps


def test_a_set_up_that_was_killed_half_way_is_no_set_up_and_the_next_begins_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _set_up(root, monkeypatch, again=False, installed=False) == ["project", "all"]
    (root / ".venv" / "bin" / "rempart").write_text(f"#!{root}/.venv/bin/python")  # killed right after the last package
    assert not (root / ".venv" / "rempart-installed").exists()
    assert _set_up(root, monkeypatch, again=True, installed=True) == ["all"]  # what is there is not believed
    assert _set_up(root, monkeypatch, again=True, installed=True) == []


def test_a_set_up_that_was_killed_while_it_installed_the_project_alone_does_that_again_and_no_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _set_up(root, monkeypatch, again=None, installed=True) == ["project"]
    assert _set_up(root, monkeypatch, again=True, installed=True) == ["project"]
    assert _set_up(root, monkeypatch, again=True, installed=True) == []


def test_the_lock_before_is_not_set_up_after_one_that_was_killed_while_it_installed_the_project(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _set_up(root, monkeypatch, again=True, installed=True) == ["project"]
    (root / "requirements-dev.txt").write_text("b")
    assert _set_up(root, monkeypatch, again=None, installed=True) == ["project"]
    (root / "requirements-dev.txt").write_text("a")
    assert _set_up(root, monkeypatch, again=True, installed=True) == ["project"]
