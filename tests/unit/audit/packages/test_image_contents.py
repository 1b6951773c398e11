"""The bill of materials of an image comes from the image's content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rempart.audit.licences import Bundled, Review
from rempart.audit.packages import image_contents, sbom
from rempart.errors import AuditError
from tests.unit.audit.packages.test_debian import STATUS
from tests.unit.audit.packages.test_sbom import assert_valid

WEED = Bundled(name="SeaweedFS", version="4", licence="Apache-2.0", versions="==1", source="NOTICE", file="weed")
REVIEW = Review(bundled={"seaweed": [WEED]})


def distribution(site: Path, name: str, version: str, *, licence: str = "MIT", files: tuple[str, ...] = ()) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n"
    (folder / "METADATA").write_text(head)
    (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    return tmp_path


def test_packages_distributions_and_programs_are_in_it(root: Path) -> None:
    servers = root / "opt/servers"
    distribution(servers, "seaweed", "1", licence="Apache-2.0", files=("../../bin/weed",))
    (servers / "bin").mkdir()
    (servers / "bin/weed").write_bytes(b"program")
    venv = root / "opt/rempart/.venv/lib/python3.13/site-packages"
    distribution(venv, "Alpha_One", "2")
    distribution(venv, "rempart", "0.1.0")
    contents = image_contents.read(root, REVIEW)
    text = sbom.of_image("rempart/object-store", "0.1.0", contents)
    assert_valid(text)
    assert text == sbom.of_image("rempart/object-store", "0.1.0", image_contents.read(root, REVIEW))
    document = json.loads(text)
    assert document["metadata"]["component"]["type"] == "container"
    components = {component["name"]: component for component in document["components"]}
    assert {package.name for package in contents.system.packages} < set(components) and "rempart" not in components
    assert components["alpha-one"]["licenses"] == [{"expression": "MIT"}]
    (weed,) = components["seaweed"]["components"]
    assert weed["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"program").hexdigest()}]
    assert (weed["name"], weed["licenses"]) == ("SeaweedFS", [{"expression": "Apache-2.0"}])
    read_back = sbom.debian_of(document, "bill")
    assert (read_back.distribution, read_back.release) == ("debian", "13")


def test_a_program_that_was_changed_makes_another_bill(root: Path) -> None:
    distribution(root / "opt/servers", "seaweed", "1", files=("../../bin/weed",))
    (root / "opt/servers/bin").mkdir()
    texts = set()
    for body in (b"program", b"Program"):
        (root / "opt/servers/bin/weed").write_bytes(body)
        texts.add(sbom.of_image("x", "1", image_contents.read(root, REVIEW)))
    assert len(texts) == 2


def test_a_distribution_without_the_program_that_it_is_said_to_bring_is_told(root: Path) -> None:
    distribution(root / "opt/servers", "seaweed", "1", files=("../../bin/weed",))
    with pytest.raises(AuditError, match="but not weed, the file of SeaweedFS"):
        image_contents.read(root, REVIEW)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No such file"):
        image_contents.read(tmp_path, REVIEW)
