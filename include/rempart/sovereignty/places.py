"""Decisions about what the configuration names: sites, pools, images, connections and hosts. All pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from rempart.settings.config import DATABASES, SERVERS, WAL_ARCHIVE, Config, tracker, witness
from rempart.settings.policy.rules import Place
from rempart.sovereignty.policy import (
    Decision,
    Placement,
    Reason,
    What,
    decide,
    endpoint_hosts,
    independence,
    is_host_of,
    unknown,
    verdict,
)

TRACKING = "mlflow"
"""The tracking server, by the name of its service and of its connection."""

HOLDS: Mapping[str, What] = {"postgresql": "database", TRACKING: "tracking", "airflow": "orchestration"}
"""Servers of the platform itself, and what is placed with each."""
PLATFORM_CONNECTIONS = frozenset(
    [
        *(f"pg_{name}" for name in (*DATABASES, "backup", "drill", WAL_ARCHIVE)),
        TRACKING,
        "airflow_api",
        "ledger_key",
        "backup_key",
    ]
)
"""Connections that the platform itself declares."""


def placement(label: str, place: Place, host: str | None = None) -> Placement:
    """Return a place of rempart.yaml in the form that the policy judges."""
    return Placement(label, place.operator, place.service, place.region, host)


def site_placement(config: Config, name: str, endpoint: str | None = None) -> Placement | None:
    """Return a site's place; with its endpoint (a URL), also its host. None for an undeclared site."""
    if (place := config.sites.get(name)) is None:
        return None
    return placement(f"site '{name}'", place, (urlsplit(endpoint).hostname or "") if endpoint is not None else None)


def decide_site(
    config: Config,
    classification: str,
    what: What,
    site: str,
    *,
    on: date,
    endpoint: str | None = None,
    replica_of: str | None = None,
) -> Decision:
    """Decide whether `what` of a classification may be at this site.

    `replica_of` names the site with the original of a copy.
    """
    here = site_placement(config, site, endpoint)
    if here is None:
        return _undeclared(classification, what, "sites", site, config.sites)
    decision = decide(
        config, classification, what, here, on=on, replica_of=site_placement(config, replica_of) if replica_of else None
    )
    if other := config.sites[site].independent_of:
        reason = independence(config, f"sites.{site}.independent_of", here, site_placement(config, other))
        decision = verdict(classification, what, here.label, (*decision.reasons, reason))
    return decision


def decide_origin(config: Config, classification: str, name: str, *, on: date, endpoint: str | None = None) -> Decision:
    """Decide whether data of a classification may be read from this origin of rempart.yaml, or from this site.

    The rule is the policy's `origins`; without it, the rule for placing the same data there.
    """
    if (place := config.origins.get(name)) is not None:
        host = (urlsplit(endpoint).hostname or "") if endpoint is not None else None
        here: Placement | None = placement(f"origin '{name}'", place, host)
    else:
        here = site_placement(config, name, endpoint)
    if here is None:
        return _undeclared(classification, "origin", "origins", name, {**config.origins, **config.sites})
    return decide(config, classification, "origin", here, on=on)


def origin_placements(config: Config, host: str, port: int | None) -> list[Placement]:
    """Return the declared places of a host from which sources may want to read. Origins come first."""
    return [*_origins_of_host(config, host, port), *_open_places(config, host, port)]


def _origins_of_host(config: Config, host: str, port: int | None) -> list[Placement]:
    return [
        placement(f"origin '{name}'", place)
        for name, place in config.origins.items()
        if is_declared_host(place.hosts, host, port)
    ]


