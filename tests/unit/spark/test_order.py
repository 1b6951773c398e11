"""The contract of a Spark job: equal orders are the same job, and neither an order nor a result is taken on trust."""

import json

import pytest

from rempart.errors import SparkError
from rempart.settings.pipeline_sections import SparkResources
from rempart.spark.order import InputObject, MadeObject, SparkResult, SparkUsage, parse_order, parse_result
from tests.unit.spark.orders import INPUT, order

RESULT = SparkResult(
    order_id=order().order_id,
    status="succeeded",
    made=(MadeObject(role="part", key="spark/stays_test/x", sha256="b" * 64, bytes=9, rows=2),),
    facts={"accepted": 2},
    seconds={"work": 1.5},
    usage=SparkUsage(executors=2, cores=1, memory=512, tasks=4, spilled=7),
    decision="d" * 64,
)


def test_an_order_and_a_result_come_back_from_json_as_they_were() -> None:
    assert parse_order(order().to_json()) == order()
    assert parse_result(RESULT.to_json(), RESULT.order_id) == RESULT


def test_resources_and_permission_do_not_make_another_job_but_inputs_and_parameters_do() -> None:
    same = order(resources=SparkResources(executors=9), permission=None)
    assert same.order_id == order().order_id
    changed = INPUT.model_copy(update={"sha256": "c" * 64})
    others = [order(inputs=(changed,)), order(parameters={}), order(code_version="2"), order(do="training_set")]
    assert len({order().order_id, *(each.order_id for each in others)}) == 5


def test_an_altered_order_is_refused_without_its_values() -> None:
    body = json.loads(order().to_json())
    body["parameters"]["now"] = "secret-value"
    with pytest.raises(SparkError, match="was altered") as refused:
        parse_order(json.dumps(body))
    assert "secret-value" not in str(refused.value)


@pytest.mark.parametrize("body", ["", "[]", "nonsense", '{"version": 9}', '{"version": 1, "rows": NaN}'])
def test_what_is_no_order_of_this_version_is_refused(body: str) -> None:
    with pytest.raises(SparkError, match="read the order"):
        parse_order(body)


def test_a_result_of_another_job_is_refused() -> None:
    with pytest.raises(SparkError, match="belongs to job"):
        parse_result(RESULT.to_json(), "0" * 16)


def test_an_order_needs_the_definition_of_its_pipeline() -> None:
    with pytest.raises(ValueError, match="definition of the pipeline itself"):
        order(pipelines={"another": "{}"})


def test_inputs_and_objects_are_found_by_role() -> None:
    labels = InputObject(role="labels", bucket="lake", key="l", sha256="e" * 64)
    assert order(inputs=(INPUT, labels)).of_role("labels") == (labels,)
    assert RESULT.of_role("part") == RESULT.made and RESULT.of_role("quarantine") == ()
