"""List the rights that Airflow's identity needs in a pool's cluster, and find excess rights. Pure.

`REQUIRED` is the only list: deploy/kubernetes grants it, the doctor compares the cluster with it, a test compares both.
`SPARK` is that of the drivers of Spark jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Need = Literal["jobs", "doctor", "train jobs", "spark jobs"]
"""The user of a right: all jobs, the doctor only, jobs of several nodes if a pool names its `runtime`, or drivers of
Spark jobs, whose rights are not those of Airflow.
"""
Where = Literal["pool", "cluster", "elsewhere"]
"""In the pool's namespace, on what belongs to no namespace, or in another namespace."""
ELSEWHERE = "kube-system"
"""The namespace that stands for all others: what a pool's identity may do there, it may do in too many places."""


@dataclass(frozen=True)
class Grant:
    """Verbs on a resource, as a rule of a Role holds them, and why."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    need: Need
    why: str
    cluster: bool = False

    def rule(self) -> dict[str, list[str]]:
        """Return the grant as a rule of a Role or ClusterRole."""
        return {"apiGroups": [self.group], "resources": [self.resource], "verbs": list(self.verbs)}


REQUIRED: tuple[Grant, ...] = (
    Grant(
        "",
        "pods",
        ("create", "get", "list", "watch", "patch", "delete"),
        "jobs",
        "an attempt is a pod, which Airflow creates, finds by its labels, follows, labels as admitted, and deletes",
    ),
    Grant("", "pods/log", ("get",), "jobs", "the job's log is copied into the task's log"),
    Grant("", "events", ("get", "list"), "jobs", "only events tell why a pod waits"),
    Grant(
        "",
        "secrets",
        ("create",),
        "jobs",
        "the job's credentials, created once its node is known; never read again; the cluster deletes them with "
        "their pod",
    ),
    Grant(
        "",
        "resourcequotas",
        ("get", "list"),
        "doctor",
        "the rest of the quota: pools with enough of it are tried first",
    ),
    Grant("", "namespaces", ("get",), "doctor", "the profile of this one namespace; a Role reaches no other namespace"),
    Grant("networking.k8s.io", "networkpolicies", ("list",), "doctor", "whether all traffic is denied by default"),
    Grant(
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        ("create",),
        "doctor",
        "what the account of Spark's drivers may do in this namespace; such a question shows no object",
    ),
    Grant(
        "kueue.x-k8s.io",
        "localqueues",
        ("get",),
        "doctor",
        "whether the pool's queue exists and is active; a job asks too, and waits without the answer",
    ),
    Grant(
        "trainer.kubeflow.org",
        "trainjobs",
        ("create", "get", "list", "watch", "delete"),
        "train jobs",
        "an attempt on several nodes is a TrainJob, which Airflow creates, finds by its name, follows, and "
        "deletes with its pods",
    ),
    Grant(
        "trainer.kubeflow.org",
        "trainingruntimes",
        ("get",),
        "train jobs",
        "for the doctor: whether the pool's runtime is as rendered",
    ),
    Grant(
        "",
        "nodes",
        ("get", "list"),
        "jobs",
        "get: the node to which a pod was bound; list: for the doctor, and before an executor of Spark gets a node",
        cluster=True,
    ),
    Grant("scheduling.k8s.io", "priorityclasses", ("get",), "doctor", "whether the pool's class exists", cluster=True),
)

SPARK: tuple[Grant, ...] = (
    Grant(
        "",
        "pods",
        ("create", "get", "list", "watch", "delete", "deletecollection"),
        "spark jobs",
        "the driver of a Spark job makes its executors, follows them, and deletes them",
    ),
)
"""The rights of the drivers of Spark jobs, which are those of a ServiceAccount of their own, and no others."""


@dataclass(frozen=True, order=True)
class Right:
    """One verb on one resource (`pods/log` for a subresource)."""

    verb: str
    resource: str
    group: str = ""
    where: Where = "pool"

    def __str__(self) -> str:
        place = {"pool": "", "cluster": " (cluster-wide)", "elsewhere": f" (in {ELSEWHERE})"}[self.where]
        return f"{self.verb} {full_name(self.resource, self.group)}{place}"

    def attributes(self, namespace: str) -> dict[str, str]:
        """Return the right as attributes of a SelfSubjectAccessReview."""
        space = {"pool": namespace, "cluster": "", "elsewhere": ELSEWHERE}[self.where]
        resource, _, part = self.resource.partition("/")
        asked = {"verb": self.verb, "group": self.group, "resource": resource}
        asked |= {"namespace": space} if space else {}
        if self.group == "" and resource == "namespaces" and self.where == "pool":
            asked["name"] = namespace
        return asked | ({"subresource": part} if part else {})


def full_name(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def needs(runtime: str | None) -> tuple[Need, ...]:
    """Return the needs of a pool, by the name of its runtime."""
    return ("jobs", "doctor", "train jobs") if runtime else ("jobs", "doctor")


def needed(*needs: Need) -> tuple[Right, ...]:
    """Return every right of `REQUIRED` for these needs. Default: jobs on one node, and the doctor.

    Only the doctor lists nodes.
    """
    found = []
    for right in REQUIRED:
        for verb in right.verbs:
            need: Need = "doctor" if (right.resource, verb) == ("nodes", "list") else right.need
            if need in (needs or ("jobs", "doctor")):
                found.append(Right(verb, right.resource, right.group, "cluster" if right.cluster else "pool"))
    return tuple(found)


DANGEROUS: tuple[Right, ...] = (
    Right("list", "secrets"),
    Right("create", "pods/exec"),
    Right("create", "serviceaccounts/token"),
    Right("create", "rolebindings", "rbac.authorization.k8s.io"),
    Right("patch", "networkpolicies", "networking.k8s.io"),
    Right("patch", "nodes", "", "cluster"),
    Right("get", "secrets", "", "elsewhere"),
    Right("create", "pods", "", "elsewhere"),
)
"""Rights that are also requested one by one, because some clusters cannot list all rights of an identity."""


@dataclass(frozen=True)
class Rule:
    """A rule of a SelfSubjectRulesReview: resources, or URLs of the API server itself."""

    verbs: tuple[str, ...]
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


def rules_of(review: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the rules in a SelfSubjectRulesReview's answer."""
    status: Mapping[str, Any] = review.get("status") or {}

    def texts(rule: Mapping[str, Any], key: str) -> tuple[str, ...]:
        return tuple(map(str, rule.get(key) or ()))

    return (
        *(
            Rule(*(texts(rule, key) for key in ("verbs", "apiGroups", "resources", "resourceNames")))
            for rule in status.get("resourceRules") or ()
        ),
        *(
            Rule(texts(rule, "verbs"), urls=texts(rule, "nonResourceURLs"))
            for rule in status.get("nonResourceRules") or ()
        ),
    )


