"""Ask a pool's cluster what drivers of Spark jobs may do there. Nothing is created."""

from __future__ import annotations

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
    return SparkFacts(account, _may(cluster, pool), read(policies, _addresses))


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


def _addresses(policies: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(
        str(peer["ipBlock"]["cidr"])
        for policy in policies
        if policy["metadata"]["name"] == doctor_spark.API_POLICY
        for rule in policy["spec"].get("egress") or ()
        for peer in rule.get("to") or ()
        if "ipBlock" in peer
    )
