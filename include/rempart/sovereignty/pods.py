"""Decide where a pod may run, and set its region, mirrored images and restrictions.

Pure, over a pod as a Kubernetes API object (camelCase dicts). A pod that contradicts the restricted profile of the Pod
Security Standards is refused, so that no pod is silently changed; open settings are filled in. Source of the profile:
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from rempart.settings.config import Config
from rempart.sovereignty.classification import ORDER, highest
from rempart.sovereignty.places import decide_image, decide_pool, rewrite_image
from rempart.sovereignty.policy import Decision, Reason, verdict

LABEL = "rempart.eu/classification"
"""Label (or annotation) by which a pod states the classification of what it handles."""
REGION = "topology.kubernetes.io/region"
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_VOLUMES = frozenset(
    ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
)
"""Kinds of volume that the restricted profile allows."""


@dataclass(frozen=True)
class PodPlan:
    """The decision about a pod, with every reason; `pod` is what may run, and None when anything stands against it."""

    decision: Decision
    pool: str | None
    pod: dict[str, Any] | None


def plan(
    config: Config, pod: Mapping[str, Any], stated: Iterable[str] = (), *, connection: str | None = None, on: date
) -> PodPlan:
    """Decide about a pod on a day, and return the pod that may run.

    `stated` are classifications known in addition to the pod's own label or annotation: the highest counts.
    `connection` is the Airflow connection that makes the pod, if known: a pool's facts hold for its cluster only.
    """
    made = deepcopy(dict(pod))
    metadata, spec = made.setdefault("metadata", {}), made.setdefault("spec", {})
    namespace = str(metadata.get("namespace") or "")
    claims = [*stated, *_claims(metadata)]
    unknown = sorted(set(claims) - set(ORDER))
    classification = highest(level for level in ORDER if level in claims) if claims and not unknown else None
    pool, missing = _pool(config, namespace, connection)
    reasons = [*_unclassified(claims, unknown), *([missing] if missing else []), *_insecure(spec)]
    if pool:
        reasons += _elsewhere(config, pool, spec)
    if pool and classification:
        reasons += decide_pool(config, classification, "job", pool, on=on).reasons
    for image in images(spec) if classification else ():
        decision = decide_image(config, str(classification), image, on=on)
        reasons += [replace(reason, fact=f"{decision.place}: {reason.fact}") for reason in decision.reasons]
    place = f"pool '{pool}'" if pool else f"namespace '{namespace}'"
    answer = verdict(classification or "unknown", "job", place, dict.fromkeys(reasons))
    if not (answer.allowed and pool and classification):
        return PodPlan(answer, pool, None)
    metadata["labels"] = {**(metadata.get("labels") or {}), LABEL: classification}
    settle(config, pool, spec)
    return PodPlan(answer, pool, made)


def settle(config: Config, pool: str, spec: dict[str, Any]) -> None:
    """Set a pod spec's region, mirrored images and restricted profile in place."""
    _mirror(config, spec)
    _hold_in_region(config, pool, spec)
    restrict(spec)


def images(spec: Mapping[str, Any]) -> list[str]:
    """Return every image of a pod, including init and sidecar containers."""
    return list(dict.fromkeys(container["image"] for container in _containers(spec) if container.get("image")))


