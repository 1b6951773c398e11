"""Check the services of the stack: which are started here, and that the place of each is declared exactly once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rempart.settings.policy.rules import Place
from rempart.settings.sections import StackService

SERVERS = ("postgresql", "mlflow", "airflow")
"""Servers of the platform itself: what they hold is placed as data is."""
SCORER = "scorer"
"""The service that answers with predictions, and its database role, which reads what it needs and writes nothing."""


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
