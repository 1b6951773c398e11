"""Bring programs that are no Python packages from the distribution, by apt and without root: restic, and Java for
Spark.

Standard library only. apt checks what it brings against the signed lists of the distribution.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rempart.deployment.setup import findings

OLDEST_RESTIC = (0, 17, 1)
RESTIC_AGAIN_SECONDS = 86400
JAVA_PACKAGES = ("openjdk-21-jre-headless", "openjdk-25-jre-headless", "openjdk-17-jre-headless")
OLDEST_JAVA, JAVA_MODULE = 17, "jdk.incubator.vector"
"""What Spark 4.3 needs of a Java."""
SPARK_GB = 1.3
_INSTALL_JAVA = (
    f"Install a Java {OLDEST_JAVA} or later with the module {JAVA_MODULE} (on Debian and Ubuntu: apt-get install "
    f"{JAVA_PACKAGES[0]}), set JAVA_HOME to it, and run `make setup-spark` again."
)


def restic_version(program: Path | str) -> tuple[int, ...]:
    """Return restic's version; empty if unknown."""
    try:
        answer = subprocess.run([program, "version"], capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    matched = re.match(r"restic (\d+)\.(\d+)\.(\d+)", answer)
    return tuple(int(part) for part in matched.groups()) if matched else ()


def _apt(folder: Path, *arguments: str) -> str:
    """Run apt-get in a folder; empty when it did what was asked, else its last words."""
    command = ["apt-get", "--quiet", "--option=Acquire::Retries=1", "--option=Acquire::http::Timeout=20", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        return type(fault).__name__
    words = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "W:"))]
    return "" if done.returncode == 0 else (words or [f"apt-get ended with {done.returncode}"])[-1]


@contextmanager
def unpacked(*packages: str) -> Iterator[tuple[Path | None, str]]:
    """Provide a folder with the files of the first of these packages that the distribution has; else None, and why."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        yield None, "this system has no apt"
        return
    with tempfile.TemporaryDirectory(prefix="rempart-package-") as name:
        folder = Path(name)
        if why := _first(folder, packages):
            # no package lists (a fresh container), or old ones: lists of our own need no root
            for part in ("lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True)
            own = (f"--option=Dir::State::Lists={folder / 'lists'}", f"--option=Dir::Cache={folder / 'cache'}")
            why = _apt(folder, *own, "update") or _first(folder, packages, *own)
        found = list(folder.glob("*.deb"))
        if why or not found:
            yield None, why or "apt-get brought no package"
            return
        done = subprocess.run(["dpkg-deb", "-x", found[0], folder / "unpacked"], capture_output=True, check=False)
        yield (None, "the package could not be unpacked") if done.returncode else (folder / "unpacked", "")


def _first(folder: Path, packages: tuple[str, ...], *options: str) -> str:
    """Download the first of these packages that there is; empty, or why there is none."""
    why = ""
    for package in packages:
        if not (why := _apt(folder, *options, "download", package)):
            return ""
    return why


def unpack_restic(target: Path) -> str:
    """Bring the distribution's restic to `target`; empty, or why there is none."""
    with unpacked("restic") as (folder, why):
        if folder is None:
            return why
        program = folder / "usr" / "bin" / "restic"
        if (found := restic_version(program)) < OLDEST_RESTIC:
            return f"the distribution's restic is {'.'.join(map(str, found)) or 'of an unknown version'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(program, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
    return ""


def install_restic(venv: Path, now: float) -> None:
    """Unpack restic into the environment unless there is one. If that fails, report it and continue.

    A failed attempt is repeated a day later, so that not every `make` waits for it.
    """
    target, failed = venv / "tools" / "bin" / "restic", venv / findings.NO_RESTIC
    if target.is_file() or restic_version(shutil.which("restic") or "") >= OLDEST_RESTIC:
        return
    if failed.is_file() and now - failed.stat().st_mtime < RESTIC_AGAIN_SECONDS:
        return
    sys.stdout.write("setup: unpacking restic, for backups (8 MB)\n")
    sys.stdout.flush()
    if why := unpack_restic(target):
        failed.write_text(why, encoding="utf-8")
        sys.stdout.write(
            f"setup: restic was not installed ({why}); backups will be refused until restic"
            f" {'.'.join(map(str, OLDEST_RESTIC))} or later is on PATH (https://restic.net)\n"
        )
    else:
        failed.unlink(missing_ok=True)


def check_space(root: Path, folder: str) -> None:
    """End set-up with the remedy if the disk has no space for the environment of Spark."""
    free = shutil.disk_usage(root).free / 1e9
    if free < SPARK_GB:
        sys.exit(
            f"setup: {folder} needs about {SPARK_GB} GB, and the disk of {root} has {free:.1f} GB free\n"
            "  What to do: make space, and run `make setup-spark` again."
        )


def java_fault(home: Path) -> str:
    """Return why a Java cannot run Spark; empty if it can."""
    command: list[str | Path] = [home / "bin" / "java", "--list-modules"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return f"{home} has no Java that starts ({type(fault).__name__})"
    modules = dict(line.strip().partition("@")[::2] for line in done.stdout.splitlines())
    version = modules.get("java.base", "")
    major = int(found[0]) if (found := re.match(r"\d+", version)) else 0
    if major < OLDEST_JAVA:
        return f"the Java in {home} is {version or 'of an unknown version'}, and Spark needs {OLDEST_JAVA} or later"
    return "" if JAVA_MODULE in modules else f"the Java in {home} lacks the module {JAVA_MODULE}"


def unpack_java(target: Path) -> str:
    """Bring the distribution's Java to `target`; empty, or why there is none."""
    with unpacked(*JAVA_PACKAGES) as (folder, why):
        if folder is None:
            return why
        homes = [home for home in (folder / "usr" / "lib" / "jvm").glob("java-*") if (home / "bin" / "java").is_file()]
        if not homes:
            return "the package has no Java at its usual place"
        new = target.with_name(f"{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.move(homes[0], new)
        for settings in (folder / "etc").glob("java-*"):
            shutil.move(settings, new / "etc")
        mend_links(new)
        shutil.rmtree(target, ignore_errors=True)
        new.replace(target)
    return java_fault(target)


def mend_links(home: Path) -> None:
    """Point the links of an unpacked Java that lead to its settings in /etc to those in its own folder."""
    for link in [path for path in home.rglob("*") if path.is_symlink()]:
        if matched := re.match(r"/etc/java-[^/]+/(.*)", str(link.readlink())):
            inside = home / "etc" / matched[1]
            link.unlink()
            link.symlink_to(os.path.relpath(inside, link.parent))


def install_java(venv: Path, environment: Mapping[str, str]) -> None:
    """Give an environment a Java at `jre`: that of JAVA_HOME or PATH if Spark can run on it, else the distribution's.

    Ends set-up with the remedy if there is none.
    """
    target, reasons = venv / "jre", list[str]()
    if target.is_symlink():
        target.unlink()
    program = shutil.which("java", path=environment.get("PATH"))
    offered = [Path(given)] if (given := environment.get("JAVA_HOME")) else []
    for home in [*offered, *([Path(program).resolve().parents[1]] if program else [])]:
        if not (fault := java_fault(home)):
            target.symlink_to(home)
            sys.stdout.write(f"setup: Spark runs on the Java in {home}\n")
            return
        reasons.append(fault)
    sys.stdout.write("setup: unpacking Java, for Spark (42 MB)\n")
    sys.stdout.flush()
    if why := unpack_java(target):
        sys.exit(f"setup: no Java for Spark: {'; '.join([*reasons, why])}\n  What to do: {_INSTALL_JAVA}")
