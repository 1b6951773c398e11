"""Read the platform's images in this machine's Engine: references, archive, bills of materials."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rempart.errors import StackError

BILL = "/usr/share/rempart/sbom.json"
"""Path of the bill of materials in each image."""
_BUILD = "Build the images: `make images`. Without an Engine: `rempart bundle write --no-images`."


def _docker(*words: str, root: Path | None = None) -> str:
    try:
        done = subprocess.run(["docker", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError as cause:
        raise StackError(f"start docker: {cause.strerror}", _BUILD) from cause
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise StackError(f"`docker {' '.join(words[:2])}` failed: {output[-1]}", _BUILD)
    return done.stdout


def references(root: Path) -> tuple[str, ...]:
    """Return every image that docker-compose.yml names, in order. Raises StackError if one is not built."""
    _require_compose()
    image_references = sorted(set(_docker("compose", "--profile", "*", "config", "--images", root=root).split()))
    for reference in image_references:
        _docker("image", "inspect", reference)
    return tuple(image_references)


def _require_compose() -> None:
    """Check that the Engine has `docker compose`: its own message does not name the cause. Raises StackError."""
    try:
        done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    except OSError as cause:
        raise StackError("pack the images: docker is not installed", _BUILD) from cause
    if done.returncode:
        raise StackError(
            "list the images of docker-compose.yml: `docker compose` is not installed",
            "Install Docker's compose plugin (Debian: `apt-get install docker-compose`), then `make images`. Without "
            "images: `rempart bundle write --no-images`.",
        )


def bill(reference: str) -> str:
    """Return the bill of materials in an image. Raises StackError."""
    return _docker(
        *("run", "--rm", "--pull", "never", "--network", "none", "--read-only", "--cap-drop", "ALL"),
        *("--entrypoint", "cat", reference, BILL),
    )


def save(wanted: Sequence[str], target: Path) -> None:
    """Save all images in one archive, in which shared layers occur once. Raises StackError."""
    with (
        subprocess.Popen(["docker", "save", *wanted], stdout=subprocess.PIPE) as process,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
    ):
        if process.stdout:
            shutil.copyfileobj(process.stdout, packed, 1 << 20)
    if process.returncode:
        raise StackError(
            f"`docker save` ended with exit code {process.returncode}",
            "Correct the cause in the lines above, then run again.",
        )
