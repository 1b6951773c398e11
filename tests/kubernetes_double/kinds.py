"""The resources that the double serves, and the JSON object type that all its modules pass around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One resource of the API. `group` is empty for the core group; `custom` ones have no strategic merge."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    custom: bool = False

    @property
    def api_version(self) -> str:
        """What stands in an object's apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The name that messages use: `pods`, `trainjobs.trainer.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False, status=True)
POD = Kind("", "v1", "pods", "Pod", status=True)
EVENT = Kind("", "v1", "events", "Event")
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
NODE = Kind("", "v1", "nodes", "Node", namespaced=False, status=True)
QUOTA = Kind("", "v1", "resourcequotas", "ResourceQuota", status=True)
LIMIT_RANGE = Kind("", "v1", "limitranges", "LimitRange")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
PRIORITY_CLASS = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
ROLE = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLE = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDING = Kind(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)

BUILT_IN = (
    NAMESPACE,
    POD,
    EVENT,
    SECRET,
    CONFIG_MAP,
    NODE,
    QUOTA,
    LIMIT_RANGE,
    SERVICE_ACCOUNT,
    NETWORK_POLICY,
    PRIORITY_CLASS,
    ROLE,
    ROLE_BINDING,
    CLUSTER_ROLE,
    CLUSTER_ROLE_BINDING,
)

LOCAL_REVIEWS = "localsubjectaccessreviews"
REVIEWS = {"selfsubjectaccessreviews": "SelfSubjectAccessReview", "selfsubjectrulesreviews": "SelfSubjectRulesReview"}


def key(obj: Obj) -> tuple[str, str]:
    """An object's namespace (empty for a cluster-scoped one) and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
