"""Ask the policy whether a source may be read, and say whose it is: the same for every kind."""

from __future__ import annotations

from collections.abc import Iterable

from rempart.errors import PipelineError
from rempart.ingestion.sources.port import Origin, Surroundings
from rempart.settings.config import Config, Connection
from rempart.settings.sections import Classification
from rempart.sovereignty import places
from rempart.sovereignty.policy import Placement


def permit_host(around: Surroundings, classification: Classification, host: str, port: int) -> None:
    """Record whether the policy lets data be read from a host. Raises PlacementDenied."""
    around.record(places.decide_origin_host(around.config, classification, host, port, on=around.now.date()))


def origin(config: Config, placement: Placement, where: str) -> Origin:
    """Return the evidence of a place: its operator, and the laws that the policy saw."""
    operator = config.operators[placement.operator]
    region = operator.regions.get(placement.region)
    jurisdictions = dict.fromkeys([*([region.country] if region else []), operator.jurisdiction.value])
    return Origin(placement.operator, where, ", ".join(jurisdictions), operator.owner_jurisdiction.value)


def token(
    around: Surroundings, classification: Classification, name: str | None, host: str, port: int
) -> Connection | None:
    """Return the connection with a service's token, after the policy. Raises PlacementDenied, ConnectionMissing,
    PipelineError for a connection of another host.
    """
    if name is None:
        return None
    around.record(places.decide_origin_connection(around.config, classification, name, on=around.now.date()))
    found, hosts = around.connections(name), _hosts(around.config, name)
    if (found.host and found.host.lower().strip("[]") != host) or not places.is_declared_host(hosts, host, port):
        raise PipelineError(
            f"source.connection: '{name}' belongs to other hosts than '{host}': its secret is not sent there",
            f"Declare the host with the connection in rempart.yaml, or name the connection of '{host}'.",
        )
    return found


def _hosts(config: Config, name: str) -> Iterable[str]:
    for place in config.origins.values():
        if place.connection == name:
            yield from place.hosts
    if name in config.connections:
        yield from config.connections[name].hosts
