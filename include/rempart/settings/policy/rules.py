"""Define places, the rules of the policy, and the places that are only read from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rempart.settings.operators import Names
from rempart.settings.schema import Strict

Countries = list[Annotated[str, Field(pattern=r"^([A-Z]{2}|EEA|ADEQUACY)$")]]
"""Countries by their ISO 3166 code, and groups of countries."""


class Place(Strict):
    """A service of an operator in a region."""

    operator: str
    service: str
    region: str


class OriginRule(Strict):
    """Operators and countries from which one classification may be read. An empty list allows no place."""

    operators: Names | None = Field(default=None, description="Operators. Default: any under the laws below.")
    jurisdictions: Countries = Field(description="For the place, its operator and the infrastructure below it.")
    owner_jurisdictions: Countries = Field(description="For the ultimate owners.")


class PolicyRule(Strict):
    """Countries or groups (EU, EEA, ADEQUACY) where one classification may be placed. An empty list allows no place."""

    jurisdictions: Countries = Field(description="For the place, its operator and the infrastructure below it.")
    owner_jurisdictions: Countries = Field(description="For the ultimate owners, because some laws apply abroad.")
    qualifications: list[str] = Field(default_factory=list, description="Required of the service, such as HDS.")
    technology_origins: Countries | None = Field(default=None, description="For the technology of the service.")
    subprocessor_jurisdictions: Countries | None = Field(default=None, description="For the operator's sub-processors.")
    independent: list[Literal["replica", "restore-point"]] = Field(
        default_factory=list, description="Kinds of copies that must not share infrastructure with the original."
    )
    origins: OriginRule | None = Field(
        default=None,
        description="Places from which sources may read. Default: only declared places where the data may also be.",
    )


class OriginPlace(Place):
    """A place that sources only read from. Nothing of the platform is ever written there."""

    service: str = "object-storage"
    connection: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9_]{1,60}$",
        description="Airflow connection of a bucket's key and extra.endpoint_url, or of a token.",
    )
    hosts: Names = Field(default_factory=list, description="Hosts of an HTTP service, as host or host:port.")

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if self.connection is None and not self.hosts:
            raise ValueError("give `connection` (a bucket), `hosts` (an HTTP service), or both")
        return self
