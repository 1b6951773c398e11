"""Trials of a search in pods: the mapped operator names its clusters to the policy, and each has its own order."""

import pytest

from tests import pods
from tests.unit.training import stage


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    monkeypatch.setenv("REMPART_HOME", str(pods.project(tmp_path / "home")))
    from airflow.sdk import DAG

    from rempart.orchestration.training import trial_pod

    pipeline = stage.pipeline()
    monkeypatch.setattr(trial_pod.runtime, "model_pipeline", lambda name: {pipeline.name: pipeline}[name])
    with DAG("search_stays_test", schedule=None):
        partial = trial_pod.TrialPodOperator.partial(
            task_id="trial_1", pipeline=pipeline.name, **trial_pod.clusters_of(pipeline)
        )
        return partial.expand(order=[{"bucket": "artifacts", "key": "jobs/1/order.json"}])


def test_the_policy_sees_every_cluster_that_a_trial_may_use(mapped):
    from rempart.orchestration.policies.dag_facts import task_facts

    facts = task_facts(mapped)
    named = {connection.value for connection in facts.connections}
    assert named == {f"k8s_{name.replace('-', '_')}" for name in pods.POOLS if name != "gpu-us"}
    assert [image.value for image in facts.images] == [pods.image()]


def test_each_trial_is_an_operator_with_its_own_order(mapped):
    operator = mapped.unmap({"order": {"bucket": "artifacts", "key": "jobs/2/order.json"}})
    assert operator.pipeline == "stays_test" and operator.order["key"] == "jobs/2/order.json" and operator.deferrable
