"""Compute the hosts that the platform may reach: one list from the configuration, for the audit hook and the network.

A destination is listed only if the policy allows its place for at least one classification; refused ones are kept with
every decision. Addresses of this machine (loopback) are no egress and are in no list.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import yaml

from rempart.errors import ConfigError, ConnectionMissing
from rempart.settings import plain_yaml
from rempart.settings.config import Config, Connection, Connections
from rempart.settings.policy.rules import Place
from rempart.sovereignty.places import (
    PLATFORM_CONNECTIONS,
    TRACKING,
    decide_connection,
    decide_host,
    decide_image,
    decide_origin,
    decide_pool,
    decide_server,
    decide_site,
    declared_connections,
    platform_connections,
    server_of,
    split_host,
)
from rempart.sovereignty.policy import Decision, is_host_of, unknown

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "amqp": 5672}
Judge = Callable[[str], Decision]


def endpoint(host: str, port: int | None) -> str:
    """Return a host and port as one text; an IPv6 address stands in brackets."""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host


@dataclass(frozen=True)
class Destination:
    """A host (a name, `*.name` for it and everything below it, or an address) and port; `why` names the entry."""

    host: str
    port: int | None
    why: str
    classifications: tuple[str, ...] = ()
    """Those for which the policy allows the place; empty for the servers of Airflow's own settings."""
    needed_by_jobs: bool = False
    """Whether training jobs connect to it, as they do to the sites and to the tracking server."""

    @property
    def name(self) -> str:
        """Return the host without the `*.` of a pattern."""
        return self.host.removeprefix("*.")

    def __str__(self) -> str:
        return endpoint(self.host, self.port)


@dataclass(frozen=True)
class JudgedDestination:
    """A destination that the configuration names, with the policy's decision for each classification."""

    destination: Destination
    decisions: tuple[Decision, ...]

    @property
    def allowed(self) -> bool:
        return bool(self.destination.host) and any(decision.allowed for decision in self.decisions)


@dataclass(frozen=True)
class EgressRules:
    """Allowed destinations. `pulls` are registries: nodes pull images from them, tasks do not connect."""

    allowed: tuple[Destination, ...]
    pulls: tuple[Destination, ...] = ()
    judged: tuple[JudgedDestination, ...] = ()

    @property
    def refusals(self) -> tuple[JudgedDestination, ...]:
        """Return configured destinations that the policy allows for no classification."""
        return tuple(judgement for judgement in self.judged if not judgement.allowed)

    @property
    def refused(self) -> tuple[Decision, ...]:
        """Return every decision against them."""
        return tuple(decision for refusal in self.refusals for decision in refusal.decisions)


def parse_endpoint(text: str) -> tuple[str, int | None]:
    """Return host and port of a URL or `host[:port]`; a URL's port defaults to that of its scheme."""
    if "://" not in text:
        return split_host(text)
    url = urlsplit(text)
    known = [_PORTS[part] for part in url.scheme.split("+") if part in _PORTS]
    return url.hostname or "", url.port or next(iter(known), None)


@lru_cache(maxsize=4096)
def normalise(host: str) -> str:
    """Normalise a host for comparison: lower case, no final dot, IDNA.

    An address gets its shortest form, IPv4 out of IPv6.
    """
    host = host.strip().strip("[]").rstrip(".").lower()
    if address := _address(host):
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return str(mapped or address).partition("%")[0]
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_address(host: str) -> bool:
    """Return whether a host is an address rather than a name."""
    return _address(host) is not None


