"""Build the parts that all pods of jobs in a pool share, as Kubernetes API objects. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rempart.settings.sections import Pool, Toleration
from rempart.sovereignty.places import full_image

JOB, ATTEMPT, PIPELINE = "rempart.eu/job", "rempart.eu/attempt", "rempart.eu/pipeline"
"""Labels of each pod of a job. The janitor of a pool finds pods by them."""
QUEUE = "kueue.x-k8s.io/queue-name"
"""Label with the name of Kueue's LocalQueue."""
LOST_NODE = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""Taints that Kubernetes puts on a node whose kubelet is not ready, or does not answer."""
GRACE_SECONDS = 25
"""Between SIGTERM and SIGKILL: a job writes its checkpoint in less."""
USER = 50000
"""The image's user, Airflow's own number."""


def bare(pool: Pool, container: str) -> dict[str, Any]:
    """Return the spec that all pods of a pool share. Its only container has no image and no command."""
    made: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "ClusterFirst",  # the cluster's resolver alone: the network lets nothing else out on port 53
        "containers": [
            {
                "name": container,
                "securityContext": {"readOnlyRootFilesystem": True, "runAsUser": USER, "runAsGroup": USER},
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108 - in the pod
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "2Gi"}}],
    }
    if pool.max_gpus > 1:  # processes of one job exchange gradients by shared memory: a container's default is 64 MiB
        made["containers"][0]["volumeMounts"].append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
        made["volumes"].append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
    if pool.node_selector:
        made["nodeSelector"] = dict(pool.node_selector)
    made["tolerations"] = [toleration.model_dump(exclude_none=True, by_alias=True) for toleration in _tolerations(pool)]
    if pool.priority_class:
        made["priorityClassName"] = pool.priority_class
    return made


def image_at(pool: Pool, image: str | None) -> str:
    """Return an image as a pool pulls it: from the pool's registry if named, else from its own."""
    if not image or pool.registry is None:
        return image or ""
    return f"{pool.registry.rstrip('/')}/{full_image(image).partition('/')[2]}"


def _tolerations(pool: Pool) -> list[Toleration]:
    """Return the pool's tolerations, and the time for which a node may be lost. Kubernetes' default is 300 s."""
    seconds = int(pool.node_lost_after.total_seconds())
    declared = {toleration.key for toleration in pool.tolerations if toleration.effect in (None, "NoExecute")}
    lost = [
        Toleration(key=key, effect="NoExecute", tolerationSeconds=seconds) for key in LOST_NODE if key not in declared
    ]
    return [*pool.tolerations, *lost]


def queue_label(pool: Pool) -> dict[str, str]:
    """Return the label with the queue's name, which makes Kueue admit an object."""
    return {QUEUE: pool.queue} if pool.queue else {}


def secret(owner: Mapping[str, Any], kept: Collection[str], content: Mapping[str, str]) -> dict[str, Any]:
    """Return a Secret with the name of an existing object, owned by it, so that both are deleted together.

    `kept`: labels of the owner that the Secret has, too.
    """
    metadata = owner["metadata"]
    reference = {
        "apiVersion": owner.get("apiVersion") or "v1",
        "kind": owner.get("kind") or "Pod",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {key: value for key, value in metadata["labels"].items() if key in kept},
            "ownerReferences": [reference],
        },
        "stringData": dict(content),
    }
