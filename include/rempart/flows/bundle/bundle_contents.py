"""Collect the contents of a bundle: the project's files, the wheels of its lock, restic."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from rempart.audit.credentials import secrets_of
from rempart.backup.bundle.bundle import BundleFile
from rempart.backup.bundle.open_bundle import sha256_of
from rempart.deployment.setup.bootstrap import ENVIRONMENTS
from rempart.errors import BackupError
from rempart.settings import config as configuration

logger = logging.getLogger(__name__)

FILES = (
    *("README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", "rempart.yaml", "requirements*.txt"),
    "docker-compose.yml",
)
FOLDERS = ("dags", "plugins", "include", "docs", "deploy")
"""Files needed to run and restore a project. Data, tests, benches and other files are excluded."""
LOCKS = (ENVIRONMENTS["rempart"].lock, "requirements-bootstrap.txt")
ENTRY = "include/rempart/deployment/setup/bootstrap.py"
LOG_EVERY = 5.0
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PRIVATE = re.compile(rb"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}|-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32}")
_SHORTEST = 12
"""Minimum length of a secret to search for: shorter ones are ordinary words; `rempart audit run` reports them."""


def project_files(root: Path) -> dict[str, Path]:
    """Return the project's files by name below `root`, in order. Raises BackupError if a needed file is missing."""
    found = [file for pattern in FILES for file in root.glob(pattern)]
    found += [file for folder in FOLDERS for file in (root / folder).rglob("*")]
    named = {file.relative_to(root).as_posix(): file for file in found if file.is_file()}
    kept = {name: named[name] for name in sorted(named) if not _left_out(name)}
    if lacking := [name for name in (ENTRY, *LOCKS, "rempart.yaml", "pyproject.toml") if name not in kept]:
        raise BackupError(
            f"{root} is not a complete project: it lacks {', '.join(lacking)}",
            "Make the bundle where the project's folder is, with REMPART_HOME naming it.",
        )
    return kept


def _left_out(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") or part == "__pycache__" or part.endswith(".egg-info") for part in parts)


def sha256_of_files(files: Mapping[str, Path]) -> str:
    """Return one digest of names and contents."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def refuse_secrets(files: Mapping[str, Path], variables: Mapping[str, str]) -> None:
    """Check that no file holds a private key or a secret of these variables.

    Raises BackupError, which never quotes it.
    """
    secrets = {value.encode(): name for name, (value, _) in secrets_of(variables)[0].items() if len(value) >= _SHORTEST}
    for name, file in files.items():
        body = file.read_bytes()
        held = next((owner for value, owner in secrets.items() if value in body), None)
        if held or _PRIVATE.search(body):
            raise BackupError(
                f"{name} holds {f'the secret of {held}' if held else 'a private key'} and must not go into the "
                "bundle, which is not encrypted",
                "Move the secret to a connection or an environment variable. Then replace it, because a file "
                "contained it.",
            )


def archive(files: Mapping[str, Path], target: Path) -> BundleFile:
    """Pack the files without times and owners: equal contents give equal bytes."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, file in files.items():
            body, entry = file.read_bytes(), tarfile.TarInfo(name)
            entry.size, entry.mode = len(body), 0o755 if file.stat().st_mode & 0o100 else 0o644
            tar.addfile(entry, io.BytesIO(body))
    return held(target)


def held(file: Path) -> BundleFile:
    return BundleFile(sha256_of(file), file.stat().st_size)


def wheels(root: Path, folder: Path) -> dict[str, Path]:
    """Return the lock's wheels for this machine by file name. Fetch those that `folder` lacks.

    pip uses its own configuration and cache, and refuses packages without a hash in the lock. Raises BackupError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    locks = [root / name for name in LOCKS]
    hashes = {digest for lock in locks for digest in _HASH.findall(lock.read_text(encoding="utf-8"))}
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += [
        "--progress-bar",
        "off",
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
    ]
    command += [part for lock in locks for part in ("-r", str(lock))]
    logger.info("fetching the wheels of %s to %s (about 0.5 GB)", ", ".join(LOCKS), folder)
    names, last, told, count = set[str](), "", time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            count += line.startswith("Collecting ")
            last = line.strip() if line.startswith("ERROR") else last
            if matched := re.search(r"(?:Saved|File was already downloaded) (\S.*\.whl)\Z", line.strip()):
                names.add(Path(matched[1]).name)
            if time.monotonic() - told >= LOG_EVERY:
                told = time.monotonic()
                logger.info("fetched %d packages", count)
    if process.returncode:
        raise BackupError(
            f"The wheels of the lock could not be fetched: {last[:300] or f'pip ended with {process.returncode}'}",
            "`make preflight` checks index, proxy and certificates. Run again: what pip has in its cache stays.",
        )
    chosen = {name: folder / name for name in sorted(names)}
    if wrong := [name for name, file in chosen.items() if sha256_of(file) not in hashes]:
        raise BackupError(f"{folder / wrong[0]} is not the file of the lock", "Delete it and run again.")
    return chosen


def variables() -> dict[str, str]:
    """Return the variables with this platform's secrets: its file and this environment. Never log them."""
    return {**configuration.environment(), **configuration.read_env_file(configuration.secrets_file())}


def names_of_wheels(files: Iterable[str]) -> list[str]:
    """Return the wheels among a bundle's files."""
    return [name for name in files if name.startswith("wheels/")]
