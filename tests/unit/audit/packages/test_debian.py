"""Versions sort as dpkg sorts them; a status file is read as dpkg wrote it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.audit.packages import debian
from rempart.audit.packages.debian import version_key
from rempart.errors import AuditError

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.41-12)
Version: 2.41-12+b1
Depends: libgcc-s1, absent (>= 2) | tiny:any
Description: GNU C Library
 Version: 9 is only text

Package: tiny
Status: install ok installed
Architecture: all
Version: 1:1.0
Provides: libgcc-s1 (= 5), other

Package: removed
Status: deinstall ok config-files
Version: 1
"""

ORDERED = [
    "0~~", "0~", "0", "1.0~~", "1.0~~a", "1.0~", "1.0~bpo1", "1.0-1~deb12u1", "1.0-1", "1.0-1+deb12u1", "1.0-1.1",
    "1.0a", "1.0+dfsg", "1.2", "1.10", "2:0.1", "10:0",
]  # fmt: skip
"""Debian Policy 5.6.12: a tilde before the end, letters before the rest, numbers by value."""

upstream = st.text("0123456789abzA.+~", min_size=1, max_size=8)
versions = st.builds(
    lambda epoch, first, text, revision: f"{epoch}{first}{text}{revision}",
    st.sampled_from(["", "0:", "1:", "12:"]),
    st.sampled_from("0127"),
    upstream,
    st.one_of(st.just(""), upstream.map(lambda text: f"-{text}")),
)


def test_the_order_of_the_policy() -> None:
    assert sorted(ORDERED, key=version_key) == ORDERED
    for left, right in itertools.pairwise(ORDERED):
        assert version_key(left) < version_key(right)


@pytest.mark.parametrize(
    ("left", "right"), [("1.0", "1.0-0"), ("0:1", "1"), ("1.01", "1.1"), ("1a", "1a0"), ("00", "0")]
)
def test_equal_versions(left: str, right: str) -> None:
    assert version_key(left) == version_key(right)


@pytest.mark.parametrize("text", ["", "1 0", "a:1", "1_0", "1.0\n", "1;rm", "١"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a Debian version"):
        version_key(text)


def test_a_number_of_any_length_is_compared() -> None:
    assert version_key("9" * 10_000) < version_key("1" + "0" * 10_000)


@given(versions, versions, versions)
def test_it_is_an_order(a: str, b: str, c: str) -> None:
    x, y, z = sorted([a, b, c], key=version_key)
    assert version_key(x) <= version_key(y) <= version_key(z)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not on this machine: the policy's examples remain")
@settings(max_examples=150)
@given(versions, versions)
def test_dpkg_agrees(left: str, right: str) -> None:
    def dpkg(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", left, relation, right], check=False).returncode == 0

    ours = (version_key(left) > version_key(right)) - (version_key(left) < version_key(right))
    assert ours == dpkg("gt") - dpkg("lt")


def test_a_status_file_lists_what_is_installed_with_its_source(tmp_path: Path) -> None:
    root = tmp_path / "image"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "var/lib/dpkg/status").write_text(STATUS)
    (root / "usr/lib/os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    system = debian.read_system(root)
    assert (system.distribution, system.release) == ("debian", "13")
    libc, tiny = system.packages
    assert (libc.name, libc.version, libc.source, libc.source_version) == ("libc6", "2.41-12+b1", "glibc", "2.41-12")
    assert (tiny.source, tiny.source_version) == ("tiny", "1:1.0")
    assert debian.depends_on(system.packages) == {"libc6": ("tiny",), "tiny": ()}


def test_a_link_out_of_an_image_is_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "image", tmp_path / "outside"
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "var/lib/dpkg/status").write_text(STATUS)
    outside.write_text("ID=debian\nVERSION_ID=1\n")
    (root / "etc/os-release").symlink_to(outside)
    assert debian.read_system(root).release == ""


def test_what_lists_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("hello\n")
    with pytest.raises(AuditError, match="no installed package"):
        debian.read_system(tmp_path / "status")
    with pytest.raises(AuditError, match="No such file"):
        debian.read_system(tmp_path / "absent")
