"""Judge a pool's nodes: which take jobs, whose they are, how many GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rempart.settings.config import Config
from rempart.settings.sections import Pool, Toleration
from rempart.sovereignty import pool_pods
from rempart.sovereignty.pods import REGION, settle
from rempart.training.kubernetes import pod
from rempart.training.kubernetes.facts import Node, PoolFacts, PoolFinding, Unknown, tolerates, unseen

GRANT = (
    "Apply the overlay of {} again, which grants this right: `kubectl apply -k OVERLAY` (deploy/kubernetes/README.md)."
)
_GRANT = "Apply the ClusterRole, which grants this right: `kubectl apply -k deploy/kubernetes/cluster`."
_PROVIDERS = {
    "aws": ("aws", "aws-eusc"),
    "azure": ("azure", "bleu"),
    "gce": ("google-cloud", "s3ns"),
    "oci": ("oracle-cloud",),
    "hcloud": ("hetzner",),
    "scaleway": ("scaleway",),
    "exoscale": ("exoscale",),
    "ionos": ("ionos",),
    "upcloud": ("upcloud",),
    "gridscale": ("gridscale",),
}
"""Operators whose machines a node's providerID names by its scheme (each cloud's controller manager writes it).
Schemes of software that many operators run (openstack, vsphere, kubevirt ...) say nothing about the operator."""


def unfit(pool: Pool, node: Node) -> tuple[str, ...]:
    """Return why a job of this pool cannot run on a node; empty if it can."""
    wanted = {REGION: pool.region} | pool.node_selector
    why = [
        f"{key} is {node.labels.get(key, 'not set')}" for key, value in wanted.items() if node.labels.get(key) != value
    ]
    for taint in node.taints:
        if taint[2] != "PreferNoSchedule" and not any(tolerates(toleration, taint) for toleration in pool.tolerations):
            why.append(f"taint {taint[0]}{f'={taint[1]}' if taint[1] else ''}:{taint[2]} is not tolerated")
    if pool.max_gpus and not node.gpus:
        why.append(f"it has no {pool.gpu}")
    return (*why, *(() if node.ready else ("it is not ready",)))


def kept_off(config: Config, name: str, node: Node) -> tuple[str, ...]:
    """Return why pods of a pool's jobs can never be bound to a node, by the pods' real spec; empty if they can.

    Temporary causes (a node that is not ready or has no free GPU) do not count.
    """
    declared = config.gpu_pools[name]
    spec = pool_pods.bare(declared, pod.CONTAINER)
    spec["containers"][0]["image"] = config.training.image or ""
    settle(config, name, spec)
    why = [
        f"{key} is {node.labels.get(key, 'not set')}"
        for key, value in (spec.get("nodeSelector") or {}).items()
        if node.labels.get(key) != value
    ]
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [
        [expression for expression in term["matchExpressions"] if _against(expression, node)]
        for term in required["nodeSelectorTerms"]
    ]
    if all(terms):
        why += [f"{term['key']} is {node.labels.get(term['key'], 'not set')}" for term in terms[0]]
    allowed = [Toleration.model_validate(toleration) for toleration in spec.get("tolerations") or ()]
    for taint in node.taints:
        if taint[2] != "PreferNoSchedule" and not any(tolerates(toleration, taint) for toleration in allowed):
            why.append(f"taint {taint[0]}:{taint[2]} is not tolerated")
    return tuple(dict.fromkeys(why))


def _against(expression: Mapping[str, Any], node: Node) -> bool:
    """Return whether a node's labels contradict an expression of the kind that `settle` writes."""
    return expression["operator"] == "In" and node.labels.get(expression["key"]) not in expression["values"]


