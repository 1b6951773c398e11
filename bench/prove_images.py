"""Proof: images contain what they declare and nothing forbidden, and the same commit builds the same images.

    make prove-images                      (needs a Docker Engine; some ten minutes: two targets are built twice)
    make prove-images ARGS=--scan          (the existing images, in a minute; nothing is built)

The proof unpacks each image and examines it file by file: setuid and setgid, world-writable files, private keys,
leftovers of package managers, and its bill of materials against its contents. It builds two targets, the smallest and
one with Python, twice without the Engine's layer cache, and reports every difference. It does not compare the times of
folders, because the Engine's own exporter cannot set them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench import prove_compose
from bench.prove_compose import Check, Compose, check, sizes, tell
from bench.prove_pods import write
from bench.seen import UID, docker
from rempart.deployment.compose import images
from rempart.settings import config

NAME = "images"
TWICE = {"gate": "gate", "airflow": "airflow-init"}
"""Targets that are built twice: the smallest, and one with Python, locked packages and compiled modules; with their
builders.
"""
ALONE = (f"rempart/spark:{os.environ.get('REMPART_TAG') or 'local'}",)
"""Images that are built by themselves: looked at where they are."""
LABELS = ("title", "description", "licenses", "version", "revision", "created", "base.name")
CACHES = re.compile(
    r"var/(cache/(apt|debconf|ldconfig)|lib/apt/lists|log)/.+[^/]$|(root|home/[^/]+)/\.cache/|"
    r"etc/(machine-id|passwd-|shadow-|group-|gshadow-)$|.*/(\.cache|pip-cache|\.npm)/"
)
ALLOWED = re.compile(r"var/cache/debconf/(config|passwords|templates)\.dat$")
"""Working files of dpkg that are not a cache."""
PRIVATE = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}|AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}|"
    rb"AKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"
)
EXAMPLES = re.compile(r"/site-packages/.*/(tests?|testing|examples)/|/botocore/data/|/libgnutls\.so\.[\d.]+$")
"""Packages whose keys belong to test suites, documentation, or a library that tests itself: reported, and not
counted.
"""
SIGNS = (b"PRIVATE KEY-----", b"AGE-SECRET-KEY-1", b"AKIA", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")
"""Text in every match of `PRIVATE`; a search for it is much faster."""


@dataclass(frozen=True)
class Entry:
    """One path of an image. `digest` is the digest of its bytes, or the target of a link."""

    kind: str
    mode: int
    owner: tuple[int, int]
    digest: str
    time: int


@dataclass
class KeySearch:
    """Find the files of an image that look like private keys. Bytes that several images share are read once."""

    found: list[str] = field(default_factory=list)
    known: dict[str, bool] = field(default_factory=dict)

    def look(self, name: str, digest: str, body: bytes) -> None:
        if digest not in self.known:
            self.known[digest] = any(sign in body for sign in SIGNS) and bool(PRIVATE.search(body))
        if self.known[digest]:
            self.found.append(name)


def entries(reference: str, keys: KeySearch | None = None) -> dict[str, Entry]:
    """Return every path of an image."""
    container = docker("create", reference).strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                found = {member.name: _entry(archive, member, keys) for member in archive}
            if process.stdout:
                process.stdout.read()
    finally:
        docker("rm", "--force", container)
    if process.returncode:
        raise SystemExit(f"docker export of {reference} ended with {process.returncode}")
    return {name: entry for name, entry in found.items() if name not in made_by_the_engine()}


def _entry(archive: tarfile.TarFile, tar_info: tarfile.TarInfo, keys: KeySearch | None) -> Entry:
    digest = tar_info.linkname
    if stream := archive.extractfile(tar_info) if tar_info.isreg() else None:
        body = stream.read()
        digest = hashlib.sha256(body).hexdigest()
        if keys is not None:
            keys.look(tar_info.name, digest, body)
    kind = "file" if tar_info.isreg() else "folder" if tar_info.isdir() else "link"
    return Entry(
        kind, tar_info.mode, (tar_info.uid, tar_info.gid), digest, 0 if tar_info.isdir() else int(tar_info.mtime)
    )


def made_by_the_engine() -> set[str]:
    """Return paths that the Engine adds to a container and that no image has."""
    return {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab"}


def differences(entry: dict[str, Entry], other: dict[str, Entry]) -> list[str]:
    """Return each path in which two builds differ, and how. Pure."""
    told = []
    for name in sorted({*entry, *other}):
        first, second = entry.get(name), other.get(name)
        if first is None or second is None:
            told.append(f"{name}: in one build alone")
        elif first != second:
            fields = [field for field in vars(first) if getattr(first, field) != getattr(second, field)]
            told.append(f"{name}: {', '.join(fields)}")
    return told


def faults(found: dict[str, Entry]) -> Iterator[str]:
    """Return forbidden properties of an image's paths. Pure."""
    for name, entry in sorted(found.items()):
        if entry.kind != "link" and entry.mode & (stat.S_ISUID | stat.S_ISGID):
            yield f"{name} is setuid or setgid ({entry.mode:o})"
        if entry.kind == "file" and entry.mode & stat.S_IWOTH:
            yield f"{name} can be written by anybody ({entry.mode:o})"
        if entry.kind == "folder" and entry.mode & stat.S_IWOTH and not entry.mode & stat.S_ISVTX:
            yield f"{name} can be written by anybody, and has no sticky bit ({entry.mode:o})"
        if entry.kind == "file" and CACHES.match(name) and not ALLOWED.match(name):
            yield f"{name} is left over from an installation"


