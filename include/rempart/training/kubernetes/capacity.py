"""Compute how many GPUs of a pool are known to be free for jobs of one size. Pure; unknown stays unknown."""

from __future__ import annotations

from collections.abc import Iterable

from rempart.settings.sections import Pool
from rempart.training.kubernetes.doctor_nodes import unfit
from rempart.training.kubernetes.facts import PoolFacts, Quota, Unknown, left_of


def free_gpus(pool: Pool, gpus: int, facts: PoolFacts) -> int | Unknown:
    """Return the maximum of GPUs that pods of `gpus` each could get now; use by other namespaces is not visible.

    Limited by the namespace's quotas and by the nodes, unless the pool is elastic: there, full nodes say nothing. A
    pool whose nodes take no jobs is unknown for the same reason.
    """
    if isinstance(facts.quotas, Unknown):
        return facts.quotas
    key = f"requests.{pool.gpu}"
    try:
        bounds = [left_of(quota, key)[1] for quota in facts.quotas if key in quota.hard]
    except ValueError as error:
        return Unknown(f"the quota is not a count: {error}")
    if not pool.elastic:
        if isinstance(facts.nodes, Unknown):
            return facts.nodes
        if isinstance(facts.used, Unknown):
            return facts.used
        fit = [node for node in facts.nodes if node.gpus and not unfit(pool, node)]
        if not fit:
            return Unknown("no node takes jobs now, and this may change")
        free = [max(node.gpus - facts.used.get(node.name, 0), 0) for node in fit]
        bounds.append(sum(count // gpus * gpus for count in free))
    return min(bounds) if bounds else Unknown("no quota limits its GPUs, and its operator adds nodes")


def too_small(pool: Pool, gpus: int, quotas: Iterable[Quota]) -> str:
    """Return why a job of `gpus` in all can never fit the namespace's quotas; empty if it can, or if that is
    unknown.
    """
    key = f"requests.{pool.gpu}"
    for quota in quotas:
        try:
            hard, _ = left_of(quota, key)
        except (KeyError, ValueError):
            continue
        if gpus > hard:
            return f"the job never fits the quota {quota.name}: it needs {gpus} {pool.gpu} in all, but {key} is {hard}"
    return ""
