"""Attack every listening port of the running containers, from inside each container and from another container.

The attacker is a process of this machine in a container's network, running as a user who has no rights there. That
needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import access_requests as asks
from bench import database_tls, listening
from bench.access_attacks import Attack, Row, of_site, rows
from bench.access_embedded import NOBODY, PAGE, send
from bench.seen import docker
from rempart.deployment.compose import containers
from rempart.deployment.setup import paths
from rempart.settings import config

INSIDE, NEIGHBOUR, HERE = "a process in the same container", "another container", "another local user"
GATE = {18080: "airflow", 15000: "mlflow", 19090: "monitoring", 18090: "scorer"}
"""What the gate passes on, by its port."""
EGRESS = 13128
RESOLVES = frozenset({"egress"})
"""Containers that ask for names themselves, from UDP ports that change."""
FILE = "access-compose.json"
"""Where the table is kept, beside the proofs' reports."""
_RESOLVER = "127.0.0.11"
"""Where Docker's own resolver listens in every container's network, at ports that change."""
Containers = Mapping[str, Mapping[str, Any]]


def running(root: Path) -> tuple[str, Containers | None]:
    """The running containers of this checkout by service; or None, and why there are none to look at."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker Engine runs, or this user may not use it", None
    if os.geteuid() != 0:
        return "entering a container's network needs root", None
    label = f"label=com.docker.compose.project.working_dir={root}"
    if not (ids := docker("ps", "--quiet", "--filter", label).split()):
        return "no container of this checkout runs (`docker compose up --wait` starts them)", None
    return "", by_service(json.loads(docker("inspect", *ids)))


def by_service(found: Sequence[Mapping[str, Any]]) -> Containers:
    return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in found}


def parts(root: Path) -> dict[str, dict[int, str]]:
    """The declared ports of each container, with their names."""
    stack = containers.in_containers(paths.Stack(root, root / "var", config.load(root / "rempart.yaml")))
    found: dict[str, dict[int, str]] = {}
    for name, port in stack.ports.items():
        found.setdefault(stack.host(name.partition(" ")[0]), {})[port] = name
    found["gate"] = {port: f"gate to {name}" for port, name in GATE.items()}
    found["egress"] = {EGRESS: "egress"}
    found[database_tls.TLS_PROXY] = {database_tls.PORT: "postgresql"}
    return found


def attack(found: Containers, root: Path | None = None) -> list[Row]:
    """The table of these containers."""
    declared, table = parts(root or config.project_root()), list[Row]()
    for service, container in sorted(found.items()):
        enter = ("nsenter", "--target", str(container["State"]["Pid"]), "--net")
        ports = {port for port in listening.of_namespace(container["State"]["Pid"]) if port.address != _RESOLVER}
        known = declared.get(service, {})
        strange = [port for port in sorted(ports) if port.kind != "tcp" or port.port not in known]
        lookups = [port for port in strange if port.kind == "udp" and service in RESOLVES]
        table += [_unknown(service, port) for port in strange if port not in lookups]
        asked = [Attack(f"{service} (name look-ups, UDP)", INSIDE, "a datagram", _datagram(port)) for port in lookups]
        table += rows(asked, send(asked, NOBODY, enter)) if asked else []
        tcp = sorted({(port.port, port.address) for port in ports if port.kind == "tcp" and port.port in known})
        inside, neighbour_attacks = list[Attack](), list[Attack]()
        neighbour = _neighbour(service, found)
        for number, address in tcp:
            inside += _both(known[number], {"host": _loopback(address), "port": number}, INSIDE)
            if neighbour and not address.startswith("127."):
                neighbour_attacks += _of(known[number], {"host": neighbour[1], "port": number}, NEIGHBOUR, {})
        table += rows(inside, send(inside, NOBODY, enter)) if inside else []
        if neighbour and neighbour_attacks:
            table += rows(
                neighbour_attacks, send(neighbour_attacks, NOBODY, ("nsenter", "--target", neighbour[0], "--net"))
            )
    return table + _published(found)


def _published(found: Containers) -> list[Row]:
    """What this machine's users reach: the gate's ports."""
    asked = []
    for service, container in found.items():
        for inner, bound in container["NetworkSettings"]["Ports"].items():
            name = GATE.get(int(inner.partition("/")[0])) if service == "gate" else None
            for where in bound or ():
                place = {"host": where["HostIp"], "port": int(where["HostPort"])}
                asked += _both(f"gate to {name}" if name else f"{service} {inner}", place, HERE)
    return rows(asked, send(asked, NOBODY)) if asked else []


def _unknown(service: str, port: listening.Port) -> Row:
    told = f"{port.kind} {port.address}:{port.port}"
    return Row(f"{service}: {told}", "nobody said what it is", 1, (told,), (told,))


def _datagram(port: listening.Port) -> dict[str, Any]:
    place = {"host": _loopback(port.address), "port": port.port}
    return {**place, "how": "udp", "bytes": "0000010000010000", "refusal": "no answer"}


def _loopback(address: str) -> str:
    """Where a process in the same network reaches who listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 # compared, not bound


def _neighbour(service: str, found: Containers) -> tuple[str, str] | None:
    """The process of a container that shares a network with this one, and this one's address there."""
    networks = found[service]["NetworkSettings"]["Networks"]
    for other, container in found.items():
        for name, network in networks.items():
            if other != service and name in container["NetworkSettings"]["Networks"] and network["IPAddress"]:
                return str(container["State"]["Pid"]), str(network["IPAddress"])
    return None


def _both(part: str, where: Mapping[str, Any], who: str) -> list[Attack]:
    """By somebody there, and by a page that he looks at."""
    return [*_of(part, where, who, {}), *_of(part, where, PAGE, asks.page())]


def _of(part: str, where: Mapping[str, Any], who: str, headers: Mapping[str, str]) -> list[Attack]:
    service, _, inner = part.removeprefix("gate to ").partition(" ")
    if service == "postgresql":
        return [] if headers else asks.postgresql(where, who)
    if service == "broker":
        return [] if headers else asks.redis(where, who)
    if service == "egress":
        return asks.requests(part, who, where, asks.PROXY, headers)
    if service == "monitoring":
        return asks.requests(part, who, where, asks.MONITORING, headers, ("/health",))
    if service == "mlflow":
        return asks.requests(part, who, where, asks.MLFLOW, headers, asks.MLFLOW_PLAIN)
    if service == "scorer":
        return asks.requests(part, who, where, asks.SCORER, headers, asks.SCORER_PLAIN)
    if service == "airflow":
        return asks.requests(part, who, where, asks.AIRFLOW, headers, asks.AIRFLOW_PLAIN)
    return of_site(service, inner, where, "landing", ".rempart/health", who, web=bool(headers))