def decide_origin_host(config: Config, classification: str, host: str, port: int | None, *, on: date) -> Decision:
    """Decide whether data of a classification may be read from this host: yes if one declared place allows it.

    A host that is not under `origins` may also be written to, so the policy must allow both.
    """
    label = f"host '{host}'" + (f" port {port}" if port else "")
    decisions = [
        _named(label, decide(config, classification, "origin", place, on=on))
        for place in _origins_of_host(config, host, port)
    ]
    for place in _open_places(config, host, port):
        both = [decide(config, classification, what, place, on=on) for what in (_ORIGIN, _HOST)]
        decisions.append(verdict(classification, "origin", label, [r for decision in both for r in decision.reasons]))
    if not decisions:
        fact = f"'{host}' belongs to no declared origin, connection or host"
        remedy = "Declare it under origins in rempart.yaml (operator, service, region, hosts)."
        return unknown(classification, "origin", label, "origins", fact, remedy)
    return next((decision for decision in decisions if decision.allowed), decisions[0])


def decide_origin_connection(config: Config, classification: str, conn_id: str, *, on: date) -> Decision:
    """Decide whether data of a classification may be read through this connection, as of a database or a token.

    A connection that is not under `origins` may also be written to, so the policy must allow both.
    """
    label = f"connection '{conn_id}'"
    for name, origin in config.origins.items():
        if origin.connection == conn_id:
            return _named(label, decide_origin(config, classification, name, on=on))
    if (place := config.connections.get(conn_id)) is None:
        return _undeclared(classification, "origin", "connections", conn_id, {**config.origins, **config.connections})
    both = [decide(config, classification, what, placement(label, place), on=on) for what in (_ORIGIN, _CONNECTION)]
    return verdict(classification, "origin", label, [reason for decision in both for reason in decision.reasons])


_ORIGIN: What = "origin"
_HOST: What = "host"
_CONNECTION: What = "connection"


def server_of(connection: str) -> str | None:
    """Return the platform server of a connection, or None."""
    if connection.startswith("pg_"):
        return "postgresql"
    return {TRACKING: TRACKING, "airflow_api": "airflow"}.get(connection)


def decide_server(config: Config, classification: str, name: str, *, on: date, host: str | None = None) -> Decision:
    """Decide whether a server of the platform may hold data of this classification at its place.

    `host`: the connection's host; if it differs from the declared one, its place is undeclared.
    """
    label, what = f"server '{name}'", HOLDS[name]
    external = config.services[name].external if name in config.services else None
    section = f"services.{name}.external" if external else "machine"
    if (place := config.server_place(name)) is None:
        remedy = f"Declare {section} in rempart.yaml: operator, service and region."
        return unknown(classification, what, label, section, "its place is not declared", remedy)
    decision = decide(config, classification, what, placement(label, place), on=on)
    declared = (urlsplit(external.url).hostname or "") if external else None
    if host and not (host.lower() == declared if declared is not None else _is_inside(host)):
        fact = (
            f"its connection leads to '{host}', but the declared host is {declared or 'a server on the machine itself'}"
        )
        remedy = f"Correct the connection, or declare services.{name}.external in rempart.yaml with that host."
        decision = verdict(classification, what, label, (*decision.reasons, Reason(False, section, fact, remedy)))
    return decision


def _is_inside(host: str) -> bool:
    """Return whether a host is this machine, or a neighbouring container or Service.

    Their names have no dot. Pools of a cluster use a longer name for a Service of the platform's own namespace. A
    Service of another namespace is foreign, and may lead out of the cluster.
    """
    bare = not any(sign in host for sign in ".:")
    return bare or host.startswith("127.") or host == "::1" or _SERVICE.fullmatch(host) is not None


_SERVICE = re.compile(r"[^.:]+\.airflow\.svc", re.IGNORECASE)
"""The name of a Service in the namespace of deploy/kubernetes/platform."""


def decide_pool(config: Config, classification: str, what: What, pool: str, *, on: date) -> Decision:
    """Decide whether a job on data of this classification may run in this pool."""
    if (place := config.gpu_pools.get(pool)) is None:
        return _undeclared(classification, what, "gpu_pools", pool, config.gpu_pools)
    return decide(config, classification, what, placement(f"pool '{pool}'", place), on=on)


