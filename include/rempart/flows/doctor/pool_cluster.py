"""Read a pool's Kubernetes API through its Airflow connection, without Airflow: JSON answers, refusals as values.

The connection's extra is read as by the provider's KubernetesHook: `kube_config` (JSON or YAML text, or a mapping),
`kube_config_path` or `in_cluster`, each also under the prefix `extra__kubernetes__`. Unlike the hook, a connection that
names no cluster is refused and never answered by a kubeconfig of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

import yaml

from rempart.errors import ConfigError
from rempart.settings import plain_yaml
from rempart.settings.config import Connection
from rempart.settings.sections import Pool
from rempart.sovereignty.egress import is_this_machine, parse_endpoint
from rempart.training.kubernetes import facts
from rempart.training.kubernetes.facts import PoolFacts, Unknown

T = TypeVar("T")
CONNECT_SECONDS, READ_SECONDS = 5, 20
_PREFIX = "extra__kubernetes__"
_WAYS = ("kube_config", "kube_config_path", "in_cluster")


def extra(connection: Connection, key: str) -> Any:
    """Return a field of a Kubernetes connection, or None."""
    fields = connection.extra
    return (fields[key] if key in fields else fields.get(f"{_PREFIX}{key}")) or None


class Cluster:
    """One cluster. Every method returns the API's JSON, or `Unknown` with status and message of the refusal."""

    def __init__(self, connection: Connection, read_seconds: float = READ_SECONDS) -> None:
        """Read the connection without asking the cluster. Raises ConfigError."""
        self._seconds = (min(CONNECT_SECONDS, read_seconds), read_seconds)
        client = _library("client")
        settings = client.Configuration()
        _configure(settings, connection)
        if str(extra(connection, "disable_verify_ssl")).lower() in ("true", "1", "yes"):
            settings.verify_ssl = False
        settings.retries = 0  # a doctor reports its findings
        self.server = str(settings.host)
        secure = self.server.startswith("https://") and settings.verify_ssl
        self.verified = bool(secure or is_this_machine(parse_endpoint(self.server)[0]))
        self._api: Any = client.ApiClient(settings)

    def get(self, path: str, **query: str) -> dict[str, Any] | Unknown:
        return _answer(self._call("GET", path, query=query))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | Unknown:
        return _answer(self._call("POST", path, body=body))

    def delete(self, path: str) -> dict[str, Any] | Unknown:
        return _answer(self._call("DELETE", path, query={"gracePeriodSeconds": "0"}))

    def text(self, path: str) -> str | Unknown:
        """Return an answer that is not JSON, such as a log."""
        answer = self._call("GET", path, answer="str")
        if isinstance(answer, Unknown):
            return answer
        # the client parses output that looks like JSON, and returns the repr of other bytes
        return bytes(self._api.last_response.data).decode("utf-8", "replace")

    def items(self, path: str, **query: str) -> list[dict[str, Any]] | Unknown:
        """Return every object of a list."""
        answer = self.get(path, **query)
        return answer if isinstance(answer, Unknown) else list(answer.get("items") or ())

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        answer: str = "object",
    ) -> Any:
        from urllib3.exceptions import HTTPError

        refused: type[Any] = _library("client").ApiException
        sent = {"Accept": "application/json, */*"} | ({"Content-Type": "application/json"} if body else {})
        try:
            return self._api.call_api(
                path,
                method,
                {},
                list((query or {}).items()),
                sent,
                body=dict(body) if body else None,
                response_types_map=dict.fromkeys((200, 201, 202), answer),
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=self._seconds,
            )
        except refused as error:
            return Unknown(f"{error.status}: {_message(error.body) or error.reason}", int(error.status or 0))
        except (HTTPError, OSError) as error:
            return Unknown(f"{self.server} did not answer: {getattr(error, 'reason', None) or error}")


def capacity(cluster: Cluster, pool: Pool) -> PoolFacts:
    """Return a pool's capacity: its quotas, nodes, and the GPUs held by the namespace's pods."""
    space = f"/api/v1/namespaces/{pool.namespace}"
    quotas = cluster.items(f"{space}/resourcequotas")
    if isinstance(quotas, Unknown) and not quotas.status:  # a server that does not answer is asked only once
        return PoolFacts(quotas=quotas, nodes=quotas, used=quotas)
    return PoolFacts(
        quotas=read(quotas, facts.quotas_of),
        nodes=read(cluster.items("/api/v1/nodes"), lambda nodes: tuple(facts.node_of(n, pool.gpu) for n in nodes)),
        used=read(cluster.items(f"{space}/pods"), lambda pods: facts.used_of(pods, pool.gpu)),
    )


def read(answer: T | Unknown, reader: Callable[[T], Any]) -> Any:
    """Apply a reader to an answer. An answer without sense counts as unknown."""
    if isinstance(answer, Unknown):
        return answer
    try:
        return reader(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Unknown(f"the cluster's answer cannot be read: {type(error).__name__}: {error}")


def _answer(answer: Any) -> dict[str, Any] | Unknown:
    return answer if isinstance(answer, dict | Unknown) else Unknown("the answer is no JSON object", 200)


def _library(part: str) -> Any:
    """Return the Kubernetes client library, which takes a second to import and has no types."""
    return import_module(f"kubernetes.{part}")


def _message(body: object) -> str:
    """Return the message of a Status object."""
    with suppress(ValueError, AttributeError):
        return str(json.loads(str(body)).get("message") or "")
    return ""


def _configure(settings: Any, connection: Connection) -> None:
    config = _library("config")
    where = f"Connection '{connection.name}'"
    named = [way for way in _WAYS if extra(connection, way)]
    if connection.conn_type != "kubernetes":
        raise ConfigError(f"{where} is of type '{connection.conn_type}'", "Give it conn_type kubernetes.")
    if len(named) != 1:
        fault = f"names {' and '.join(named)}" if named else "names no cluster"
        raise ConfigError(f"{where} {fault}", f"Set exactly one of these in its extra: {', '.join(_WAYS)}.")
    context = extra(connection, "cluster_context")
    try:
        if named[0] == "in_cluster":
            config.load_incluster_config(client_configuration=settings)
        elif named[0] == "kube_config_path":
            path = str(extra(connection, "kube_config_path"))
            config.load_kube_config(config_file=path, context=context, client_configuration=settings)
        else:
            declared = extra(connection, "kube_config")
            content = plain_yaml.load(declared) if isinstance(declared, str) else declared
            config.load_kube_config_from_dict(content, context=context, client_configuration=settings)
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        # the cause may quote the file, which holds credentials
        raise ConfigError(
            f"{where}: extra.{named[0]} is not a usable kubeconfig ({type(error).__name__})",
            "Correct it; `kubectl --kubeconfig FILE get pods -n NAMESPACE` must work with the same content.",
        ) from None
