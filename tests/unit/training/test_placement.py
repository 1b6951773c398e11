"""Placement: never in a pool that the policy denies, each pool once a round, always continued from the record."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.settings.config import Config
from rempart.training.placement import (
    Attempt,
    GiveUp,
    Outcome,
    Plan,
    Request,
    Resume,
    Start,
    Wait,
    next_step,
    plan,
)
from rempart.training.waiting import Waiting

TODAY = date(2026, 11, 1)
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
IMAGE = f"registry.example.eu/rempart/trainer@sha256:{'a' * 64}"
OPERATORS = {
    "eu": {"jurisdiction": "FR", "owner_jurisdiction": "FR", "regions": {"par": {"country": "FR"}}},
    "us": {"jurisdiction": "US", "owner_jurisdiction": "US", "regions": {"par": {"country": "FR"}}},
}


def config(**pools: dict[str, Any]) -> Config:
    kinds = ("managed-kubernetes", "object-storage", "container-registry")
    operators = {
        name: facts | {"as_of": "2026-10-01", "services": {kind: {"runs_on": name} for kind in kinds}}
        for name, facts in OPERATORS.items()
    }
    made = {
        name: {"operator": "eu", "region": "par", "kubernetes_connection": f"k8s_{name}", "namespace": name} | pool
        for name, pool in pools.items()
    }
    everywhere = {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]}
    keep = {"raw": "1d", "quarantine": "1d", "snapshots": "1d"}
    return Config.model_validate(
        {
            "operators": operators,
            "sites": {"home": {"operator": "eu", "region": "par", "connection": "s3_home"}},
            "active_site": "home",
            "machine": {"operator": "eu", "service": "object-storage", "region": "par"},
            "policy": {"personal": everywhere},
            "retention": {"personal": keep},
            "registries": {"registry.example.eu": {"operator": "eu", "region": "par"}},
            "gpu_pools": made,
            "backup": {"site": "home"},
            "training": {"backend": "kubernetes", "image": IMAGE},
        }
    )


def planned(settings: Config, order: tuple[str, ...] | None = None, gpus: int = 1, **free: int) -> Plan:
    request = Request("personal", gpus, timedelta(hours=2), tuple(settings.gpu_pools) if order is None else order)
    return plan(settings, request, on=TODAY, free=free)


def test_a_pool_of_a_us_owned_operator_is_never_asked_and_the_plan_says_why() -> None:
    found = planned(config(a={}, b={"operator": "us", "max_gpus": 8}))
    assert [option.pool for option in found.options] == ["a"]
    assert [excluded.pool for excluded in found.excluded] == ["b"]
    assert any("owner" in reason for reason in found.excluded[0].reasons)
    assert "pool b is never tried" in "\n".join(found.lines())


def test_the_plan_says_what_it_costs_at_most() -> None:
    found = planned(config(a={"price_per_gpu_hour": 1.5, "max_gpus": 4}, b={"max_gpus": 4}), gpus=2)
    assert [option.euros_at_most for option in found.options] == [6.0, None]
    assert "at most 6.00 EUR" in "\n".join(found.lines())


def test_the_plan_says_how_long_jobs_waited_and_what_is_not_known_as_such() -> None:
    settings = config(a={}, b={})
    request = Request("personal", 1, timedelta(hours=2), ("a", "b"))
    found = plan(settings, request, on=TODAY, waiting={"a": Waiting(2400, 20)})
    waits = [line.strip() for line in found.lines() if line.strip().startswith("wait")]
    assert waits == ["wait about 40 min by the last 20 jobs", "wait unknown: no job that it took is recorded"]
    assert [option.pool for option in found.options] == ["a", "b"]  # it changes no order
    assert found.as_json()["options"][0]["waiting"] == {"seconds": 2400, "jobs": 20}


def test_a_pool_known_to_be_full_is_asked_after_the_others() -> None:
    settings = config(a={}, b={}, c={})
    assert [option.pool for option in planned(settings, a=0, b=3).options] == ["b", "c", "a"]
    assert [option.pool for option in planned(settings, order=("c", "a")).options] == ["c", "a"]


@pytest.mark.parametrize(("pool", "why"), [({"max_gpus": 1}, "max_gpus"), ({"max_gpus": 4, "quota": 1}, "quota")])
def test_a_pool_that_can_never_give_enough_is_not_asked(pool: dict[str, Any], why: str) -> None:
    found = planned(config(a=pool), gpus=2)
    assert not found.options
    assert why in found.excluded[0].reasons[0]


@given(
    nodes=st.integers(1, 9),
    gpus=st.integers(0, 5),
    most=st.integers(0, 12),
    quota=st.none() | st.integers(0, 12),
    runtime=st.booleans(),
)
def test_a_pool_takes_several_nodes_by_its_runtime_and_counts_all_of_them(
    nodes: int, gpus: int, most: int, quota: int | None, runtime: bool
) -> None:
    pool = {"max_gpus": most, "quota": quota, "price_per_gpu_hour": 1.5, "runtime": "rempart" if runtime else None}
    found = plan(config(a=pool), Request("personal", gpus, timedelta(hours=2), ("a",), nodes), on=TODAY)
    fits = nodes * gpus <= (most if quota is None else min(most, quota))
    assert bool(found.options) == (fits and (runtime or nodes == 1))
    if found.options:
        (option,) = found.options
        assert (option.nodes, option.gpus, option.euros_at_most) == (nodes, gpus, 3.0 * nodes * gpus)
        assert (f"{nodes} nodes with {gpus} GPU each" in "\n".join(found.lines())) == (nodes > 1)
    else:
        reasons = " ".join(found.excluded[0].reasons)
        assert ("gpu_pools.a.runtime" in reasons) == (nodes > 1 and not runtime)


def test_a_pool_with_too_few_free_for_all_nodes_is_asked_after_the_others() -> None:
    both = {"runtime": "rempart", "max_gpus": 8}
    asked = Request("personal", 2, timedelta(hours=2), ("a", "b"), 3)
    found = plan(config(a=both, b=both), asked, on=TODAY, free={"a": 4, "b": 6})
    assert [option.pool for option in found.options] == ["b", "a"]


def test_a_pool_pulls_from_its_own_registry() -> None:
    settings = config(a={}, b={"registry": "registry.example.eu"})
    assert [option.image for option in planned(settings).options] == [IMAGE, IMAGE]


def step(found: Plan, attempts: list[Attempt], now: datetime = NOON, since: datetime = NOON) -> Any:
    return next_step(found, attempts, now=now, since=since, deadline=DAY, pause=MINUTE)


def attempt(number: int, pool: str, outcome: Outcome | None = "capacity", at: datetime = NOON) -> Attempt:
    return Attempt(number, pool, at, outcome, None if outcome is None else at, "Insufficient nvidia.com/gpu")


def test_each_pool_once_then_a_pause_then_round_again() -> None:
    found = planned(config(a={}, b={}))
    first = step(found, [])
    assert isinstance(first, Start) and (first.number, first.option.pool) == (1, "a")
    second = step(found, [attempt(1, "a")])
    assert isinstance(second, Start) and (second.number, second.option.pool) == (2, "b")
    full = [attempt(1, "a"), attempt(2, "b")]
    waiting = step(found, full)
    assert isinstance(waiting, Wait) and waiting.until == NOON + MINUTE and waiting.round == 2
    assert "a: capacity (Insufficient nvidia.com/gpu)" in waiting.why
    again = step(found, full, now=NOON + MINUTE)
    assert isinstance(again, Start) and (again.number, again.option.pool) == (3, "a")
    # the pause of the second round is twice as long
    later = step(found, [*full, attempt(3, "a"), attempt(4, "b")])
    assert isinstance(later, Wait) and later.until == NOON + 2 * MINUTE


def test_an_attempt_that_is_on_is_resumed_whoever_asks() -> None:
    found = planned(config(a={}, b={}))
    on = step(found, [attempt(1, "a"), attempt(2, "b", None)], now=NOON + 3 * DAY)
    assert isinstance(on, Resume) and on.attempt.number == 2


def test_the_deadline_ends_the_search_and_tells_each_pools_answer() -> None:
    found = planned(config(a={}, b={"operator": "us"}))
    ended = step(found, [attempt(1, "a")], now=NOON + DAY)
    assert isinstance(ended, GiveUp)
    assert "a: capacity" in ended.why and "b: not allowed" in ended.why


def test_a_pool_whose_node_was_refused_is_not_asked_again() -> None:
    found = planned(config(a={}, b={}))
    assert step(found, [attempt(1, "a", "denied")]).option.pool == "b"
    assert step(found, [attempt(1, "a", "denied"), attempt(2, "b")], now=NOON + DAY / 2).option.pool == "b"
    nowhere = step(found, [attempt(1, "a", "denied"), attempt(2, "b", "denied")])
    assert isinstance(nowhere, GiveUp) and nowhere.denied


def test_after_a_failure_that_somebody_cleared_the_first_pool_is_asked_first() -> None:
    found = planned(config(a={}, b={}))
    assert step(found, [attempt(1, "a"), attempt(2, "b", "failed")]).option.pool == "a"


OUTCOMES = st.sampled_from(["capacity", "interrupted", "unreachable", "denied", "failed", "ended"])


@given(st.lists(st.tuples(st.sampled_from("abcx"), OUTCOMES), max_size=12), st.integers(0, 3000))
def test_whatever_happened_only_admitted_pools_are_started_with_the_next_number(
    happened: list[tuple[str, Outcome]], minutes: int
) -> None:
    found = planned(config(a={}, b={}, c={}, x={"operator": "us"}))
    attempts = [attempt(i, pool, outcome) for i, (pool, outcome) in enumerate(happened, start=1)]
    came = step(found, attempts, now=NOON + minutes * MINUTE)
    refused = {tried.pool for tried in attempts if tried.outcome == "denied"}
    if isinstance(came, Start):
        assert came.number == len(attempts) + 1
        assert came.option.pool in {"a", "b", "c"} - refused
        assert minutes < 24 * 60
    elif isinstance(came, Wait):
        assert came.until > NOON + minutes * MINUTE or minutes == 0
        assert came.until <= NOON + DAY
    else:
        assert minutes >= 24 * 60 or {"a", "b", "c"} <= refused


@given(st.lists(OUTCOMES, min_size=3, max_size=3))
def test_within_a_round_no_pool_is_asked_twice(outcomes: list[Outcome]) -> None:
    found = planned(config(a={}, b={}, c={}))
    attempts: list[Attempt] = []
    for outcome in [outcome if outcome != "failed" and outcome != "ended" else "capacity" for outcome in outcomes]:
        came = step(found, attempts)
        assert isinstance(came, Start)
        assert came.option.pool not in {tried.pool for tried in attempts}
        attempts.append(replace(attempt(came.number, came.option.pool), outcome=outcome))


def test_pools_that_the_policy_excludes_are_excluded_whatever_is_free() -> None:
    found = planned(config(a={}, x={"operator": "us"}), x=100, a=0)
    assert [option.pool for option in found.options] == ["a"]