@dataclass
class Seen:
    """Read the files of images: those of equal layers once, such as Airflow's and MLflow's, and equal bytes once."""

    known: dict[str, bool] = field(default_factory=dict)
    images: dict[tuple[str, ...], tuple[dict[str, Entry], list[str]]] = field(default_factory=dict)

    def of(self, reference: str) -> tuple[dict[str, Entry], list[str]]:
        """Return every path of an image, and those that look like private keys."""
        layers = tuple(json.loads(docker("image", "inspect", reference))[0]["RootFS"]["Layers"])
        if layers not in self.images:
            search = KeySearch(known=self.known)
            self.images[layers] = entries(reference, search), search.found
        return self.images[layers]


def look(reference: str, seen: Seen, checks: list[Check], figures: dict[str, Any]) -> None:
    """Examine one image: its paths, its settings, its bill."""
    name = reference.rpartition("/")[2].partition(":")[0]
    found, keys = seen.of(reference)
    wrong = list(faults(found))
    check(checks, f"{name}: no setuid, nothing writable, no cache", not wrong, f"{len(found)} paths; {wrong[:8]}")
    real = [key for key in keys if not EXAMPLES.search(key)]
    told = f"{len(keys) - len(real)} files of tests and examples hold one"
    check(checks, f"{name}: no private key", not real, f"{told}; {real[:8]}")
    settings = json.loads(docker("image", "inspect", reference))[0]["Config"]
    given = settings["Labels"] or {}
    lacking = [label for label in LABELS if not given.get(f"org.opencontainers.image.{label}")]
    user = settings["User"]
    good = user == f"{UID}:0" and not lacking
    check(checks, f"{name}: an ordinary user, and labels", good, f"user {user}; lacking: {lacking or 'none'}")
    bill = json.loads(images.bill(reference))
    listed = {
        component["purl"].partition("?")[0].replace("%2B", "+").replace("%3A", ":") for component in bill["components"]
    }
    present = _distributions(found)
    missed = sorted(pattern for pattern in present if not any(pattern.fullmatch(purl) for purl in listed))
    figures.setdefault("components", {})[name] = len(bill["components"])
    check(checks, f"{name}: what it has is on its bill", not missed, f"{len(listed)} listed; missed: {missed[:5]}")
    hashes = {
        h["content"] for component in bill["components"] for p in component.get("components", ()) for h in p["hashes"]
    }
    strange = hashes - {entry.digest for entry in found.values()}
    check(checks, f"{name}: the programs on its bill are these", not strange, f"{len(hashes)} programs; {strange}")


def _distributions(found: dict[str, Entry]) -> set[re.Pattern[str]]:
    """Return a purl pattern for each Python distribution in an image, from the names of its paths alone."""
    patterns = set()
    for name in found:
        if got := re.fullmatch(
            r"opt/(?:[^/]+/\.venv[^/]*/lib/[^/]+/site-packages|[^/]+)/([^/]+)-([^/-]+)\.dist-info", name
        ):
            plain = re.sub(r"[-_.]+", "[-_.]", got[1]).lower()
            if plain != "rempart":
                patterns.add(re.compile(rf"pkg:pypi/{plain}@{re.escape(got[2])}"))
    return patterns


def twice(compose: Compose, checks: list[Check], figures: dict[str, Any]) -> None:
    """Build two targets twice, without the Engine's layer cache, and compare."""
    builds: list[dict[str, dict[str, Entry]]] = []
    for number in (1, 2):
        began = time.monotonic()
        compose.must("build", "--no-cache", *TWICE.values(), timeout=1800)
        figures[f"seconds: build {number}"] = round(time.monotonic() - began, 1)
        tell(f"build {number}: {figures[f'seconds: build {number}']} s")
        builds.append({target: entries(f"rempart/{target}:{compose.tag}") for target in TWICE})
    for target in TWICE:
        different = differences(builds[0][target], builds[1][target])
        for line in different[:40]:
            tell(f"  {target}: {line}")
        told = f"{len(builds[0][target])} paths; different: {len(different)} {different[:5]}"
        check(checks, f"{target}: two builds are the same", not different, told)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prove_images", description=__doc__)
    parser.add_argument("--scan", action="store_true", help="only look at the images that are there")
    chosen = parser.parse_args(arguments)
    if why := prove_compose.why_not():
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(NAME, [{"what": "images are the same each time", "ok": None, "detail": f"not run: {why}"}], 0, {})
        return 1
    root, began = config.project_root().resolve(), time.monotonic()
    folder = config.var_dir().absolute() / "images-proof"
    folder.mkdir(parents=True, exist_ok=True)
    compose = Compose(root, folder / "compose.env")
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    try:
        if not chosen.scan:
            variables = {**prove_compose.os.environ, "REMPART_VAR": str(folder), "REMPART_HOME": str(root)}
            command = [sys.executable, "-m", "rempart.cli", "stack", "init", "--settings", str(folder / "compose.env")]
            subprocess.run(command, env=variables, cwd=root, check=True)
            twice(compose, checks, figures)
            compose.must("build")
        references = [*images.references(root), *(image for image in ALONE if prove_compose.has(image))]
        figures["MB"] = sizes(references)
        seen = Seen()
        for reference in references:
            look(reference, seen, checks, figures)
    except (Exception, SystemExit) as error:
        check(checks, "every step could be taken", False, f"{type(error).__name__}: {error}")
    for name, value in figures.items():
        print(f"     {name}: {value}")
    return 0 if write(NAME, checks, round(time.monotonic() - began, 1), figures) else 1


if __name__ == "__main__":
    sys.exit(main())
