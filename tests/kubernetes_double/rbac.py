"""Role-based access control: the rights of a service account by the stored roles and their bindings."""

from __future__ import annotations

from collections.abc import Iterator

from .access import Rule
from .kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING, Obj
from .store import Store

EVERYONE = "system:authenticated"
DEFAULTS: dict[str, tuple[str, list[Obj]]] = {
    "system:basic-user": (
        EVERYONE,
        [
            {
                "apiGroups": ["authorization.k8s.io"],
                "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                "verbs": ["create"],
            },
            {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
        ],
    ),
    "system:discovery": (
        EVERYONE,
        [
            {
                "nonResourceURLs": [
                    *("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*"),
                    *("/readyz", "/version", "/version/"),
                ],
                "verbs": ["get"],
            }
        ],
    ),
    "system:public-info-viewer": (
        EVERYONE,
        [{"nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"], "verbs": ["get"]}],
    ),
    "system:service-account-issuer-discovery": (
        "system:serviceaccounts",
        [
            {
                "nonResourceURLs": ["/.well-known/openid-configuration", "/.well-known/openid-configuration/"],
                "verbs": ["get"],
            },
            {"nonResourceURLs": ["/openid/v1/jwks", "/openid/v1/jwks/"], "verbs": ["get"]},
        ],
    ),
}
"""Roles that a new cluster has, and the group to which each is bound (kubernetes.io, "Using RBAC Authorization")."""


def objects() -> Iterator[tuple[Obj, Obj]]:
    """Each of `DEFAULTS` as a ClusterRole and its binding."""
    for name, (group, rules) in DEFAULTS.items():
        subject = {"kind": "Group", "apiGroup": ROLE.group, "name": group}
        yield (
            {"metadata": {"name": name}, "rules": rules},
            {
                "metadata": {"name": name},
                "roleRef": {"apiGroup": ROLE.group, "kind": "ClusterRole", "name": name},
                "subjects": [subject],
            },
        )


def bound(store: Store, namespace: str, name: str) -> tuple[Rule, ...]:
    """The rules of a service account. A RoleBinding grants what it names in its own namespace, whatever the role."""
    found: list[Rule] = []
    for kind in (CLUSTER_ROLE_BINDING, ROLE_BINDING):
        for binding in store.list(kind):
            where = binding["metadata"].get("namespace", "")
            if any(_meant(subject, where, namespace, name) for subject in binding.get("subjects") or ()):
                scope = {"namespaces": [where]} if where else {}
                found += [Rule.of(rule | scope) for rule in _rules(store, binding["roleRef"], where)]
    return tuple(found)


def _meant(subject: Obj, where: str, namespace: str, name: str) -> bool:
    if subject["kind"] == "Group":
        return subject["name"] in (EVERYONE, "system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return (subject["kind"], subject["name"], subject.get("namespace", where)) == ("ServiceAccount", name, namespace)


def _rules(store: Store, role: Obj, where: str) -> list[Obj]:
    """The rules of a bound role; none while it does not exist."""
    clusters = role["kind"] == "ClusterRole"
    found = store.get(CLUSTER_ROLE if clusters else ROLE, "" if clusters else where, role["name"]) or {}
    rules: list[Obj] = found.get("rules") or []
    return rules
