"""Configure the egress proxy of the containers: external services, the route to them, and the allow-list.

The proxy's list is the policy's own (`rempart.sovereignty.egress.rules`), shared with the audit hook and the network
rules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date

from rempart.backup.keys import keyring
from rempart.deployment.servers import external
from rempart.deployment.setup.paths import Stack
from rempart.deployment.setup.preflight import CONTAINERS
from rempart.errors import ConnectionMissing, StackError
from rempart.ledger import keys
from rempart.settings import config as configuration
from rempart.settings.config import Connection, Connections, witness
from rempart.sovereignty import egress, proxy
from rempart.sovereignty.places import declared_connections, platform_connections

SITES = ("primary", "haven")
"""The sites that docker-compose.yml starts, unless they are external."""
_OWN = ("postgresql", *SITES)
_FILES_OF_THIS_MACHINE = ("ca_bundle", "kube_config_path", "extra__kubernetes__kube_config_path")
"""Extras of a connection that name files, which no container has."""


def check_services(stack: Stack) -> None:
    """Check that each service is in docker-compose.yml or external. Raises StackError."""
    if others := [name for name in ("mlflow", "airflow") if stack.external(name)]:
        raise StackError(
            f"docker-compose.yml starts {' and '.join(others)} itself, but rempart.yaml declares: external",
            "Remove `external` in rempart.yaml, or run the platform with `rempart up`, which does not start "
            "external services.",
        )
    if others := [name for name in stack.embedded_sites if name not in SITES]:
        raise StackError(
            f"docker-compose.yml starts no site named {', '.join(others)}; it starts {' and '.join(SITES)}",
            "Declare the site as external under services, or use one of those names.",
        )


def needed(stack: Stack) -> list[str]:
    """Return the connections that external services need."""
    names = []
    for name, place in stack.config.sites.items():
        if stack.external(name):
            names.append(place.connection)
            if name == stack.config.checkpoint_site:
                names.append(witness(name))
    if server := stack.external("postgresql"):
        names += [server.connection, *(f"pg_{role}" for role in stack.config.roles)]
        names += [keys.CONNECTION, keyring.CONNECTION]
    return list(dict.fromkeys(names))


def given(
    stack: Stack, own: Mapping[str, str], existing: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the team's connections by variable, from the environment or else from an earlier `rempart stack init`.

    `own` are the connections that the platform makes. Raises ConnectionMissing, StackError.
    """
    must = needed(stack)
    may = sorted(declared_connections(stack.config) | platform_connections(stack.config) | {keys.NEXT_CONNECTION})
    variables = {}
    for name in dict.fromkeys([*must, *may]):
        variable = f"AIRFLOW_CONN_{name.upper()}"
        if variable in own:
            continue
        if text := inherited.get(variable) or existing.get(variable):
            variables[variable] = _one_line(text)
        elif name in must:
            raise ConnectionMissing(
                f"Connection '{name}' is not defined, but rempart.yaml declares a service that needs it",
                f"Set {variable} for `rempart stack init` (docs/how-to/external-services.md), which stores it in "
                "var/compose.",
            )
    resolve = _resolver(variables)
    for variable in variables:
        _check_connection(resolve(variable.removeprefix("AIRFLOW_CONN_").lower()), variable)
    for name in stack.config.services:
        if service := stack.external(name):
            external.check_names(stack, name, service.url, resolve(service.connection))
    if "postgresql" not in stack.services:
        server(stack, resolve)
    return variables


def _one_line(text: str) -> str:
    """Return multi-line JSON as one line, because a file of variables has one line for each."""
    try:
        return json.dumps(json.loads(text)) if text.lstrip().startswith("{") else text.strip()
    except ValueError:  # told, without its text, by who parses it
        return text.replace("\n", " ")


def _resolver(variables: Mapping[str, str]) -> Connections:
    """Return a resolver that uses only these variables: this machine's environment is not the containers'."""

    def resolve(name: str) -> Connection:
        variable = f"AIRFLOW_CONN_{name.upper()}"
        if variable not in variables:
            raise ConnectionMissing(f"Connection '{name}' is not defined", f"Set {variable} for `rempart stack init`.")
        try:
            return configuration.parse_connection(name, variables[variable])
        except ValueError:
            # the cause would quote the value, which holds the password
            raise ConnectionMissing(
                f"{variable} is neither JSON nor a URI",
                "Write it in one of the two forms that Airflow documents for connection variables.",
            ) from None

    return resolve


def _check_connection(connection: Connection, variable: str) -> None:
    """Check that a connection is reachable from a container. Raises StackError."""
    for key in _FILES_OF_THIS_MACHINE:
        if connection.extra.get(key):
            raise StackError(
                f"{variable}: extra.{key} names a file of this machine, which does not exist in the containers",
                "Set the content of the file (kube_config), or use a certificate from an authority that Debian trusts.",
            )
    endpoint = egress.endpoint_of(connection)
    if endpoint and egress.is_this_machine(egress.parse_endpoint(endpoint)[0]):
        raise StackError(
            f"{variable} points to {endpoint}; in a container, this is the container itself",
            "Use the host name by which other machines reach it, in the connection and in rempart.yaml.",
        )


def server(stack: Stack, resolve: Connections) -> tuple[str, int] | None:
    """Return name and port of the team's PostgreSQL; None if the platform has its own. Raises StackError.

    libpq cannot use a proxy, so a container takes the server's own name and forwards connections. It forwards to one
    server, which needs a name.
    """
    declared = stack.external("postgresql")
    if declared is None:
        return None
    names = [declared.connection, *(f"pg_{role}" for role in stack.config.roles)]
    places = {name: (resolve(name).host, resolve(name).port or 5432) for name in names}
    host, port = places[declared.connection]
    if others := [name for name, place in places.items() if place != (host, port)]:
        raise StackError(
            f"Connections {', '.join(others)} point to another server than '{declared.connection}' ({host}:{port})",
            "Correct the connections, because containers need all databases on one server; or use `rempart up`.",
        )
    if egress.is_address(host) or "." not in host:
        raise StackError(
            f"PostgreSQL is at '{host}', but containers need the name in its certificate, with a dot",
            "Use that name in services.postgresql.external.url and in each connection pg_*.",
        )
    return host, port


def allowed(stack: Stack, secrets: Mapping[str, str], on: date) -> str:
    """Return the proxy's list of allowed destinations in squid's format. Raises ConfigError."""
    rules = egress.rules(stack.config, egress.endpoints(stack.config, _resolver(secrets)), on=on)
    inside = {stack.host(name) for name in ("postgresql", *CONTAINERS, "mlflow", *stack.embedded_sites)}
    return proxy.squid(rules, inside)


def settings(stack: Stack, secrets: Mapping[str, str], listed: str) -> dict[str, str]:
    """Return `.env` lines: which services are containers, the place of an external PostgreSQL, and the current list."""
    place = server(stack, _resolver(secrets))
    own = {f"REMPART_OWN_{name.upper()}": str(int(_is_own(stack, name))) for name in _OWN}
    return own | {
        "REMPART_PASS": "1" if place else "0",
        "REMPART_POSTGRESQL_HOST": place[0] if place else "postgresql.invalid",
        "REMPART_POSTGRESQL_PORT": str(place[1]) if place else "5432",
        "REMPART_ALLOWED": digest(listed),
    }


def _is_own(stack: Stack, name: str) -> bool:
    return name in stack.embedded_sites or (name == "postgresql" and not stack.external(name))


def digest(text: str) -> str:
    """Return a file's digest for `.env`, so that a changed file makes a new container."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
