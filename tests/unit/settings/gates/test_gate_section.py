"""The section `gate`: what is refused when the pipeline file is read, and what its short form stands for."""

import pytest
from pydantic import ValidationError

from rempart.settings.gates.gate import Cost
from rempart.settings.gates.rules import BaselineRule, ChampionRule, LeakageRule, LimitRule
from rempart.settings.pipeline import Gate, ModelPipeline
from tests.unit.training import stage


def read(task="regression", values=None, **gate) -> ModelPipeline:
    given = stage.definition("stays", task)
    given["gate"] = {**given["gate"], **gate}
    if values:
        given["schema"]["season"] = values
    return ModelPipeline.model_validate(given)


def faults(task="regression", values=None, **gate) -> str:
    with pytest.raises(ValidationError) as caught:
        read(task, values, **gate)
    return str(caught.value)


def test_the_short_form_stands_for_three_rules():
    gate = read(confidence=0.9, baseline_margin=0.2, champion_tolerance=0.05).gate
    assert gate.all_rules() == (
        LimitRule(metric="mae", limit=12),
        BaselineRule(metric="mae", margin=0.2, confidence=0.9),
        ChampionRule(metric="mae", tolerance=0.05, confidence=0.9),
        LeakageRule(limit=0.98, allow=[]),
    )
    assert gate.metrics() == ("mae",)


def test_rules_are_asked_besides_and_name_their_metrics():
    rules = [
        {"kind": "beats_champion", "metric": "brier"},
        {"kind": "calibration", "limit": 0.05},
        {"kind": "subgroups", "columns": ["room", "breakfast", "arrival.month"], "intersections": 2, "ratio": 1.5},
        {"kind": "excluded_features", "columns": ["agent", "stay__lead"]},
        {"kind": "stability", "limit": 0.1},
    ]
    rules.append({"kind": "leakage", "allow": ["stay__lead"]})
    gate = read("classification", rules=rules).gate
    assert gate.leakage() == gate.all_rules()[-1] == LeakageRule(allow=["stay__lead"])
    assert gate.metrics() == ("log_loss", "brier", "calibration_error")
    costly = gate.model_copy(update={"cost": Cost(false_positive=1, false_negative=8)})
    assert costly.metrics()[-1] == "cost", "who says what errors cost, sees what they cost"
    assert gate.grouping_columns() == ("agent", "room", "breakfast", "arrival")
    assert Gate.model_validate(gate.model_dump(mode="json")) == gate


@pytest.mark.parametrize(
    ("task", "gate", "why"),
    [
        (
            "regression",
            {"metric": "pr_auc"},
            "gate.metric: 'pr_auc' is not a metric of a regression; those are mae, rmse",
        ),
        ("regression", {"metric": "cost"}, "gate.metric: 'cost' needs `gate.cost`"),
        ("regression", {"cost": {"false_positive": 1, "false_negative": 2}}, "gate.cost: a regression takes `under`"),
        ("classification", {"cost": {"under": 1, "over": 2}}, "a classification takes `false_positive`"),
        ("classification", {"cost": {"false_positive": 1, "false_negative": 2}}, "the target has 3 classes"),
        ("classification", {"positive": "dear"}, "gate.positive: only a target of two classes"),
        ("regression", {"positive": "dear"}, "gate.positive: only a target of two classes"),
        ("regression", {"cost": {"under": 1}}, "give either `false_positive` and `false_negative`, or"),
        ("regression", {"cost": {"under": 0, "over": 0}}, "one of the two costs must be more than 0"),
        ("regression", {"rules": [{"kind": "calibration", "limit": 0.1}]}, "gate.rules, entry 1: calibration is of"),
        ("regression", {"rules": [{"kind": "limit", "metric": "f1", "limit": 1}]}, "gate.rules, entry 1.metric: 'f1'"),
        ("regression", {"rules": [{"kind": "fair"}]}, "does not match any of the expected tags"),
        (
            "regression",
            {"rules": [{"kind": "subgroups", "columns": ["agent"], "ratio": 2}]},
            "gate.rules, entry 1.columns: column 'agent' must be category or boolean, but it is string",
        ),
        (
            "regression",
            {"rules": [{"kind": "subgroups", "columns": ["room"], "ratio": 2, "intersections": 2}]},
            "gate.rules, entry 1.intersections: 2 is more than the columns that are named",
        ),
        (
            "regression",
            {"rules": [{"kind": "subgroups", "columns": ["arrival.decade"], "ratio": 2}]},
            "'decade' is not a calendar part",
        ),
        (
            "regression",
            {"rules": [{"kind": "excluded_features", "columns": ["agents"]}]},
            "column 'agents' is not in the schema (did you mean 'agent'?)",
        ),
    ],
)
def test_a_gate_that_cannot_be_asked_is_refused_when_the_file_is_read(task, gate, why):
    assert why in faults(task, **gate)


def test_of_two_classes_one_is_positive_and_costs_are_of_both():
    two = {"type": "category", "known": "booking", "values": ["cheap", "dear"]}
    cost = {"false_positive": 1, "false_negative": 10}
    gate = read("classification", two, metric="cost", cost=cost, positive="cheap", limit=1).gate
    assert gate.cost is not None and gate.cost.pair == (1, 10)
    assert "'fair' is no class of the target" in faults("classification", two, positive="fair")
