"""restic and Java come from the distribution's packages, without root."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rempart.deployment.setup import debian

APT = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *download*{name}*) [ -f {lists} ] && exec cp {package} . ; echo "E: Unable to locate package" >&2; exit 100;;
  *download*) echo "E: Unable to locate package" >&2; exit 100;;
  *update*) touch {lists};;
esac
"""


def _package(folder: Path, name: str, programs: Path) -> None:
    """Build a Debian package of `folder`, and an apt that brings it once there are package lists."""
    control = folder / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a@b\nDescription: x\n")
    place = folder.parent
    package = place / f"{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", folder, package], check=True, capture_output=True)
    programs.mkdir()
    apt = programs / "apt-get"
    apt.write_text(APT.format(log=place / "asked", lists=place / "lists", package=package, name=name))
    apt.chmod(0o755)
    for program in ("dpkg-deb", "sh", "cp", "touch", "tar", "rm"):
        (programs / program).symlink_to(str(shutil.which(program)))


def _program(file: Path, lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{lines}\n")
    file.chmod(0o755)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with apt, whose package of restic says what it is; no package lists yet. The folder of its programs."""
    _program(tmp_path / "package/usr/bin/restic", 'echo "restic 0.18.0 compiled with go on linux/amd64"')
    _package(tmp_path / "package", "restic", tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a Debian package")


@needs_dpkg
def test_restic_is_unpacked_once_without_root_and_without_package_lists(
    tmp_path: Path, system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debian.install_restic(tmp_path / "venv", 0.0)
    program = tmp_path / "venv" / "tools" / "bin" / "restic"
    assert debian.restic_version(program) == (0, 18, 0)
    assert sorted(file.name for file in program.parent.iterdir()) == ["restic"]
    assert "unpacking restic" in capsys.readouterr().out
    asked = (tmp_path / "asked").read_text()
    debian.install_restic(tmp_path / "venv", 0.0)
    assert (tmp_path / "asked").read_text() == asked and not capsys.readouterr().out


@needs_dpkg
def test_a_restic_that_is_too_old_is_not_taken(tmp_path: Path, system: Path) -> None:
    (system / "restic").write_text('#!/bin/sh\necho "restic 0.14.0 compiled with go on linux/amd64"\n')
    (system / "restic").chmod(0o755)
    debian.install_restic(tmp_path / "venv", 0.0)
    assert debian.restic_version(tmp_path / "venv" / "tools" / "bin" / "restic") == (0, 18, 0)


def test_where_restic_cannot_be_had_setup_says_so_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    now = time.time()
    debian.install_restic(tmp_path, now)
    output = capsys.readouterr().out
    assert "not installed (this system has no apt)" in output and "on PATH" in output
    debian.install_restic(tmp_path, now + 60)
    assert not capsys.readouterr().out
    debian.install_restic(tmp_path, now + 2 * debian.RESTIC_AGAIN_SECONDS)
    assert "not installed" in capsys.readouterr().out


MODULES = 'printf "java.base@{0}\\njdk.incubator.vector@{0}\\n"'


@pytest.fixture
def java_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system whose apt brings a Java with links into /etc, as Debian's has. The folder of its programs."""
    home = tmp_path / "package/usr/lib/jvm/java-21-openjdk-amd64"
    _program(home / "bin/java", MODULES.format("21.0.13"))
    (home / "lib").mkdir()
    (home / "lib/jvm.cfg").symlink_to("/etc/java-21-openjdk/jvm-amd64.cfg")
    (home / "lib/cacerts").symlink_to("/etc/ssl/certs/java/cacerts")
    (tmp_path / "package/etc/java-21-openjdk").mkdir(parents=True)
    (tmp_path / "package/etc/java-21-openjdk/jvm-amd64.cfg").write_text("-server KNOWN")
    _package(tmp_path / "package", "openjdk-21-jre-headless", tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "venv").mkdir()
    return tmp_path / "bin"


@needs_dpkg
def test_java_is_unpacked_with_its_settings_and_without_root(tmp_path: Path, java_system: Path) -> None:
    debian.install_java(tmp_path / "venv", {"PATH": str(java_system)})
    home = tmp_path / "venv" / "jre"
    assert debian.java_fault(home) == "" and (home / "lib/jvm.cfg").read_text() == "-server KNOWN"
    (tmp_path / "venv").rename(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere/jre/lib/jvm.cfg").read_text() == "-server KNOWN"


def test_a_java_of_ones_own_is_taken_if_spark_can_run_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _program(tmp_path / "mine/bin/java", MODULES.format("25"))
    (tmp_path / "venv").mkdir()
    debian.install_java(tmp_path / "venv", {"JAVA_HOME": str(tmp_path / "mine"), "PATH": ""})
    assert (tmp_path / "venv" / "jre").resolve() == tmp_path / "mine"
    assert f"the Java in {tmp_path / 'mine'}" in capsys.readouterr().out


def test_a_java_of_the_machine_that_went_is_replaced(tmp_path: Path) -> None:
    _program(tmp_path / "newer/bin/java", MODULES.format("25"))
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/jre").symlink_to(tmp_path / "gone")
    debian.install_java(tmp_path / "venv", {"JAVA_HOME": str(tmp_path / "newer"), "PATH": ""})
    assert debian.java_fault(tmp_path / "venv/jre") == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('echo "java.base@11.0.2"', "is 11.0.2, and Spark needs 17 or later"),
        ('echo "java.base@21.0.2"', "lacks the module jdk.incubator.vector"),
        ("exit 1", "of an unknown version"),
    ],
)
def test_without_a_java_that_spark_can_run_on_setup_ends_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, why: str
) -> None:
    _program(tmp_path / "mine/bin/java", answer)
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as ended:
        debian.install_java(tmp_path / "venv", {"JAVA_HOME": str(tmp_path / "mine"), "PATH": ""})
    told = str(ended.value)
    assert why in told and "this system has no apt" in told and "What to do: Install a Java 17" in told


def test_a_full_disk_is_said_before_anything_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian.shutil, "disk_usage", lambda _: SimpleNamespace(free=9e8))
    with pytest.raises(SystemExit, match=r"0\.9 GB free"):
        debian.check_space(tmp_path, ".venv-spark")
