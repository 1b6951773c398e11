"""Inspect a pool's cluster through its connection. Without `probe` nothing is created."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from rempart.errors import ConfigError
from rempart.flows.doctor import spark_account
from rempart.flows.doctor.doctor_probe import SECONDS, run_probe, targets
from rempart.flows.doctor.pool_cluster import Cluster, capacity, read
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connections
from rempart.settings.sections import Pool
from rempart.sovereignty.pool_pods import image_at
from rempart.training.kubernetes import doctor, doctor_images, facts, queue, rights, train_job
from rempart.training.kubernetes.facts import PoolFacts, PoolFinding, Unknown
from rempart.training.kubernetes.queue import LocalQueue

T = TypeVar("T")


@dataclass(frozen=True)
class Diagnosis:
    """All findings about one pool."""

    pool: str
    findings: tuple[PoolFinding, ...]
    answered: bool

    def lines(self) -> Iterator[str]:
        yield f"pool {self.pool}"
        yield from (finding.line() for finding in self.findings)


def diagnose(
    names: list[str],
    *,
    probe: bool = False,
    seconds: float = SECONDS,
    config: Config | None = None,
    connections: Connections = configuration.environment_connections,
    on: date | None = None,
) -> list[Diagnosis]:
    """Run every check of the named pools, or of all. Raises ConfigError for an undeclared name."""
    loaded = config or configuration.load()
    for name in names:
        if name not in loaded.gpu_pools:
            known = f"Use one of: {', '.join(loaded.gpu_pools)}" if loaded.gpu_pools else "There is none"
            raise ConfigError(
                f"Pool '{name}' is not declared",
                f"{known}; or declare it under gpu_pools in rempart.yaml (docs/how-to/gpu-pools.md).",
            )
    if not loaded.gpu_pools:
        raise ConfigError(
            "No pool is declared", "Declare a pool under gpu_pools in rempart.yaml (docs/how-to/gpu-pools.md)."
        )
    day = on or datetime.now(UTC).date()
    found = []
    for name in names or loaded.gpu_pools:
        seen = look(loaded, name, connections, on=day, seconds=seconds if probe else None)
        answered = not isinstance(seen.version, Unknown) or bool(seen.version.status)
        found.append(Diagnosis(name, doctor.judge(loaded, name, seen, on=day), answered))
    return found


def exit_code(diagnoses: list[Diagnosis]) -> int:
    """Return 0 if nothing failed, 2 if a cluster did not answer, else 1."""
    if any(not pool.answered for pool in diagnoses):
        return 2
    return 0 if all(doctor.passed(pool.findings) for pool in diagnoses) else 1


def as_json(diagnoses: list[Diagnosis]) -> str:
    """Return the findings as one JSON document."""
    pools = [
        {
            "pool": diagnosis.pool,
            "ok": doctor.passed(diagnosis.findings),
            "answered": diagnosis.answered,
            "findings": [finding.as_json() for finding in diagnosis.findings],
        }
        for diagnosis in diagnoses
    ]
    return json.dumps({"exit_code": exit_code(diagnoses), "pools": pools}, indent=2, ensure_ascii=False)


def look(config: Config, name: str, connections: Connections, *, on: date, seconds: float | None) -> PoolFacts:
    """Inspect a pool; with `seconds`, also with a probe pod that may take that long."""
    pool = config.gpu_pools[name]
    try:
        cluster = Cluster(connections(pool.kubernetes_connection))
    except ConfigError as error:
        return PoolFacts(version=Unknown(f"{error.what}. {error.hint}"))
    version = cluster.get("/version")
    seen = PoolFacts(cluster.server, cluster.verified, read(version, lambda answer: str(answer.get("gitVersion", "?"))))
    if isinstance(version, Unknown):
        return seen
    seen = _rights(cluster, pool, replace(seen, who=_who(cluster)))
    space, free = f"/api/v1/namespaces/{pool.namespace}", capacity(cluster, pool)
    seen = replace(
        seen,
        namespace=read(cluster.get(space), facts.namespace_of),
        quotas=free.quotas,
        nodes=free.nodes,
        used=free.used,
        policies=read(
            cluster.items(f"/apis/networking.k8s.io/v1/namespaces/{pool.namespace}/networkpolicies"),
            lambda policies: tuple(map(facts.network_policy_of, policies)),
        ),
        priority_class=_there(cluster, f"/apis/scheduling.k8s.io/v1/priorityclasses/{pool.priority_class}"),
        queue=_queue(cluster, pool),
        runtime=_runtime(cluster, config, name),
    )
    if doctor_images.runs_spark(config, name):
        seen = replace(seen, spark=spark_account.look(cluster, pool, image_at(pool, config.spark.image)))
    if seconds is None:
        return seen
    return replace(
        seen, probe=run_probe(cluster, config, name, targets(config, connections, name), on=on, seconds=seconds)
    )


def _there(cluster: Cluster, path: str) -> bool | Unknown:
    answer = cluster.get(path) if not path.endswith("/None") else Unknown("none is named")
    if isinstance(answer, Unknown):
        return False if answer.status == 404 else answer
    return True


def _queue(cluster: Cluster, pool: Pool) -> LocalQueue | Unknown | None:
    if pool.queue is None:
        return Unknown("none is named")
    for version in queue.VERSIONS:
        path = f"/apis/{queue.GROUP}/{version}/namespaces/{pool.namespace}/{queue.LOCAL_QUEUES}/{pool.queue}"
        answer = cluster.get(path)
        if not isinstance(answer, Unknown) or answer.status != 404:
            local_queue: LocalQueue | Unknown = read(answer, LocalQueue.of)
            return local_queue
    return None


def _runtime(cluster: Cluster, config: Config, name: str) -> tuple[str, ...] | Unknown:
    pool = config.gpu_pools[name]
    if pool.runtime is None:
        return Unknown("none is named")
    path = (
        f"/apis/{train_job.GROUP}/{train_job.VERSION}/namespaces/{pool.namespace}/{train_job.RUNTIMES}/{pool.runtime}"
    )
    wanted = train_job.runtime(config, name)["spec"]
    found: tuple[str, ...] | Unknown = read(
        cluster.get(path), lambda seen: tuple(train_job.differences(wanted, seen["spec"]))
    )
    return found


def _who(cluster: Cluster) -> str:
    """Return the user that the cluster sees. Clusters before 1.28 do not tell."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = cluster.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
    if isinstance(answer, Unknown):
        return ""
    return str(((answer.get("status") or {}).get("userInfo") or {}).get("username") or "")


def _rights(cluster: Cluster, pool: Pool, seen: PoolFacts) -> PoolFacts:
    api = "/apis/authorization.k8s.io/v1"

    def review(kind: str, spec: Mapping[str, Any]) -> dict[str, Any] | Unknown:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        return cluster.post(f"{api}/{kind.lower()}s", body)

    may: dict[rights.Right, bool] = {}
    for right in (*rights.needed(*rights.needs(pool.runtime)), *rights.DANGEROUS):
        answer = review("SelfSubjectAccessReview", {"resourceAttributes": right.attributes(pool.namespace)})
        if isinstance(answer, Unknown):
            return replace(seen, may=answer, rules=answer, rules_elsewhere=answer)
        may[right] = (answer.get("status") or {}).get("allowed") is True
    here, there = (
        review("SelfSubjectRulesReview", {"namespace": space}) for space in (pool.namespace, rights.ELSEWHERE)
    )
    complete = not any(
        (rule.get("status") or {}).get("incomplete") for rule in (here, there) if not isinstance(rule, Unknown)
    )
    return replace(
        seen,
        may=may,
        rules=read(here, rights.rules_of),
        rules_elsewhere=read(there, rights.rules_of),
        rules_complete=complete,
    )
