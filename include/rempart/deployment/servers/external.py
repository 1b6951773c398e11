"""Services that the team runs itself: checked with the same work as our own, never started, never changed."""

from __future__ import annotations

from urllib.parse import urlsplit

from rempart.backup.databases.postgresql import find_tools
from rempart.deployment.servers import airflow_server, mlflow_server, object_sites, postgresql
from rempart.deployment.setup.paths import Stack
from rempart.errors import ConfigError
from rempart.settings.config import Connection, Connections

# The names under which the platform resolves these services, whoever runs them.
_PLATFORM_CONNECTIONS = {"mlflow": "mlflow", "airflow": "airflow_api"}


def expected_connection(stack: Stack, service: str) -> str | None:
    """Return the name of the platform's connection to this service; None if any name is allowed."""
    if service in stack.config.sites:
        return stack.config.sites[service].connection
    return _PLATFORM_CONNECTIONS.get(service)


def check_names(stack: Stack, service: str, url: str, connection: Connection) -> None:
    """Check that the URL and the connection name the same server. Raises ConfigError."""
    path = f"services.{service}.external"
    expected = expected_connection(stack, service)
    if expected and connection.name != expected:
        raise ConfigError(
            f"{path}.connection is '{connection.name}', but the platform uses '{expected}' for this service",
            f"Define the connection '{expected}' and set it there.",
        )
    place = urlsplit(url)
    if service in stack.config.sites:
        other = urlsplit(str(connection.extra.get("endpoint_url", "")))
        host, port = other.hostname, other.port
    else:
        host, port = connection.host, connection.port
    if (place.hostname, place.port) != (host, port):
        raise ConfigError(
            f"{path}.url is {place.hostname}:{place.port}, but its connection '{connection.name}' points to "
            f"{host}:{port}",
            "Correct the url or the connection. Both must be the same server.",
        )


def check(stack: Stack, service: str, resolve: Connections) -> str:
    """Check one external service with real work. Raises ConfigError, StackError, SiteError, DatabaseUnavailable."""
    declared = stack.external(service)
    if declared is None:
        raise ConfigError(
            f"services.{service} is not declared as external", "Declare its url and connection in rempart.yaml."
        )
    connection = resolve(declared.connection)
    check_names(stack, service, declared.url, connection)
    if service == "postgresql":
        checks = [postgresql.check_administrator(connection)(), postgresql.check_roles(resolve, stack.config.roles)]
        return ", ".join((*checks, find_tools().check(resolve("pg_backup"))))
    if service == "mlflow":
        return mlflow_server.check(connection)
    if service == "airflow":
        return airflow_server.check_external(connection)
    return object_sites.check(stack, service, resolve)
