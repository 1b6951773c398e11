"""Read facts about operators: companies that run infrastructure, their jurisdiction, and their services.

The shipped catalogue is one file per operator under include/operators; rempart.yaml adds entries and overrides facts.
Every fact has its source (`source`) and date (`as_of`). An uncertain fact says so, and counts as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from rempart.settings.schema import Strict, read_yaml

CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166 country code.")]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


KEY = re.compile(r"[a-z0-9][a-z0-9-]*")
"""An operator's key, and the name of its file."""

Names = Annotated[list[str], BeforeValidator(_as_list)]


class Sourced(Strict):
    """A fact, with where and when it was read."""

    source: str | None = Field(default=None, description="Public address of the page that states the fact.")
    as_of: date | None = Field(default=None, description="Date of the page or of the reading.")
    certain: bool = Field(
        default=True, description=("False means that the fact counts as unknown; `note` gives the reason.")
    )
    note: str = ""


class Country(Sourced):
    """A country whose law applies. `FR` alone is short for `{value: FR}`."""

    value: CountryCode

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {"value": data} if isinstance(data, str) else data


class Region(Sourced):
    """A place of an operator, by the name that its API uses."""

    country: CountryCode
    name: str = ""


class Qualification(Sourced):
    """An authority's attestation of a service. `SecNumCloud-3.2` alone is short for a name and a version."""

    name: str
    version: str | None = None
    scope: str = Field(default="", description="Scope of the certificate, quoted from it.")
    regions: Names = Field(
        default_factory=list,
        description=("Regions that the certificate covers. Empty means all regions of the service."),
    )
    valid_from: date | None = None
    valid_until: date | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return dict(zip(("name", "version"), split_qualification(data), strict=True)) if isinstance(data, str) else data

    def __str__(self) -> str:
        return f"{self.name}-{self.version}" if self.version else self.name


class Technology(Sourced):
    """A product that a service is built on, and who controls it: a country, or `open` for ownerless open source."""

    name: str
    origin: str = Field(pattern=r"^([A-Z]{2}|open)$")


class SubProcessor(Sourced):
    """A company that processes the customer's data for the operator."""

    name: str
    jurisdiction: CountryCode
    purpose: str = ""


class Service(Sourced):
    """A service of an operator. Qualifications belong to the service, not to the operator."""

    name: str = ""
    runs_on: Names = Field(
        description=("Operators whose infrastructure the service runs on, including its own operator.")
    )
    technology: list[Technology] = Field(default_factory=list)
    subprocessors: list[SubProcessor] | None = Field(default=None, description="Omit it if it is not known.")
    regions: Names = Field(
        default_factory=list, description=("Regions that offer the service. Empty means all regions of the operator.")
    )
    endpoints: Names = Field(default_factory=list, description=("URLs of the service; {region} stands for the region."))
    quirks: list[str] = Field(default_factory=list, description="How the service differs from others of its kind.")
    qualifications: list[Qualification] = Field(default_factory=list)


class Operator(Sourced):
    """A company that runs infrastructure."""

    name: str = ""
    legal_entity: str = ""
    jurisdiction: Country = Field(description="Country of the operator's seat.")
    owner: str = Field(default="", description="Name of the ultimate owner.")
    owner_jurisdiction: Country = Field(description="Country of the ultimate owner's seat.")
    regions: dict[str, Region] = Field(default_factory=dict)
    services: dict[str, Service] = Field(default_factory=dict)


def split_qualification(text: str) -> tuple[str, str | None]:
    """Split `SecNumCloud-3.2` into name and version; `HDS` has none, and in `ISO-27001` the number is part of the
    name.
    """
    name, _, version = text.rpartition("-")
    return (name, version) if name and "." in version else (text, None)


def read_catalogue(folder: Path, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return shipped entries as plain data, by operator: all, or the named operators and those that their services run
    on.

    Reading all takes a tenth of a second in each process of Airflow. Raises ConfigError.
    """
    if names is None:
        return {file.stem: read_yaml(file) for file in sorted(folder.glob("*.yaml"))}
    found: dict[str, dict[str, Any]] = {}
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name not in found and KEY.fullmatch(name) and (file := folder / f"{name}.yaml").is_file():
            found[name] = read_yaml(file)
            wanted += _below(found[name])
    return found


def _below(entry: Mapping[str, Any]) -> list[str]:
    """Return the operators that an entry's services run on, as far as the entry is well-formed."""
    services = entry.get("services")
    all_services = services.values() if isinstance(services, Mapping) else ()
    listed = [service.get("runs_on") for service in all_services if isinstance(service, Mapping)]
    return [name for item in listed for name in (item if isinstance(item, list) else [item]) if isinstance(name, str)]


def named_operators(data: Mapping[str, Any]) -> set[str]:
    """Return every operator that a rempart.yaml names."""
    overrides = data.get("operators")
    names: set[str] = set()
    if isinstance(machine := data.get("machine"), Mapping) and isinstance(machine.get("operator"), str):
        names.add(machine["operator"])
    services = data.get("services")
    for service in services.values() if isinstance(services, Mapping) else ():
        external = service.get("external") if isinstance(service, Mapping) else None
        if isinstance(external, Mapping) and isinstance(operator := external.get("operator"), str):
            names.add(operator)
    if isinstance(overrides, Mapping):
        names |= {str(key) for key in overrides}
        for entry in overrides.values():
            names |= set(_below(entry)) if isinstance(entry, Mapping) else set()
    for section in data.values():
        for place in section.values() if isinstance(section, Mapping) else ():
            if isinstance(place, Mapping) and isinstance(operator := place.get("operator"), str):
                names.add(operator)
    return names


def merge(shipped: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge overrides into the shipped entries, key by key; a list replaces a list."""
    merged = dict(shipped)
    for key, value in overrides.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged
