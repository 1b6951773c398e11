"""Write CycloneDX 1.6 bills of materials of the lock, a Debian system, an image. Equal input gives equal bytes.

They contain no random serial number and no time of day: the serial is derived from the content, and a time is included
only if the caller gives one.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rempart import canonical_json
from rempart.audit.licences import Licence, Review
from rempart.audit.packages.debian import DebianPackage, DebianSystem, depends_on
from rempart.audit.packages.image_contents import ImageContents
from rempart.errors import AuditError

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

_NAMESPACE = uuid.UUID("a7a5c4f5-5f5c-5b0e-9d0a-6a3f7f6c2d11")  # of our serials, and of nothing else


def _properties(**values: str) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=f"rempart:{key.replace('_', '-')}", value=value) for key, value in values.items() if value]


def _expression(text: str | None) -> list[Any]:
    from cyclonedx.model.license import LicenseExpression

    return [LicenseExpression(text)] if text else []


def of_lock(licences: Iterable[Licence], review: Review, version: str, *, at: datetime | None = None) -> str:
    """Return the lock as CycloneDX JSON: each distribution with licence, accepted hashes, and dependencies."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    found = list(licences)
    bom, root = _bom("rempart", version)
    components: dict[str, list[Component]] = {}
    for licence in found:
        locked = licence.locked
        inside = [
            Component(
                name=bundled.name,
                version=bundled.version,
                licenses=_expression(bundled.licence),
                type=ComponentType.APPLICATION,
            )
            for bundled in review.bundled.get(locked.name, ())
        ]
        component = Component(
            type=ComponentType.LIBRARY,
            name=locked.name,
            version=locked.version,
            bom_ref=locked.reference,
            purl=PackageURL("pypi", None, locked.name, locked.version),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in locked.hashes],
            licenses=_expression(licence.expression),
            properties=_properties(marker=locked.marker, licence_known_from=licence.known_from),
            components=inside,
        )
        components.setdefault(locked.name, []).append(component)
        bom.components.add(component)
    needs: dict[str, list[Component]] = {}
    for licence in found:
        for asker in licence.locked.asked_by:
            needs.setdefault(asker, []).extend(
                dependency for dependency in components[licence.locked.name] if dependency not in needs.get(asker, [])
            )
    for name, versions in components.items():
        for component in versions:
            bom.register_dependency(component, needs.get(name, []))
    bom.register_dependency(
        root,
        [dependency for licence in found if licence.locked.direct for dependency in components[licence.locked.name]],
    )
    return _text(bom, at)


def of_debian(system: DebianSystem, *, at: datetime | None = None) -> str:
    """Return a Debian system as CycloneDX JSON, without licences: each package's copyright file states them as
    prose.
    """
    bom, root = _bom(system.distribution, system.release or "unknown", operating_system=True)
    _add_debian(bom, system)
    bom.register_dependency(root, bom.components)
    return _text(bom, at)


def of_image(name: str, version: str, contents: ImageContents, *, at: datetime | None = None) -> str:
    """Return an image as CycloneDX JSON: Debian packages, Python distributions with licences, programs inside."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    bom, root = _bom(name, version, container=True)
    _add_debian(bom, contents.system)
    for distribution in contents.distributions:
        locked = distribution.licence.locked
        inside = [
            Component(
                name=program.name,
                version=program.version,
                licenses=_expression(program.licence),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=program.sha256)],
                type=ComponentType.APPLICATION,
            )
            for program in distribution.programs
        ]
        bom.components.add(
            Component(
                type=ComponentType.LIBRARY,
                name=locked.name,
                version=locked.version,
                bom_ref=locked.reference,
                purl=PackageURL("pypi", None, locked.name, locked.version),
                licenses=_expression(distribution.licence.expression),
                properties=_properties(
                    record_sha256=distribution.record, licence_known_from=distribution.licence.known_from
                ),
                components=inside,
            )
        )
    bom.register_dependency(root, bom.components)
    return _text(bom, at)


def _add_debian(bom: Bom, system: DebianSystem) -> None:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    distro = f"{system.distribution}-{system.release}" if system.release else system.distribution
    components: dict[str, list[Component]] = {}
    for package in system.packages:
        qualifiers = {"arch": package.architecture, "distro": distro}
        purl = PackageURL("deb", system.distribution, package.name, package.version, qualifiers)
        component = Component(
            type=ComponentType.LIBRARY,
            name=package.name,
            version=package.version,
            bom_ref=purl.to_string(),
            purl=purl,
            properties=_properties(source=package.source, source_version=package.source_version),
        )
        components.setdefault(package.name, []).append(component)
        bom.components.add(component)
    for name, needed in depends_on(system.packages).items():
        for component in components[name]:
            bom.register_dependency(component, [dependency for other in needed for dependency in components[other]])


def _bom(name: str, version: str, *, operating_system: bool = False, container: bool = False) -> tuple[Bom, Component]:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType

    others = operating_system or container  # of many licences
    kind = ComponentType.OPERATING_SYSTEM if operating_system else ComponentType.APPLICATION
    kind = ComponentType.CONTAINER if container else kind
    root = Component(
        type=kind,
        name=name,
        version=version,
        bom_ref=f"{name}@{version}",
        licenses=[] if others else _expression("Apache-2.0"),
    )
    bom = Bom()
    bom.metadata.component = root
    return bom, root


def _text(bom: Bom, at: datetime | None) -> str:
    from cyclonedx.output.json import JsonV1Dot6

    # the library always writes a serial and a time: both are replaced by what the content and the caller say
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)
    document.pop("serialNumber", None)
    for inside in (part for component in document["components"] for part in component.get("components", ())):
        inside.pop("bom-ref", None)
    digest = hashlib.sha256(canonical_json.encode(document)).hexdigest()
    document["serialNumber"] = uuid.uuid5(_NAMESPACE, digest).urn
    if at is not None:
        document["metadata"]["timestamp"] = at.isoformat()
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def component_count(text: str) -> int:
    """Return the number of top-level components in a bill of materials."""
    return len(json.loads(text).get("components", []))


def debian_of(document: Mapping[str, Any], where: str) -> DebianSystem:
    """Return the Debian system in a bill of materials of ours. Raises AuditError."""
    packages, systems = [], set()
    for component in document.get("components") or ():
        purl = str(component.get("purl", ""))
        if not purl.startswith("pkg:deb/"):
            continue
        from packageurl import PackageURL

        read = PackageURL.from_string(purl)
        qualifiers = read.qualifiers if isinstance(read.qualifiers, dict) else {}
        says = {prop.get("name"): prop.get("value") for prop in component.get("properties") or ()}
        name, version = read.name, read.version or ""
        source, source_version = says.get("rempart:source", name), says.get("rempart:source-version", version)
        packages.append(DebianPackage(name, version, qualifiers.get("arch", ""), source, source_version))
        systems.add((read.namespace or "debian", qualifiers.get("distro", "").rpartition("-")[2]))
    if not packages or len(systems) != 1:
        raise AuditError(
            f"read {where}: it does not list the Debian packages of one system",
            "Write it with `rempart audit sbom --debian`.",
        )
    distribution, release = systems.pop()
    return DebianSystem(where, distribution, release, tuple(packages))
