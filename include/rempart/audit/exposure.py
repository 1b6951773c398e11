"""Check ports: where services are configured to listen, what listens, what answers without credentials, what is
unencrypted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from rempart.audit.findings import AuditFinding, CheckResult
from rempart.audit.knocking import Answer, Protocol
from rempart.audit.telemetry import Process

_BINDS: tuple[tuple[str, str], ...] = (
    ("postgresql", r"^listen_addresses=(.*)$"),
    ("site-", r"^-ip\.bind=(.*)$"),
    ("mlflow", r"^--host$"),
    ("scorer", r"^--host$"),
)
"""Settings by which each kind of service listens: a pattern of an argument.

Without a group, the address is the next argument.
"""


_GUARDS: Mapping[str, tuple[Protocol, str]] = {
    "postgresql": ("postgresql", "/"),
    "mlflow": ("http", "/api/2.0/mlflow/experiments/search?max_results=1"),
    "airflow": ("http", "/api/v2/dags"),
    "scorer": ("http", "/metrics"),
}
"""How each declared port authenticates clients, and the HTTP path that only a user may see."""


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket and its service.

    `answer`: its answer without credentials; None if it was not asked.
    """

    service: str
    address: str
    port: int
    declared: bool
    answer: Answer | None = None


@dataclass(frozen=True)
class SocketFile:
    """A Unix socket of a service, and whether other users of the machine may open it."""

    service: str
    path: str
    open_to_others: bool


def guard_of(part: str) -> tuple[Protocol, str]:
    """Return how a declared port authenticates clients. The port is named as in the stack's ports; for a site:

    `primary`, `primary master`.
    """
    return _GUARDS.get(part) or (("certificate", "/") if " " in part else ("http", "/"))


def is_local(address: str) -> bool:
    """Return whether only this machine can reach an address. Of names only `localhost` counts as local."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address == "localhost"
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def planned_addresses(process: Process) -> list[str] | None:
    """Return the addresses on which a service is configured to listen; empty without any; None if it opens no known
    port.
    """
    if process.service == "airflow-api-server":
        return [host] if (host := process.environment.get("AIRFLOW__API__HOST")) else []
    if process.service in ("airflow-scheduler", "airflow-triggerer"):
        # without it they serve their logs, on every interface
        return None if "--skip-serve-logs" in process.command else []
    for prefix, pattern in _BINDS:
        if process.service.startswith(prefix):
            for argument, following in zip(process.command, (*process.command[1:], ""), strict=True):
                if matched := re.match(pattern, argument):
                    value = matched[1] if matched.groups() else following
                    return [part.strip() for part in value.split(",")]
            return []
    return None


def check(
    planned: Sequence[Process],
    listeners: Sequence[Listener] | None,
    endpoints: Mapping[str, str],
    sockets: Sequence[SocketFile] = (),
) -> CheckResult:
    """Return findings about ports.

    `listeners` is None if the stack is stopped; `endpoints`: URLs or host:port, by name.
    """
    findings = []
    for process in planned:
        addresses = planned_addresses(process)
        if addresses == [] or any(not is_local(address) for address in addresses or ()):
            told = ", ".join(addresses or ()) or "no address, so it listens on all of them"
            what = f"{process.service} is configured to listen beyond this machine: {told}"
            findings.append(_open(f"ports/{process.service}-plan", what, "the service's command"))
    for listener in listeners or ():
        if not is_local(listener.address):
            what = f"{listener.service} listens on {listener.address}:{listener.port}, which other machines can reach"
            findings.append(_open(f"ports/{listener.service}-{listener.port}", what, f"TCP port {listener.port}"))
        elif not listener.declared:
            what = f"{listener.service} listens on {listener.address}:{listener.port}, which is not a declared port"
            remedy = "Find out what it serves, then close it or declare it. Every user of this machine can reach it."
            finding = AuditFinding(
                f"ports/{listener.service}-undeclared", "medium", what, f"TCP port {listener.port}", remedy
            )
            if finding.id not in {known.id for known in findings}:
                findings.append(finding)
        if listener.answer and not listener.answer.shut:
            what = (
                f"{listener.service} answers on {listener.address}:{listener.port} without authentication: "
                f"{listener.answer.text}"
            )
            remedy = "Restart it with `rempart down` and `rempart up`. If the finding remains, report it (SECURITY.md)."
            findings.append(
                AuditFinding(
                    f"ports/{listener.service}-{listener.port}-open", "high", what, f"TCP port {listener.port}", remedy
                )
            )
    for socket in sockets:
        if socket.open_to_others:
            what = f"Other users of this machine may open {socket.service}'s socket {socket.path}"
            remedy = "Restart the service with `rempart down` and `rempart up`, which create the socket with mode 0700."
            subject = f"ports/{socket.service}-socket"
            if subject not in {known.id for known in findings}:
                findings.append(AuditFinding(subject, "medium", what, socket.path, remedy))
    findings += _in_clear(endpoints)
    if listeners is None:
        what, remedy = "The stack is stopped: no process or socket was examined", "Start it, then audit again."
        findings.append(AuditFinding("ports/not-running", "info", what, "this machine", remedy))
    asked = len([listener for listener in listeners or () if listener.answer])
    running = (
        "no socket"
        if listeners is None
        else (
            f"{len(listeners)} listening ports, {asked} of them contacted without credentials, {len(sockets)} "
            "Unix sockets"
        )
    )
    looked = f"the commands of {len(planned)} services, {running}, {len(endpoints)} endpoints"
    return CheckResult("ports", looked, tuple(findings))


def check_in_container(endpoints: Mapping[str, str], own: Collection[str]) -> CheckResult:
    """Return findings about ports if each service has its own container; `own` holds the containers' names.

    The published ports and the networks, not the addresses, then decide what others reach.
    """
    others = {name: url for name, url in endpoints.items() if urlsplit(url).hostname not in own}
    what = "Each service runs in its own container: the processes and sockets of the others are not visible from here"
    remedy = "Look up the published ports in docker-compose.yml. `make prove-compose` tests every container."
    audit_finding = AuditFinding("ports/in-containers", "info", what, "this container", remedy)
    looked = f"{len(endpoints)} endpoints, {len(endpoints) - len(others)} of them only in networks of these containers"
    return CheckResult("ports", looked, (*_in_clear(others), audit_finding))


def _in_clear(endpoints: Mapping[str, str]) -> list[AuditFinding]:
    findings = []
    for name, url in endpoints.items():
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_local(parts.hostname or ""):
            what = f"Traffic of {name} to {parts.hostname} is not encrypted: its endpoint is http, not https"
            remedy = "Configure TLS at the server, and write https in the connection."
            findings.append(AuditFinding(f"ports/clear-{name}", "high", what, f"connection {name}", remedy))
    return findings


def _open(subject: str, what: str, where: str) -> AuditFinding:
    remedy = (
        "Bind it to 127.0.0.1, and put a proxy with TLS and authentication in front of it for clients from outside."
    )
    return AuditFinding(subject, "high", what, where, remedy)
