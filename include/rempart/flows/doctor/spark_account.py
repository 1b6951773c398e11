"""Ask a pool's cluster what drivers of Spark jobs may do there. Nothing is created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rempart.flows.doctor.pool_cluster import Cluster, read
from rempart.settings.sections import Pool
from rempart.sovereignty import pods
from rempart.sovereignty.pool_pods import bare
from rempart.training.kubernetes import doctor_spark
from rempart.training.kubernetes.facts import SparkFacts, Unknown
from rempart.training.kubernetes.rights import Right


def look(cluster: Cluster, pool: Pool, image: str) -> SparkFacts:
    """Return what a driver finds in the pool: its account, the account's rights, and the way to the API."""
    account = _account(cluster, pool, image)
    policies = cluster.items(f"/apis/networking.k8s.io/v1/namespaces/{pool.namespace}/networkpolicies")
    return SparkFacts(account, _may(cluster, pool), read(policies, addresses), read(policies, ports_between))


def _account(cluster: Cluster, pool: Pool, image: str) -> bool | Unknown:
    """Return whether the account exists, by a pod that is asked for and not made."""
    spec: dict[str, Any] = bare(pool, "base") | {"serviceAccountName": doctor_spark.ACCOUNT}
    little = {"cpu": "100m", "memory": "64Mi"}
    resources = {"requests": little, "limits": little}
    spec["containers"][0] |= {"image": image, "command": ["true"], "resources": resources}
    pods.restrict(spec)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rempart-spark-doctor"}, "spec": spec}
    answer = cluster.post(f"/api/v1/namespaces/{pool.namespace}/pods?dryRun=All", body)
    if not isinstance(answer, Unknown):
        return True
    # a quota that is used up says nothing of the account: it is asked after the account was found
    if answer.status == 403 and "service account" in answer.why:
        return False
    return True if answer.status == 403 and "exceeded quota" in answer.why else answer


def _may(cluster: Cluster, pool: Pool) -> dict[Right, bool] | Unknown:
    kind, version = "LocalSubjectAccessReview", "authorization.k8s.io/v1"
    user = f"system:serviceaccount:{pool.namespace}:{doctor_spark.ACCOUNT}"
    found: dict[Right, bool] = {}
    for right in (*doctor_spark.needed(), *doctor_spark.too_many()):
        if right.where != "pool":
            continue  # such a review is for one namespace
        spec = {"user": user, "resourceAttributes": right.attributes(pool.namespace)}
        body = {"apiVersion": version, "kind": kind, "metadata": {"namespace": pool.namespace}, "spec": spec}
        answer = cluster.post(f"/apis/{version}/namespaces/{pool.namespace}/{kind.lower()}s", body)
        if isinstance(answer, Unknown):
            return answer
        found[right] = (answer.get("status") or {}).get("allowed") is True
    return found


def addresses(policies: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the addresses of Kubernetes' API that drivers may reach, each with a TCP port: `10.0.0.1/32 port 6443`."""
    return tuple(
        f"{peer['ipBlock']['cidr']} port {port}"
        for rule in _rules(policies, doctor_spark.API_POLICY, "egress")
        for peer in rule.get("to") or ()
        if "ipBlock" in peer
        for port in _ports(rule)
    )


def ports_between(policies: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    """Return which of the ports of Spark's pods a policy opens to them and for them."""
    into, out = (list(_rules(policies, doctor_spark.POLICY, way)) for way in ("ingress", "egress"))
    return frozenset(
        port for port in doctor_spark.PORTS if all(any(_opens(rule, port) for rule in rules) for rules in (into, out))
    )


def _rules(policies: Sequence[Mapping[str, Any]], name: str, way: str) -> Iterator[Mapping[str, Any]]:
    return (rule for policy in policies if policy["metadata"]["name"] == name for rule in policy["spec"].get(way) or ())


def _opens(rule: Mapping[str, Any], port: int) -> bool:
    """Return whether a rule is for a TCP port, by its number, in a range, or as one of all."""
    every: Mapping[str, Any] = {}
    for each in rule.get("ports") or (every,):
        first = each.get("port", port)
        is_in = isinstance(first, int) and first <= port <= each.get("endPort", first)
        if is_in and each.get("protocol", "TCP") == "TCP":
            return True
    return False


def _ports(rule: Mapping[str, Any]) -> Iterator[str]:
    """Yield the TCP ports of a rule, as it writes them. Without ports it is for all of them."""
    if not rule.get("ports"):
        yield "of any number"
    for each in rule.get("ports") or ():
        if each.get("protocol", "TCP") == "TCP":
            last = f" to {each['endPort']}" if "endPort" in each else ""
            yield f"{each.get('port', 'of any number')}{last}"
