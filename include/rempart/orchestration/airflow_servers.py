"""Find the servers of Airflow's own configuration: its processes must reach them, whatever is declared elsewhere."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

from rempart.errors import ConfigError, ConnectionMissing
from rempart.settings import config as configuration
from rempart.sovereignty import egress
from rempart.sovereignty.egress import Destination, endpoint

EGRESS_PROXY = ("egress", 13128)
"""The proxy of docker-compose.yml."""


def airflow_destinations() -> Iterator[Destination]:
    """Return the servers of Airflow's own configuration, and this machine by its name. Raises ConfigError."""
    from airflow.configuration import conf

    def setting(section: str, key: str) -> str:
        return conf.get(section, key, fallback="") or ""

    def at(text: str, why: str) -> Iterator[Destination]:
        try:
            host, port = egress.parse_endpoint(text)
        except ValueError:
            # the cause would quote the value, which may hold a password
            raise ConfigError(
                f"read Airflow's configuration: {why} is neither a URL nor host:port", "Correct it."
            ) from None
        if host:
            yield Destination(host, port, f"Airflow's {why}")

    yield Destination(socket.gethostname(), None, "this machine")
    if os.environ.get("REMPART_CONTAINERS"):
        # the way out of containers, which judges by the same list; anybody else's proxy is not ours to trust
        yield Destination(*EGRESS_PROXY, "the egress proxy")
    for section, key in (
        ("database", "sql_alchemy_conn"),
        ("database", "sql_alchemy_conn_async"),
        ("core", "execution_api_server_url"),
        ("api", "base_url"),
        # only where it is used: the provider has a default, a server that does not exist
        *([("celery", "broker_url"), ("celery", "result_backend")] if "Celery" in setting("core", "executor") else []),
    ):
        yield from at(setting(section, key), f"[{section}] {key}")
    for section, switch, prefix in (
        ("metrics", "statsd_on", "statsd"),
        ("metrics", "otel_on", "otel"),
        ("traces", "otel_on", "otel"),
    ):
        if conf.getboolean(section, switch, fallback=False):
            address = f"{setting(section, f'{prefix}_host')}:{setting(section, f'{prefix}_port')}"
            yield from at(address, f"[{section}] {prefix}_host")
    if host := setting("smtp", "smtp_host"):
        yield from at(f"{host}:{setting('smtp', 'smtp_port') or 25}", "[smtp] smtp_host")
    if backend := setting("secrets", "backend_kwargs"):
        yield from at(_url_of(backend), "[secrets] backend_kwargs")
    if conf.getboolean("logging", "remote_logging", fallback=False) and (
        name := setting("logging", "remote_log_conn_id")
    ):
        yield from at(_endpoint_named(name), "[logging] remote_log_conn_id")
    for variable in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ):
        yield from at(os.environ.get(variable, ""), variable)
    if cluster := os.environ.get("KUBERNETES_SERVICE_HOST"):
        server = endpoint(cluster, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443")))
        yield from at(server, "Kubernetes API server")


def _endpoint_named(connection: str) -> str:
    try:
        return egress.endpoint_of(configuration.environment_connections(connection)) or ""
    except ConnectionMissing:  # kept elsewhere than in the environment: then its host must be declared under hosts
        return ""


def _url_of(backend_kwargs: str) -> str:
    try:
        return str(json.loads(backend_kwargs).get("url") or "")
    except (ValueError, AttributeError):
        # the cause would quote the value, which may hold a password
        raise ConfigError(
            "read Airflow's configuration: [secrets] backend_kwargs is not a JSON object", "Correct it."
        ) from None
