"""Load a bundle's images into this machine's Docker Engine. One of them writes the files for docker-compose.yml.

`open_bundle.py --containers` runs it: `load_images.py ARCHIVE REFERENCE...`. Standard library only. Nothing is
installed on the machine, nothing is pulled, and the container that writes the settings has no network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

INITIALISES = "rempart/airflow"
"""Image with the command line."""


class ImagesRefused(Exception):
    """Raised when the Engine is missing or refuses."""


def _docker(*words: str, remedy: str) -> str:
    try:
        done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    except OSError as fault:
        raise ImagesRefused(f"start docker: {fault.strerror}. {remedy}") from fault
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ImagesRefused(f"`docker {' '.join(words[:2])}` failed: {output[-1]}. {remedy}")
    return done.stdout


def initialise_command(home: Path, image: str, user: str) -> list[str]:
    """Return the `docker` command that runs `rempart stack init` for the project in `home`, confined to it. Pure."""
    words = ["run", "--rm", "--pull", "never", "--network", "none", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", user]
    words += ["--mount", f"type=bind,source={home},target={home}", "--env", f"REMPART_HOME={home}"]
    return [*words, "--env", f"REMPART_VAR={home / 'var'}", image, "rempart", "stack", "init"]


def load(archive: Path, references: Sequence[str], home: Path) -> None:
    """Load the images, check that all are there, and write `.env` and var/compose. Raises ImagesRefused."""
    needed = "Install Docker Engine 25 or later with Compose, and start it, or install without --containers."
    for words in (("info",), ("compose", "version")):
        _docker(*words, remedy=needed)
    sys.stdout.write(f"loading {len(references)} images from {archive} ({archive.stat().st_size / 1e6:.0f} MB)\n")
    sys.stdout.flush()
    _docker("load", "--quiet", "--input", str(archive), remedy="Check the free space in the Engine's data folder.")
    for reference in references:
        _docker("image", "inspect", reference, remedy=("The archive lacks this image. Have the bundle written again."))
    (image,) = (reference for reference in references if reference.startswith(f"{INITIALISES}:"))
    settings = home / ".env"
    if not settings.exists():
        with os.fdopen(os.open(settings, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(f"REMPART_TAG={image.rpartition(':')[2]}\n")
    command = initialise_command(home, image, f"{os.getuid()}:{os.getgid()}")
    sys.stdout.write(_docker(*command, remedy=(f"{home} must be your own folder, on a disk that the Engine can read.")))


def main(arguments: list[str]) -> int:
    try:
        load(Path(arguments[0]), arguments[1:], Path(__file__).resolve().parents[4])
    except (ImagesRefused, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
