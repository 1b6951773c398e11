"""Known free capacity of a pool: limited by quota and nodes, and unknown if any part was not seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.sections import Pool
from rempart.sovereignty.pods import REGION
from rempart.training.kubernetes.capacity import free_gpus, too_small
from rempart.training.kubernetes.facts import Node, PoolFacts, Quota, Unknown

GPU = "nvidia.com/gpu"
REFUSED = Unknown("403: forbidden", 403)


def pool(**told: Any) -> Pool:
    place = {"operator": "fr", "region": "par", "kubernetes_connection": "k8s", "namespace": "training"}
    return Pool.model_validate(place | told)


def quota(left: int, used: int = 3) -> Quota:
    key = f"requests.{GPU}"
    return Quota("gpus", {key: str(used + left)}, {key: str(used)})


def facts(*gpus: int, quotas: tuple[Quota, ...] = (), used: dict[str, int] | None = None) -> PoolFacts:
    nodes = tuple(Node(f"n{number}", {REGION: "par"}, count) for number, count in enumerate(gpus))
    return PoolFacts(quotas=quotas, nodes=nodes, used=used or {})


@pytest.mark.parametrize(
    ("asked", "seen", "expected"),
    [
        (1, facts(2, 2), 4),
        (1, facts(2, 2, used={"n0": 2}), 2),
        (1, facts(2, used={"n0": 2}), 0),
        (4, facts(2, 2), 0),  # four are free, and no node has four
        (2, facts(3, 3), 4),
        (1, facts(8, quotas=(quota(1), quota(5))), 1),
        (1, facts(1, quotas=(quota(5),)), 1),
        (1, facts(2, quotas=(Quota("cpu only", {"requests.cpu": "4"}, {}),)), 2),
    ],
)
def test_quota_and_nodes_bound_what_is_free(asked: int, seen: PoolFacts, expected: int) -> None:
    assert free_gpus(pool(), asked, seen) == expected


def test_nodes_that_take_no_job_of_the_pool_have_nothing_free() -> None:
    elsewhere = Node("abroad", {REGION: "east"}, 8)
    down = Node("down", {REGION: "par"}, 8, ready=False)
    tainted = Node("tainted", {REGION: "par"}, 8, taints=((GPU, "", "NoSchedule"),))
    seen = replace(facts(1), nodes=(*facts(1).nodes, elsewhere, down, tainted))  # type: ignore[misc]
    assert free_gpus(pool(), 1, seen) == 1


@pytest.mark.parametrize(
    "seen",
    [
        replace(facts(2), quotas=REFUSED),
        replace(facts(2), nodes=REFUSED),
        replace(facts(2), used=REFUSED),
        facts(),  # nodes may be added
        facts(2, quotas=(Quota("odd", {f"requests.{GPU}": "many"}, {}),)),
    ],
)
def test_what_was_not_seen_stays_unknown(seen: PoolFacts) -> None:
    assert isinstance(free_gpus(pool(), 1, seen), Unknown)


def test_full_nodes_of_an_elastic_pool_say_nothing_and_its_quota_does() -> None:
    full = facts(2, used={"n0": 2})
    assert free_gpus(pool(), 1, full) == 0
    assert isinstance(free_gpus(pool(elastic=True), 1, full), Unknown)
    assert free_gpus(pool(elastic=True), 1, replace(full, quotas=(quota(3),))) == 3


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.integers(0, 8),
    st.integers(1, 4),
    st.none() | st.integers(0, 20),
)
def test_never_more_than_there_is_and_always_whole_pods(
    gpus: list[int], used: int, asked: int, left: int | None
) -> None:
    seen = facts(*gpus, used={"n0": used}, quotas=() if left is None else (quota(left),))
    free = free_gpus(pool(), asked, seen)
    if isinstance(free, Unknown):
        assert not any(gpus)
        return
    assert 0 <= free <= max(sum(gpus) - min(used, gpus[0]), 0)
    assert free % asked == 0 or free == left


@pytest.mark.parametrize(
    ("gpus", "quotas", "hard"),
    [
        (4, (quota(1),), None),
        (5, (quota(1),), 4),
        (5, (quota(9), quota(1)), 4),
        (5, (Quota("cpu only", {"requests.cpu": "4"}, {}),), None),
        (5, (Quota("not a count", {f"requests.{GPU}": "many"}, {}),), None),
    ],
)
def test_a_job_never_fits_a_quota_that_is_smaller_whatever_is_used(
    gpus: int, quotas: tuple[Quota, ...], hard: int | None
) -> None:
    why = too_small(pool(), gpus, quotas)
    assert why == (
        ""
        if hard is None
        else f"the job never fits the quota gpus: it needs {gpus} {GPU} in all, but requests.{GPU} is {hard}"
    )
