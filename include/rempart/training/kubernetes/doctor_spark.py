"""Check what drivers of Spark jobs need, for `rempart pool doctor`: account, rights, the API. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rempart.settings.sections import Pool
from rempart.training.kubernetes.facts import PoolFinding, SparkFacts, Unknown, unseen
from rempart.training.kubernetes.rights import DANGEROUS, SPARK, Right

OPEN_API = (
    "Put its address and port there by the overlay: `kubectl get endpoints kubernetes -n default` shows them. With "
    "Cilium allow the entity kube-apiserver instead."
)
"""Remedy for a driver that may not reach Kubernetes' API."""
ACCOUNT = "rempart-spark"
"""ServiceAccount of drivers."""
API_POLICY, NOWHERE = "rempart-spark-api", "192.0.2.1/32"
"""The NetworkPolicy by which a driver reaches Kubernetes' API, and the address in it that stands for none."""
POLICY, PORTS = "rempart-spark", frozenset({7078, 7079})
"""The NetworkPolicy by which driver and executors reach each other, and the ports on which they listen."""
CHECKS = ("spark account", "spark api", "spark ports")


def needed() -> tuple[Right, ...]:
    """Return the rights of a driver."""
    return tuple(Right(verb, grant.resource, grant.group) for grant in SPARK for verb in grant.verbs)


def too_many() -> tuple[Right, ...]:
    """Return rights that a driver must not have: with some of them it could open the gate of an executor."""
    pods = (Right("patch", "pods"), Right("update", "pods"), Right("create", "pods/binding"), Right("get", "secrets"))
    return (*pods, *DANGEROUS)


def judge(pool: Pool, seen: SparkFacts | None) -> Iterator[PoolFinding]:
    """Yield the findings; `seen` is None for a pool to which no Spark job is sent."""
    if seen is None:
        yield from (PoolFinding(check, "ok", "no Spark job is sent to this pool") for check in CHECKS)
        return
    apply = f"Apply the overlay of {pool.namespace}: `kubectl apply -k OVERLAY` (deploy/kubernetes/README.md)."
    yield _account(pool, seen, apply)
    if isinstance(seen.api, Unknown):
        yield unseen("spark api", seen.api, apply)
    elif not seen.api or any(address.startswith(NOWHERE) for address in seen.api):
        fact = f"NetworkPolicy {API_POLICY} " + (
            "names no address of Kubernetes' API" if seen.api else "does not exist, or opens no TCP port"
        )
        yield PoolFinding("spark api", "warn", f"{fact}, so a driver may not reach it", OPEN_API)
    else:
        fact = f"drivers may reach {', '.join(seen.api)}; in a pool for Spark alone, --probe tries the API"
        yield PoolFinding("spark api", "ok", fact)
    yield _ports(seen, apply)


def _ports(seen: SparkFacts, apply: str) -> PoolFinding:
    check = "spark ports"
    if isinstance(seen.ports, Unknown):
        return unseen(check, seen.ports, apply)
    if seen.ports >= PORTS:
        return PoolFinding(check, "ok", "driver and executors reach each other")
    closed = " and ".join(map(str, sorted(PORTS - seen.ports)))
    fact = (
        f"NetworkPolicy {POLICY} does not open TCP {closed} in both directions, so executors may not reach their driver"
    )
    return PoolFinding(check, "warn", fact, f"{apply} With Cilium's policies this cannot be seen here.")


def _account(pool: Pool, seen: SparkFacts, apply: str) -> PoolFinding:
    check = "spark account"
    if isinstance(seen.account, Unknown):
        return unseen(check, seen.account, apply)
    if not seen.account:
        return PoolFinding(check, "FAIL", f"ServiceAccount {ACCOUNT} does not exist in {pool.namespace}", apply)
    if isinstance(seen.may, Unknown):
        return unseen(check, seen.may, apply)
    may = seen.may
    if missing := [right for right in needed() if not may.get(right)]:
        return PoolFinding(check, "FAIL", f"{ACCOUNT} lacks these rights: {', '.join(map(str, missing))}", apply)
    if excess := [right for right in too_many() if may.get(right)]:
        remedy = (
            f"Bind {ACCOUNT} to its Role only. `kubectl get rolebindings,clusterrolebindings -A -o wide` shows every "
            "binding, `kubectl delete` removes one."
        )
        return PoolFinding(check, "FAIL", f"{ACCOUNT} may do too much: {', '.join(map(str, excess))}", remedy)
    return PoolFinding(check, "ok", f"{ACCOUNT}, with rights to pods alone")