def _containers(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind in _CONTAINERS:
        yield from spec.get(kind) or ()


def _claims(metadata: Mapping[str, Any]) -> Iterator[str]:
    for section in ("labels", "annotations"):
        if (value := (metadata.get(section) or {}).get(LABEL)) is not None:
            yield str(value)


def _unclassified(claims: list[str], unknown: list[str]) -> Iterator[Reason]:
    remedy = f"Give the DAG a tag such as classification:personal, or the pod a label {LABEL}: {' | '.join(ORDER)}."
    if not claims:
        yield Reason(
            False, "classification", "neither the DAG nor the pod states the classification of its data", remedy
        )
    if unknown:
        yield Reason(False, "classification", f"'{', '.join(unknown)}' is not a classification", remedy)


def _pool(config: Config, namespace: str, connection: str | None) -> tuple[str | None, Reason | None]:
    """Return the only pool of a namespace, or why there is none."""
    here = [name for name, pool in config.gpu_pools.items() if pool.namespace == namespace]
    found = [name for name in here if connection in (None, config.gpu_pools[name].kubernetes_connection)]
    if len(found) == 1:
        return found[0], None
    if found:
        fact = f"namespace '{namespace}' belongs to several pools ({', '.join(found)}), so its region is unknown"
        return None, Reason(False, "gpu_pools", fact, "Give each pool its own namespace, or its own connection.")
    if here:
        wanted = " or ".join(config.gpu_pools[name].kubernetes_connection for name in here)
        fact = f"namespace '{namespace}' is a pool of connection {wanted}, not of '{connection}'"
        return None, Reason(False, "gpu_pools", fact, f"Set kubernetes_conn_id to {wanted}.")
    declared = ", ".join(f"{name} ({pool.namespace})" for name, pool in config.gpu_pools.items()) or "none"
    fact = f"namespace '{namespace}' belongs to no declared pool; declared: {declared}"
    return None, Reason(
        False, "gpu_pools", fact, "Use the namespace of a pool, or declare a pool under gpu_pools in rempart.yaml."
    )


def _region(config: Config, pool: str) -> tuple[str, str]:
    """Return the pool's region as in the nodes' labels: from `node_selector`, else the operator's name."""
    declared = config.gpu_pools[pool]
    return REGION, declared.node_selector.get(REGION, declared.region)


def _elsewhere(config: Config, pool: str, spec: Mapping[str, Any]) -> Iterator[Reason]:
    """Return node labels that the pod requests and that contradict its pool."""
    key, region = _region(config, pool)
    for label, value in {**config.gpu_pools[pool].node_selector, key: region}.items():
        asked = (spec.get("nodeSelector") or {}).get(label, value)
        if asked != value:
            fact = f"the pod requests nodes with {label}={asked}; pool {pool} has {label}={value}"
            yield Reason(False, f"gpu_pools.{pool}", fact, f"Remove {label} from the pod, or use another pool.")


def _mirror(config: Config, spec: Mapping[str, Any]) -> None:
    for container in _containers(spec):
        container["image"] = rewrite_image(config, container["image"])


def _hold_in_region(config: Config, pool: str, spec: dict[str, Any]) -> None:
    """Require the region in each alternative of the pod's affinity, because Kubernetes may take any of them."""
    key, region = _region(config, pool)
    if selector := config.gpu_pools[pool].node_selector:
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **selector}
    affinity = spec.get("affinity") or {}
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    expression = {"key": key, "operator": "In", "values": [region]}
    alternatives: list[dict[str, Any]] = required.get("nodeSelectorTerms") or [{}]
    terms = [
        {
            **term,
            "matchExpressions": [
                *(stated for stated in term.get("matchExpressions") or () if stated != expression),
                expression,
            ],
        }
        for term in alternatives
    ]
    node["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    spec["affinity"] = {**affinity, "nodeAffinity": node}


def _insecure(spec: Mapping[str, Any]) -> Iterator[Reason]:
    """Return what the pod requests against the restricted profile."""

    def refused(what: str, remedy: str) -> Reason:
        return Reason(False, "restricted", what, remedy)

    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield refused(f"the pod requests {name}", f"Remove {name}.")
    for volume in spec.get("volumes") or ():
        for kind in sorted(set(volume) - {"name"} - _VOLUMES):
            yield refused(
                f"volume {volume.get('name')} is of kind {kind}", f"Use one of: {', '.join(sorted(_VOLUMES))}."
            )
    everywhere = spec.get("securityContext") or {}
    for container in _containers(spec):
        who, own = f"container {container.get('name')}", container.get("securityContext") or {}
        if not container.get("image"):
            yield refused(f"{who} has no image", "Set an image of a declared registry.")
        asks = {**everywhere, **own}
        if own.get("privileged"):
            yield refused(f"{who} requests privileged", "Remove it.")
        if own.get("allowPrivilegeEscalation"):
            yield refused(f"{who} requests allowPrivilegeEscalation", "Remove it.")
        if asks.get("runAsNonRoot") is False or asks.get("runAsUser") == 0:
            yield refused(
                f"{who} requests to run as root", "Set run_as_user to an id above 0 that the image can run as."
            )
        if added := set((own.get("capabilities") or {}).get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield refused(f"{who} requests the capabilities {', '.join(sorted(added))}", "Remove them.")
        if (asks.get("seccompProfile") or {}).get("type") == "Unconfined":
            yield refused(f"{who} requests an unconfined seccomp profile", "Use RuntimeDefault, or remove it.")
        if own.get("procMount") not in (None, "Default"):
            yield refused(f"{who} requests procMount {own['procMount']}", "Remove it.")
        if (asks.get("windowsOptions") or {}).get("hostProcess"):
            yield refused(f"{who} requests hostProcess", "Remove it.")
        if any(port.get("hostPort") for port in container.get("ports") or ()):
            yield refused(f"{who} requests a port of its node", "Remove hostPort.")


def restrict(spec: dict[str, Any]) -> None:
    """Fill in the restricted profile. The token of the service account is mounted only where the pod says so."""
    spec.setdefault("automountServiceAccountToken", False)
    profile = (spec.get("securityContext") or {}).get("seccompProfile") or {"type": "RuntimeDefault"}
    spec["securityContext"] = {**(spec.get("securityContext") or {}), "runAsNonRoot": True, "seccompProfile": profile}
    for container in _containers(spec):
        own = container.get("securityContext") or {}
        container["securityContext"] = {
            **own,
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {**(own.get("capabilities") or {}), "drop": ["ALL"]},
            "seccompProfile": own.get("seccompProfile") or profile,
        }