@lru_cache(maxsize=4096)
def is_this_machine(host: str) -> bool:
    """Return whether a host is loopback, by name or address, or unspecified (Linux connects it to loopback)."""
    host = normalise(host)
    if host in ("", "localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def matches(destination: Destination, host: str, port: int | None) -> bool:
    """Return whether a destination covers a host and port. Without a port (a look-up), any of its ports matches."""
    if None not in (destination.port, port) and destination.port != port:
        return False
    host, listed = normalise(host), normalise(destination.host)
    return host == listed or (listed.startswith("*.") and bool(host) and is_host_of(host, listed))


def is_allowed(rules: EgressRules, host: str, port: int | None) -> bool:
    """Return whether a task may reach this host and port (or, without a port, look its name up)."""
    return is_this_machine(host) or any(matches(destination, host, port) for destination in rules.allowed)


def rules(config: Config, endpoints: Mapping[str, str], *, on: date, own: Iterable[Destination] = ()) -> EgressRules:
    """Return the list.

    `endpoints` are connections' URLs or host:port, by name; `own` are those of Airflow's settings.
    """

    def judge(entries: Iterable[tuple[Destination, Judge]]) -> tuple[JudgedDestination, ...]:
        return tuple(JudgedDestination(place, tuple(judge(name) for name in config.policy)) for place, judge in entries)

    reached = judge(
        [
            *_platform(config, endpoints, on),
            *_sites(config, endpoints, on),
            *_pools(config, endpoints, on),
            *_origins(config, endpoints, on),
            *_others(config, on),
        ]
    )
    pulled = judge(_registries(config, on))
    return EgressRules(_unique([*own, *_passed(reached)]), _unique(_passed(pulled)), reached + pulled)


def _passed(judged: Iterable[JudgedDestination]) -> Iterator[Destination]:
    for judgement in judged:
        if judgement.allowed:
            passed = tuple(decision.classification for decision in judgement.decisions if decision.allowed)
            yield replace(judgement.destination, classifications=passed)


def _unique(destinations: Iterable[Destination]) -> tuple[Destination, ...]:
    """Return each host and port once, under its first entry. Jobs need it if they need any of its entries."""
    found: dict[tuple[str, int | None], Destination] = {}
    for destination in destinations:
        if not is_this_machine(destination.host):
            key = (normalise(destination.host), destination.port)
            first = found.setdefault(key, destination)
            found[key] = replace(first, needed_by_jobs=first.needed_by_jobs or destination.needed_by_jobs)
    return tuple(found.values())


def _platform(config: Config, endpoints: Mapping[str, str], on: date) -> Iterator[tuple[Destination, Judge]]:
    def judge_of(server: str, host: str) -> Judge:
        return lambda classification: decide_server(config, classification, server, on=on, host=host)

    for name in sorted(PLATFORM_CONNECTIONS):
        if name in endpoints and (server := server_of(name)):
            host, port = parse_endpoint(endpoints[name])
            why = f"connection {name}, the platform's own"
            yield Destination(host, port, why, needed_by_jobs=server == TRACKING), judge_of(server, host)
    for name, service in config.services.items():
        if service.external and name not in config.sites:
            host, port = parse_endpoint(service.external.url)
            why = f"services.{name}.external"
            yield Destination(host, port, why, needed_by_jobs=name == TRACKING), judge_of(name, host)


def _catalogue(config: Config, place: Place) -> list[str]:
    found = config.operators[place.operator].services[place.service].endpoints
    return [endpoint.replace("{region}", place.region) for endpoint in found]


def _sites(config: Config, endpoints: Mapping[str, str], on: date) -> Iterator[tuple[Destination, Judge]]:
    def judge_of(name: str, url: str) -> Judge:
        return lambda classification: decide_site(config, classification, "data", name, on=on, endpoint=url)

    for name, site in config.sites.items():
        external = config.services[name].external if name in config.services else None
        known = [endpoints[site.connection]] if site.connection in endpoints else []
        if external:
            known.append(external.url)
        for url in known or _catalogue(config, site):
            host, port = parse_endpoint(url)
            # a bucket may be a name below its endpoint's
            pattern = host if is_address(host) or is_this_machine(host) else f"*.{host}"
            yield Destination(pattern, port, f"sites.{name}", needed_by_jobs=True), judge_of(name, url)


def _origins(config: Config, endpoints: Mapping[str, str], on: date) -> Iterator[tuple[Destination, Judge]]:
    def judge_of(name: str, url: str | None = None) -> Judge:
        return lambda classification: decide_origin(config, classification, name, on=on, endpoint=url)

    for name, origin in config.origins.items():
        for declared in origin.hosts:
            yield Destination(*split_host(declared), f"origins.{name}"), judge_of(name)
        known = [endpoints[origin.connection]] if origin.connection and origin.connection in endpoints else []
        for url in [] if origin.hosts else known or _catalogue(config, origin):
            host, port = parse_endpoint(url)
            pattern = host if is_address(host) or is_this_machine(host) else f"*.{host}"
            yield Destination(pattern, port, f"origins.{name}"), judge_of(name, url)


def _pools(config: Config, endpoints: Mapping[str, str], on: date) -> Iterator[tuple[Destination, Judge]]:
    def judge_of(name: str) -> Judge:
        return lambda classification: decide_pool(config, classification, "job", name, on=on)

    for name, pool in config.gpu_pools.items():
        known = [endpoints[pool.kubernetes_connection]] if pool.kubernetes_connection in endpoints else []
        for url in known or _catalogue(config, pool):
            yield Destination(*parse_endpoint(url), f"gpu_pools.{name}"), judge_of(name)


def _others(config: Config, on: date) -> Iterator[tuple[Destination, Judge]]:
    def through(name: str) -> Judge:
        return lambda classification: decide_connection(config, classification, name, on=on)

    def to(host: str, port: int | None) -> Judge:
        return lambda classification: decide_host(config, classification, host, port, on=on)

    for name, connection in config.connections.items():
        for declared in connection.hosts:
            yield Destination(*split_host(declared), f"connections.{name}"), through(name)
    for declared in config.hosts:
        host, port = split_host(declared)
        yield Destination(host, port, f"hosts.{declared}"), to(host, port)


def _registries(config: Config, on: date) -> Iterator[tuple[Destination, Judge]]:
    def judge_of(name: str) -> Judge:
        return lambda classification: decide_image(config, classification, f"{name.rstrip('/')}/any", on=on)

    for name in config.registries:
        host, port = split_host(name.partition("/")[0])
        yield Destination(host, port or 443, f"registries.{name}"), judge_of(name)


def decision_against(config: Config, egress_rules: EgressRules, host: str, port: int | None, *, on: date) -> Decision:
    """Return why a host is not allowed: the decision on its entry with the fewest reasons against."""
    for refusal in egress_rules.refusals:
        if matches(refusal.destination, host, port) and refusal.decisions:
            return min(refusal.decisions, key=lambda decision: len(decision.against))
    label = f"host '{host}'" + (f" port {port}" if port else "")
    classification = next(iter(config.policy), "any")
    if ports := sorted(
        {
            destination.port
            for destination in egress_rules.allowed
            if destination.port and matches(destination, host, None)
        }
    ):
        fact = f"the policy allows '{host}' on port {', '.join(map(str, ports))} only"
        remedy = f"Use an allowed port, or declare '{host}:{port}' under hosts in rempart.yaml."
        return unknown(classification, "host", label, "hosts", fact, remedy)
    against = decide_host(config, classification, host, port, on=on)
    if not against.allowed:
        return against
    fact = f"'{host}' is not an endpoint of a connection that the platform knows"
    remedy = "Declare it under hosts in rempart.yaml (operator, service, region), or remove the connection to it."
    return unknown(classification, "host", label, "hosts", fact, remedy)


# --- where connections lead -------------------------------------------------------------------------------------------


def endpoint_of(connection: Connection) -> str | None:
    """Return a connection's destination as a URL or host:port; None if it names no host. Raises ConfigError."""
    extra: Mapping[str, Any] = connection.extra
    if url := extra.get("endpoint_url"):
        return str(url)
    if kube_config := extra.get("kube_config"):
        return _kubernetes_server(connection.name, kube_config)
    if not connection.host or "://" in connection.host:
        return connection.host or None
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    scheme = connection.schema if connection.conn_type == "http" and connection.schema else connection.conn_type
    port = connection.port or _PORTS.get(scheme)
    return f"{host}:{port}" if port else host


def _kubernetes_server(name: str, kube_config: object) -> str | None:
    """Return the API server of a kubeconfig's current context, or of its only cluster. Raises ConfigError."""
    try:
        data: Any = plain_yaml.load(kube_config) if isinstance(kube_config, str) else kube_config
        contexts = {context["name"]: context["context"]["cluster"] for context in data.get("contexts", ())}
        clusters = {cluster["name"]: str(cluster["cluster"]["server"]) for cluster in data["clusters"]}
        return clusters[contexts.get(data.get("current-context")) or next(iter(clusters))]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, StopIteration):
        # the cause would quote the file, which holds credentials
        raise ConfigError(
            f"read connection '{name}': extra.kube_config is not a kubeconfig with a cluster and its server",
            "Correct the connection. `kubectl config view` shows the expected form.",
        ) from None


def endpoints(config: Config, resolve: Connections) -> dict[str, str]:
    """Return the destinations of declared connections, by name; those unknown to `resolve` are left out."""
    found = {}
    for name in sorted(declared_connections(config) | platform_connections(config)):
        try:
            endpoint = endpoint_of(resolve(name))
        except ConnectionMissing:
            continue
        if endpoint:
            found[name] = endpoint
    return found
