"""Ask the pools for free GPUs when a job is ordered. A pool that does not answer at once counts as unknown."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from rempart.errors import RempartError
from rempart.flows.doctor.pool_cluster import Cluster, capacity
from rempart.settings.config import Config, Connections
from rempart.training.kubernetes.capacity import free_gpus
from rempart.training.kubernetes.facts import Unknown

logger = logging.getLogger(__name__)

SECONDS = 3.0
"""Seconds to wait for a pool: the answer only saves a wait in a full pool."""


def known_free(config: Config, connections: Connections, pools: Iterable[str], gpus: int) -> dict[str, int]:
    """Return the known free GPUs by pool, for pods of `gpus` each; report unknown pools. All pools are asked at once.

    Jobs without GPUs need no answer.
    """
    clusters: dict[str, Cluster] = {}
    found: dict[str, int] = {}
    if not gpus:
        return found

    def unknown(name: str, why: str) -> None:
        logger.warning("the free GPUs of pool '%s' are not known: %s", name, why)

    for name in pools:
        try:
            clusters[name] = Cluster(connections(config.gpu_pools[name].kubernetes_connection), SECONDS)
        except RempartError as error:
            unknown(name, error.what)
    with ThreadPoolExecutor(max(len(clusters), 1)) as threads:
        seen = threads.map(lambda name: capacity(clusters[name], config.gpu_pools[name]), clusters)
        for name, facts in zip(clusters, seen, strict=True):
            free = free_gpus(config.gpu_pools[name], gpus, facts)
            if isinstance(free, Unknown):
                unknown(name, free.why)
            else:
                found[name] = free
    return found