def judge(config: Config, name: str, facts: PoolFacts) -> Iterator[PoolFinding]:
    pool = config.gpu_pools[name]
    if isinstance(facts.nodes, Unknown):
        yield unseen("nodes", facts.nodes, _GRANT)
        yield PoolFinding("gpus", "not run", "the nodes are unknown")
        return
    able = [node for node in facts.nodes if node.gpus or not pool.max_gpus]
    fit = [node for node in able if not unfit(pool, node)]
    region = pool.node_selector.get(REGION, pool.region)
    if not fit:
        seen = "; ".join(f"{node.name}: {', '.join(unfit(pool, node))}" for node in able[:3])
        none = f"none of {len(facts.nodes)} has {pool.gpu}" if facts.nodes else "the cluster has no nodes"
        remedy = (
            f"Check each condition. If a node is in {region}, label it: `kubectl label node NODE "
            f"{REGION}={region}`. If it has a taint, add the taint under tolerations. If it shows no GPU, install "
            "the device plugin. If nodes scale to 0, start a node."
        )
        yield PoolFinding("nodes", "FAIL", f"no node takes a job: {seen or none}", remedy)
    else:
        yield PoolFinding("nodes", "ok", f"{len(fit)} of {len(facts.nodes)} take jobs: {_names(fit)}")
    if fit and (abroad := [node for node in able if node.labels.get(REGION) != region]):
        regions = ", ".join(sorted({node.labels.get(REGION, "none") for node in abroad}))
        fact = f"{len(abroad)} of the GPU nodes are labelled {REGION}={regions}, not {region}: {_names(abroad)}"
        yield PoolFinding(
            "region", "warn", f"{fact}; jobs do not run on them", "Label them, or remove them from this pool."
        )
    yield from _operators(config, name, facts.nodes)
    yield from _gpus(pool, facts, fit)


def _operators(config: Config, name: str, nodes: tuple[Node, ...]) -> Iterator[PoolFinding]:
    """Yield nodes whose providerID names another operator: one line for unused nodes, one for each other node."""
    pool = config.gpu_pools[name]
    own = {pool.operator, *config.operators[pool.operator].services[pool.service].runs_on}
    kept: dict[str, list[str]] = {}
    for node in nodes:
        scheme = "oci" if node.provider_id.startswith("ocid1.") else node.provider_id.partition("://")[0]
        if not (named := _PROVIDERS.get(scheme)) or own & set(named):
            continue
        fact = f"node {node.name} is a machine of {named[0]} ({scheme}), not of {' or '.join(sorted(own))}"
        if why := kept_off(config, name, node):
            kept.setdefault(f"{named[0]}: {', '.join(why)}", []).append(node.name)
            continue
        remedy = (
            f"Keep jobs off the node: `kubectl taint node {node.name} rempart.eu/other-operator=:NoSchedule`. If "
            "the machine belongs to this pool, correct the pool's operator in rempart.yaml, because the policy "
            "decides by it."
        )
        yield PoolFinding("operator", "FAIL", f"{fact}, but jobs can run on it", remedy)
    for told, names in kept.items():
        fact = f"jobs do not run on {len(names)} nodes of another operator ({told}): {', '.join(names[:5])}"
        yield PoolFinding("operator", "ok", fact + (f" and {len(names) - 5} more" if len(names) > 5 else ""))


def _gpus(pool: Pool, facts: PoolFacts, fit: list[Node]) -> Iterator[PoolFinding]:
    if not pool.max_gpus:
        return
    together, largest = sum(node.gpus for node in fit), max((node.gpus for node in fit), default=0)
    found = f"{together} {pool.gpu} on them, {largest} on the largest"
    if isinstance(facts.used, Unknown):
        yield unseen("gpus", facts.used, GRANT.format(pool.namespace))
        return
    free = sum(max(node.gpus - facts.used.get(node.name, 0), 0) for node in fit)
    found += f"; {free} free as far as this namespace can see"
    most, where = (together, "them together") if pool.runtime else (largest, "one node")
    if not fit:
        yield PoolFinding(
            "gpus",
            "FAIL",
            found,
            "No node takes a job: see the check `nodes`, and run `kubectl get nodes --show-labels`.",
        )
    elif most < pool.max_gpus:
        remedy = f"Lower max_gpus to {most} (then `rempart config check`), or add larger nodes: a job is on {where}."
        yield PoolFinding("gpus", "FAIL", f"{found}, but max_gpus is {pool.max_gpus}", remedy)
    elif not free:
        yield PoolFinding(
            "gpus", "warn", found, "Wait for running jobs to end. After `max_pending` a job moves to the next pool."
        )
    else:
        yield PoolFinding("gpus", "ok", found)


def abroad(pool: Pool, node: Node) -> str:
    """Return a node's region if it is not the pool's; empty if it is."""
    region, found = pool.node_selector.get(REGION, pool.region), node.labels.get(REGION)
    return "" if found == region else f"{REGION} is {found or 'not set'}, not {region}"


def _names(nodes: Iterable[Node]) -> str:
    names = [node.name for node in nodes]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
