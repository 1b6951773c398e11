"""Define the services of the stack, and check them: which are started here, and that each has exactly one place."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic import Field

from rempart.settings.policy.rules import Place
from rempart.settings.schema import Strict

SERVERS = ("postgresql", "mlflow", "airflow")
"""Servers of the platform itself: what they hold is placed as data is."""
SCORER = "scorer"
"""The service that answers with predictions, and its database role, which reads what it needs and writes nothing."""


class External(Strict):
    """A service that the team runs itself: `rempart up` checks it and never starts it.

    PostgreSQL, MLflow and Airflow need `operator`, `service` and `region` for the policy. A site's place is under
    `sites`.
    """

    url: str
    connection: str
    operator: str | None = Field(default=None, description=("Operator of the infrastructure on which the server runs."))
    service: str | None = Field(default=None, description="Service of that operator, such as managed-postgresql.")
    region: str | None = Field(default=None, description="Region of that operator.")

    @property
    def place(self) -> Place | None:
        """Return the service's place, or None unless operator, service and region are all declared."""
        if self.operator is None or self.service is None or self.region is None:
            return None
        return Place(operator=self.operator, service=self.service, region=self.region)


class StackService(Strict):
    """A service of the stack, started by the platform or external."""

    port: int | None = Field(default=None, ge=1024, le=65535, description=("Port to listen on instead of the default."))
    external: External | None = None
    start: bool = Field(default=True, description="Whether `rempart up` starts it. Only `scorer` can be left out.")


def check_services(services: Mapping[str, StackService], sites: Collection[str], machine: Place | None) -> None:
    """Check which services are declared, and their places. Raises ValueError."""
    known = sorted({*SERVERS, SCORER, *sites})
    for name, service in services.items():
        if name not in known:
            raise ValueError(f"services.{name}: '{name}' is not one of the stack's services: {', '.join(known)}")
        if name == SCORER and service.external:
            raise ValueError("services.scorer.external: set `start: false`, and run `rempart run scorer` elsewhere")
        if name != SCORER and not service.start:
            raise ValueError(f"services.{name}.start: the platform needs it. Declare it as external instead")
        _check_place(name, service, sites)
    started = [name for name in SERVERS if name not in services or not services[name].external]
    if started and machine is None:
        raise ValueError(
            f"machine: give the operator, service and region of the machine that runs {', '.join(started)}, "
            "such as {operator: scaleway, service: virtual-machines, region: fr-par}; the policy decides "
            "by its place"
        )


def _check_place(name: str, service: StackService, sites: Collection[str]) -> None:
    """Check that an external server has exactly one declared place. Raises ValueError."""
    declared = service.external
    if declared is None:
        return
    if name in sites and (declared.operator or declared.service or declared.region):
        raise ValueError(
            f"services.{name}.external.operator: this server is a site, so declare its place under sites.{name}"
        )
    if name in SERVERS and declared.place is None:
        raise ValueError(
            f"services.{name}.external.operator: give the operator, service and region of this server, "
            "such as {operator: scaleway, service: managed-postgresql, region: fr-par}; the policy "
            "decides by its place"
        )