def decide_connection(config: Config, classification: str, conn_id: str, *, on: date) -> Decision:
    """Decide whether data of this classification may go through this Airflow connection."""
    label = f"connection '{conn_id}'"
    for name, site in config.sites.items():
        if conn_id == site.connection:
            return _named(label, decide_site(config, classification, "connection", name, on=on))
    for name, pool in config.gpu_pools.items():
        if conn_id == pool.kubernetes_connection:
            return _named(label, decide_pool(config, classification, "connection", name, on=on))
    if place := config.connections.get(conn_id):
        return decide(config, classification, "connection", placement(label, place), on=on)
    if conn_id in platform_connections(config):
        fact = "it is the platform's own connection, with rights that no other DAG needs"
        remedy = "Declare a connection with its own role under connections in rempart.yaml."
        return unknown(classification, "connection", label, "platform", fact, remedy)
    return _undeclared(classification, "connection", "connections", conn_id, config.connections)


def declared_connections(config: Config) -> frozenset[str]:
    """Return every Airflow connection that DAGs may name, if the policy allows its destination."""
    sites = (site.connection for site in config.sites.values())
    pools = (pool.kubernetes_connection for pool in config.gpu_pools.values())
    return frozenset([*config.connections, *sites, *pools])


def platform_connections(config: Config) -> frozenset[str]:
    """Return the platform's own connections; no DAG names them."""
    external = (service.external.connection for service in config.services.values() if service.external)
    offered = (site.job_credentials for site in config.sites.values())
    read = (origin.connection for origin in config.origins.values() if origin.connection)
    jobs = (credentials.connection for credentials in offered if credentials and credentials.connection)
    return PLATFORM_CONNECTIONS.union(
        external, jobs, read, [witness(config.checkpoint_site)], map(tracker, config.sites)
    ) - declared_connections(config)


def full_image(image: str) -> str:
    """Return an image's name with its registry: `python:3.11` is `docker.io/library/python:3.11`."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def _within(image: str, registry: str) -> bool:
    return image.startswith(registry.rstrip("/") + "/")


def rewrite_image(config: Config, image: str) -> str:
    """Return the image's name at the registry that mirrors its own registry, or unchanged. The longest match counts."""
    name = full_image(image)
    mirrors = [
        (origin, registry)
        for registry, declared in config.registries.items()
        for origin in declared.mirror_of
        if _within(name, origin)
    ]
    if not mirrors or any(_within(name, registry) for registry in config.registries):
        return image
    _, registry = max(mirrors, key=lambda pair: len(pair[0]))
    return f"{registry.rstrip('/')}/{name}"


def decide_image(config: Config, classification: str, image: str, *, on: date) -> Decision:
    """Decide whether a pod of this classification may run this image (as pulled, after mirrors)."""
    name = full_image(rewrite_image(config, image))
    label = f"image '{image}'"
    registry = max((r for r in config.registries if _within(name, r)), key=len, default=None)
    if registry is None:
        declared = ", ".join(config.registries) or "none"
        fact = f"registry '{name.partition('/')[0]}' is not declared; declared: {declared}"
        remedy = "Use an image of a declared registry, or declare this registry under registries in rempart.yaml."
        return unknown(classification, "image", label, "registries", fact, remedy)
    return _named(label, decide(config, classification, "image", placement(label, config.registries[registry]), on=on))


def decide_host(config: Config, classification: str, host: str, port: int | None, *, on: date) -> Decision:
    """Decide whether data of this classification may be sent to this host: yes if one declared place of the host
    allows it.
    """
    label = f"host '{host}'" + (f" port {port}" if port else "")
    decisions = [
        _named(label, decide(config, classification, "host", place, on=on))
        for place in _places_of_host(config, host, port)
    ]
    if not decisions:
        fact = f"'{host}' belongs to no declared site, registry, connection, pool or host"
        remedy = "Declare it under hosts in rempart.yaml (operator, service, region), or remove the connection to it."
        return unknown(classification, "host", label, "hosts", fact, remedy)
    return next((decision for decision in decisions if decision.allowed), decisions[0])


def is_declared_host(hosts: Iterable[str], host: str, port: int | None) -> bool:
    """Return whether one of these entries of rempart.yaml (host, host:port, or *.host) covers a host and port."""
    return any(_is_declared(declared, host, port) for declared in hosts)


