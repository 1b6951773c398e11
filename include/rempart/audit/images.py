"""The Debian systems of images: where they are read from, and how advisories name what is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rempart.audit.advisories import Package
from rempart.audit.findings import AuditFinding
from rempart.audit.packages import debian, sbom
from rempart.audit.packages.debian import DebianSystem
from rempart.audit.packages.distributions import read_text
from rempart.audit.vulnerabilities import not_checked
from rempart.errors import AuditError


def read_debian(path: Path) -> DebianSystem:
    """Read a Debian system from its status file, its root, or a bill of materials of ours. Raises AuditError."""
    if path.suffix != ".json":
        return debian.read_system(path)
    try:
        document = json.loads(read_text(path))
    except ValueError as cause:
        raise AuditError(
            f"read {path}: it is not JSON", "Pass a bill of materials that `rempart audit sbom --debian` wrote."
        ) from cause
    return sbom.debian_of(document if isinstance(document, dict) else {}, str(path))


def packages_of(system: DebianSystem) -> list[Package]:
    """Return one package for each source package and version, because Debian's advisories name source packages."""
    built: dict[tuple[str, str], list[str]] = {}
    for package in system.packages:
        built.setdefault((package.source, package.source_version), []).append(package.name)
    ecosystem = f"Debian:{system.release.partition('.')[0]}"
    return [
        Package(ecosystem, source, version, f"{system.where}: {', '.join(sorted(names)[:6])}")
        for (source, version), names in built.items()
    ]


def unplaced(system: DebianSystem) -> AuditFinding:
    """Return a finding about a system of unknown release, for which advisories cannot be matched."""
    return not_checked(
        f"Vulnerabilities of {len(system.packages)} packages were not checked: their Debian release is not known",
        system.where,
        "Pass the root of the image, with its os-release, instead of the status file alone.",
        f"debian-{hashlib.sha256(system.where.encode()).hexdigest()[:8]}",
    )
