"""Compute how many GPUs a pool is known to have free for jobs of one size. Pure; unknown stays unknown."""

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
        bounds = [left_of(one, key)[1] for one in facts.quotas if key in one.hard]
    except ValueError as error:
        return Unknown(f"the quota is not a count: {error}")
    if not pool.elastic:
        if isinstance(facts.nodes, Unknown):
            return facts.nodes
        if isinstance(facts.used, Unknown):
            return facts.used
        fit = [one for one in facts.nodes if one.gpus and not unfit(pool, one)]
        if not fit:
            return Unknown("none of its nodes takes jobs now, and nothing says that none will")
        free = [max(one.gpus - facts.used.get(one.name, 0), 0) for one in fit]
        bounds.append(sum(one // gpus * gpus for one in free))
    return min(bounds) if bounds else Unknown("no quota bounds its GPUs, and its operator adds nodes")


def too_small(pool: Pool, gpus: int, quotas: Iterable[Quota]) -> str:
    """Why a job of `gpus` in all can never fit the namespace's quotas; empty if it can, or that is not known."""
    key = f"requests.{pool.gpu}"
    for one in quotas:
        try:
            hard, _ = left_of(one, key)
        except (KeyError, ValueError):
            continue
        if gpus > hard:
            return f"the job never fits the quota {one.name}: it needs {gpus} {pool.gpu} in all, and {key} is {hard}"
    return ""