def _is_declared(declared: str, host: str, port: int | None) -> bool:
    name, wanted = split_host(declared)
    return wanted in (None, port) and (
        is_host_of(host, name) if name.startswith("*.") else host.lower() == name.lower()
    )


def _open_places(config: Config, host: str, port: int | None) -> list[Placement]:
    """Return the places of `hosts` and `connections` that name this host."""
    placements = [placement(name, place) for name, place in config.hosts.items() if _is_declared(name, host, port)]
    for name, connection in config.connections.items():
        if is_declared_host(connection.hosts, host, port):
            placements.append(placement(name, connection))
    return placements


def _places_of_host(config: Config, host: str, port: int | None) -> list[Placement]:
    placements = _open_places(config, host, port)
    for name, registry in config.registries.items():
        if _is_declared(name.partition("/")[0], host, port):
            placements.append(placement(name, registry))
    for name, site in config.sites.items():
        service = config.operators[site.operator].services[site.service]
        if any(is_host_of(host, endpoint_host) for endpoint_host in endpoint_hosts(service, site.region)):
            placements.append(placement(name, site, host))
    return placements


def split_host(text: str) -> tuple[str, int | None]:
    """Split `host[:port]` into name and port; an IPv6 address is in brackets."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or text, parts.port


def _named(label: str, decision: Decision) -> Decision:
    return replace(decision, place=label)


def _undeclared(classification: str, what: What, section: str, name: str, among: Mapping[str, Any]) -> Decision:
    kind = {"sites": "site", "gpu_pools": "pool", "connections": "connection", "origins": "origin"}[section]
    fact = f"{kind} '{name}' is not declared; declared: {', '.join(among) or 'none'}"
    remedy = f"Correct the name, or declare it under {section} in rempart.yaml."
    return unknown(classification, what, f"{kind} '{name}'", section, fact, remedy)


def in_use(config: Config, classifications: Iterable[str], *, on: date) -> list[Decision]:
    """Return what pipelines of these classifications need: data, replicas, restore points, and the platform's
    servers.
    """
    home = config.active_site
    decisions = []
    for name in classifications:
        decisions.append(decide_site(config, name, "data", home, on=on))
        decisions.append(decide_site(config, name, "restore-point", config.backup.site, on=on, replica_of=home))
        pairs = [pair for pair in config.replication if pair.source == home]
        decisions += [decide_site(config, name, "replica", pair.target, on=on, replica_of=home) for pair in pairs]
        decisions += [decide_server(config, name, server, on=on) for server in SERVERS]
    return decisions


def overview(config: Config, *, on: date) -> list[Decision]:
    """Return a decision for each place in rempart.yaml with each classification of its policy.

    A site is judged for data where pipelines work, for restore points where backups go, for replicas where pairs lead;
    the platform's servers for what they hold. Evidence is internal.
    """
    home = config.active_site
    asked: list[tuple[What, str, str | None]] = [("data", home, None), ("restore-point", config.backup.site, home)]
    asked += [("replica", pair.target, pair.source) for pair in config.replication]
    witnesses = dict.fromkeys([config.evidence_site, config.checkpoint_site])
    decisions = [decide_site(config, "internal", "evidence", site, on=on) for site in witnesses]
    for name in config.policy:
        decisions += [
            decide_site(config, name, what, site, on=on, replica_of=replica_of) for what, site, replica_of in asked
        ]
        decisions += [decide_server(config, name, server, on=on) for server in SERVERS]
        decisions += [decide_pool(config, name, "job", pool, on=on) for pool in config.gpu_pools]
        decisions += [decide_image(config, name, f"{registry}/any", on=on) for registry in config.registries]
        decisions += [decide_connection(config, name, connection, on=on) for connection in config.connections]
        decisions += [decide_host(config, name, *split_host(host), on=on) for host in config.hosts]
        decisions += [decide_origin(config, name, origin, on=on) for origin in config.origins]
    return decisions
