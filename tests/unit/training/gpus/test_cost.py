"""The cost of a job is what the cluster's times and the contract say, and nothing is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from rempart.settings.sections import Pool
from rempart.training.gpus.cost import NOTHING_SPENT, carbon, cost, spent


def pool(**changes: Any) -> Pool:
    place = {"operator": "eu", "region": "par", "kubernetes_connection": "k8s", "namespace": "n"}
    return Pool.model_validate({**place, "price_per_gpu_hour": 2.5, **changes})


RAN = {"pool": "a", "gpus": 2, "seconds": 1800.0}


def test_every_attempt_that_got_a_node_is_paid_for() -> None:
    found = cost({"a": pool(), "b": pool(price_per_gpu_hour=1.0)}, [RAN, {"pool": "b", "gpus": 1, "seconds": 3600}])
    assert (found.euros, found.gpu_seconds, found.attempts, found.complete) == (3.5, 7200.0, 2, True)
    assert found.figures() == {"cost_eur": 3.5, "gpu_seconds": 7200.0}


@pytest.mark.parametrize(
    ("attempt", "pools", "why"),
    [
        ({"pool": "a", "gpus": 1}, {"a": pool()}, "did not tell how long"),
        (RAN, {"a": pool(price_per_gpu_hour=None)}, "price_per_gpu_hour is not declared"),
        ({**RAN, "pool": "gone"}, {"a": pool()}, "price_per_gpu_hour is not declared"),
    ],
)
def test_what_is_not_known_is_named_and_no_figure(attempt: dict[str, Any], pools: dict[str, Pool], why: str) -> None:
    found = cost(pools, [attempt])
    assert not found.complete and why in found.unknown[0] and found.figures() == {} and found.euros == 0


def test_a_declared_price_of_nothing_is_a_cost_of_nothing() -> None:
    assert cost({"a": pool(price_per_gpu_hour=0)}, [RAN]).figures() == {"cost_eur": 0.0, "gpu_seconds": 3600.0}


def test_carbon_is_told_only_if_the_pool_declares_it_and_the_gpus_told_their_energy() -> None:
    declared = pool(carbon_grams_per_kwh=50.0)
    assert carbon(declared, 7_200_000.0) == {"grams": 100.0, "grams_per_kwh": 50.0, "of": "energy of the GPUs"}
    assert carbon(pool(), 7_200_000.0) is None and carbon(declared, None) is None and carbon(None, 1.0) is None


def test_what_a_job_spent_has_both_and_a_job_beside_airflow_spends_nothing_that_is_known() -> None:
    found = spent({"a": pool(carbon_grams_per_kwh=50.0)}, [RAN], 3_600_000.0)
    assert found.figures() == {"cost_eur": 2.5, "gpu_seconds": 3600.0, "carbon_grams": 50.0}
    assert spent({}, [], None) is NOTHING_SPENT and NOTHING_SPENT.figures() == {}
