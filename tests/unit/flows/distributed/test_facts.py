"""Whatever a job tells as facts, it is read as declared or refused by the name of the job, without its values."""

from __future__ import annotations

import json as plain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import SparkError
from rempart.flows.distributed import facts
from rempart.flows.distributed.facts import IngestFacts, PartFacts, RefusedFacts, TrainingSetFacts
from rempart.spark.order import MadeObject, SparkResult, parse_result

ID, SHA256 = "0123456789abcdef", "a" * 64
DELIVERY = {"good": 3, "judged": 4, "refused": 1, "fault": None, "replaced": 0, "repeated": 0}
PARTITION = {"had": [0, SHA256], "has": [3, SHA256], "whole": False}
GOOD = {"deliveries": [DELIVERY], "held": [0], "partitions": {"2026-01": PARTITION}}
json = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*GOOD, *DELIVERY, *PARTITION, "examples", "labels", "missing", "inexact", "partition"])


def result(told: dict[str, Any], of_object: dict[str, Any] | None = None) -> SparkResult:
    made = MadeObject(role="part", key="k", sha256=SHA256, bytes=1, rows=1, facts=of_object or {})
    return SparkResult(order_id=ID, status="succeeded", made=(made,), facts=told, decision=SHA256)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, json, max_size=4), st.dictionaries(names, json, max_size=2))
def test_facts_are_read_or_refused_by_the_name_of_the_job(told: dict[str, Any], of_object: dict[str, Any]) -> None:
    found = result(told, of_object)
    for read in (
        lambda: facts.ingested(found, 1),
        lambda: facts.of_result(TrainingSetFacts, found),
        lambda: facts.of_object(PartFacts, found, found.made[0]),
        lambda: facts.of_object(RefusedFacts, found, found.made[0]),
    ):
        try:
            read()
        except SparkError as error:
            assert f"the result of job {ID}" in error.what


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_document_with_anything_in_its_place_is_read_or_refused_by_the_name_of_the_job(data: st.DataObject) -> None:
    document = plain.loads(result(GOOD, {"delivery": 0}).to_json())
    where: Any = document
    for _ in range(data.draw(st.integers(0, 4))):  # down to some field, or entry
        inner = [key for key in (where if isinstance(where, dict) else range(len(where))) if where[key]]
        deeper = [key for key in inner if isinstance(where[key], dict | list)]
        if not deeper:
            break
        where = where[data.draw(st.sampled_from(deeper))]
    key = data.draw(st.sampled_from([*where] if isinstance(where, dict) else [*range(len(where))]))
    if isinstance(where, dict) and data.draw(st.booleans()):
        del where[key]
    else:
        where[key] = data.draw(json)
    try:
        read = parse_result(plain.dumps(document), ID)
        facts.ingested(read, 1)
        for made in read.made:
            facts.of_object(RefusedFacts, read, made)
    except SparkError as error:
        assert f"the result of job {ID}" in error.what and error.hint


@given(st.data())
def test_one_wrong_value_of_an_ingestion_is_refused(data: st.DataObject) -> None:
    wrong = data.draw(
        st.sampled_from(
            [
                {"deliveries": []},
                {"deliveries": [DELIVERY | {data.draw(st.sampled_from([*DELIVERY])): "Jeanne"}] * 2},
                {"deliveries": [{**DELIVERY, "good": -1}]},
                {"held": [1]},
                {"held": ["Jeanne"]},
                {"partitions": {"2026-01": PARTITION | {"had": [1, "Jeanne"]}}},
                {"partitions": {"2026-01": {"had": [1, SHA256]}}},
                {"more": 1},
            ]
        )
    )
    with pytest.raises(SparkError, match=f"job {ID}: its facts") as refused:
        facts.ingested(result(GOOD | wrong), 1)
    assert "Jeanne" not in str(refused.value)


def test_facts_of_an_ingestion_are_read_as_told() -> None:
    found = facts.ingested(result(GOOD), 1)
    assert isinstance(found, IngestFacts) and found.held == {0}
    assert found.deliveries[0].good == 3 and found.partitions["2026-01"].has == (3, SHA256)