_EVERYONE = frozenset(
    [
        *(("create", "authorization.k8s.io", f"selfsubject{kind}reviews") for kind in ("access", "rules")),
        ("create", "authentication.k8s.io", "selfsubjectreviews"),
        *((verb, "certificates.k8s.io", "clustertrustbundles") for verb in ("get", "list", "watch")),
    ]
)
_EVERYONES_URLS = ("/api", "/apis", "/healthz", "/livez", "/readyz", "/openapi", "/version", "/.well-known")
_ISSUER = "/openid/v1/jwks"
"""Rights that Kubernetes grants every identity: system:basic-user, -discovery, -public-info-viewer, and of service
accounts -service-account-issuer-discovery and -cluster-trust-bundle-discovery (kubernetes.io, "Using RBAC
Authorization").
"""
_OPENSHIFT = frozenset(
    [
        ("list", "project.openshift.io", "projectrequests"),
        *((verb, "project.openshift.io", "projects") for verb in ("list", "watch")),
        *((verb, "authorization.openshift.io", "clusterroles") for verb in ("get", "list")),
        *((verb, "storage.k8s.io", "storageclasses") for verb in ("get", "list")),
        ("create", "authorization.openshift.io", "selfsubjectrulesreviews"),
    ]
)
_OPENSHIFT_URLS = ("/oapi", "/osapi", "/swaggerapi", "/swagger.json", "/swagger-2.0.0.pb-v1")
_OPENSHIFT_SELF = ("get", "user.openshift.io", "users")
"""Further rights that OpenShift grants every identity: basic-user and discovery of its bootstrap policy.

They show no data of another namespace: only projects that the identity may see, and of users only itself (`~`).
"""


def excess(rules: Iterable[Rule], where: Where) -> tuple[str, ...]:
    """Return what these rules grant beyond `REQUIRED`, readable. `elsewhere` needs only cluster-wide resources."""
    kept = (
        {
            (verb, right.group, right.resource)
            for right in REQUIRED
            if where == "pool" or right.cluster
            for verb in right.verbs
        }
        | _EVERYONE
        | _OPENSHIFT
    )
    found: dict[str, list[str]] = {}
    for rule in rules:
        for what, verb in _beyond(rule, kept):
            found.setdefault(what, []).append(verb)
    place = f" (in {ELSEWHERE})" if where == "elsewhere" else ""
    return tuple(f"{'/'.join(dict.fromkeys(verbs))} {what}{place}" for what, verbs in sorted(found.items()))


def _beyond(rule: Rule, kept: set[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    for url in rule.urls:
        base = url.removesuffix("*").rstrip("/")
        paths = (*_EVERYONES_URLS, *_OPENSHIFT_URLS)
        known = url == "/" or base == _ISSUER or any(base == path or base.startswith(f"{path}/") for path in paths)
        yield from ((url, verb) for verb in rule.verbs if not (known and verb in ("get", "head")))
    only = f" {', '.join(rule.names)}" if rule.names else ""
    if rule.names == ("~",):
        kept = kept | {_OPENSHIFT_SELF}
    for group in rule.groups:
        for resource in rule.resources:
            everything = "everything" if group == resource == "*" else full_name(resource, group)
            yield from ((f"{everything}{only}", verb) for verb in rule.verbs if (verb, group, resource) not in kept)
