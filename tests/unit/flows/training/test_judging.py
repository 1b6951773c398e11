"""What a judgement takes into account besides the gate's rules: other decisions, and a champion of another kind."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from rempart.errors import ModelRefused
from rempart.flows.shared.platform import Platform
from rempart.flows.training import validate as flow
from rempart.flows.training.explained.gather import rule_of
from rempart.models.encoding import Feature
from rempart.models.gates.verdict import GateVerdict
from rempart.settings import pipelines
from rempart.settings.evaluation.splits import Holdout
from tests.switchovers import in_memory

NAME = "hotel_bookings"
PIPELINE = pipelines.with_model(pipelines.named(NAME))


class Judging:
    """A platform in memory with champion 1, on which version 2 passes. `measured`: called while it is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.platform, self.targets = in_memory(), {"1": "a", "2": "a"}
        self.measured: Callable[[], object] = object
        self.promoted = list[str]()
        self.decide("1")
        shown = SimpleNamespace(candidate={"mae": 9.0}, baseline={"mae": 19.0}, champion=None)
        stands_in: dict[tuple[Any, str], Any] = {
            (Platform, "tracking"): lambda own: None,
            (Platform, "active_site"): lambda own, *given: None,
            (flow.champions, "settle"): lambda tracking, ledger, name, now: self.settled(lost=False),
            (flow.openings, "record"): lambda *given: None,
            (flow, "_record"): lambda ledger, name, version: self.record(version),
            (flow, "_rows"): lambda *given: (None, None),
            (flow.loading, "load"): lambda *given: SimpleNamespace(ignored_line="", features=(), predict=None),
            (flow, "show"): lambda judged: [self.measured(), shown][1],
            (flow, "judge"): lambda shown, gate: GateVerdict(True, ("passed: mae",)),
            (flow, "_cause"): lambda *given: None,
            (flow, "draft_faults"): lambda name: (),
            (flow.registry, "promote"): lambda tracking, name, version, *given: self.promoted.append(version),
            (flow.registry, "refuse"): lambda *given: None,
        }
        for (where, name), double in stands_in.items():
            monkeypatch.setattr(where, name, double)

    def settled(self, *, lost: bool) -> flow.champions.Settled:
        """MLflow's alias at the champion on record, or `lost`."""
        decisions = flow.decisions_on(self.platform.ledger, NAME)
        return flow.champions.Settled(None if lost else flow.succession(decisions)[-1], decisions)

    def record(self, version: str) -> dict[str, Any]:
        dataset = {"sha256": "d", "held_out": {"sha256": "h", "examples": "e"}, "definitions": {}}
        target = Feature(self.targets[version], "number").as_json()
        made = {"name": NAME, "version": version, "job_id": "j", "model_id": "m", "task": "regression"}
        return {**made, "dataset": dataset, "target": target}

    def decide(self, version: str) -> None:
        self.platform.ledger.append("promotion", NAME, {"version": version, "previous": None, "reasons": []})


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> Judging:
    return Judging(monkeypatch)


def test_a_candidate_is_not_promoted_over_a_champion_that_it_was_not_compared_with(
    judging: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "_champions", lambda *given: (None, ""))

    def promotes_another() -> None:
        judging.decide("3")

    judging.measured = promotes_another
    with pytest.raises(ModelRefused, match="another decision was made while version 2 was judged"):
        flow.validate(judging.platform, PIPELINE, "2")
    assert not judging.promoted and len(judging.platform.ledger.find("promotion", NAME)) == 2
    judging.measured = object
    assert flow.validate(judging.platform, PIPELINE, "2").previous == "3"
    assert judging.promoted == ["2"]


def test_only_a_person_who_names_a_version_waives_the_comparison_and_the_reasons_say_so(judging: Judging) -> None:
    judging.targets["2"] = "b"
    refused = flow.validate(judging.platform, PIPELINE, "2", anew=True)
    assert not refused.promoted and "predicts another target, so the two cannot be compared" in refused.reasons[-1]
    named = flow.validate(judging.platform, PIPELINE, "2")
    assert named.promoted and named.reasons[-1] == (
        "not compared with the champion, version 1, which predicts another target: a person named this version"
    )


def test_a_champion_that_does_not_know_a_new_value_is_not_compared_and_stops_no_gate(
    judging: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judgement ended with the champion's error, whose remedy was to declare the value that was declared."""
    colour = Feature("own__colour", "category", ("red",))
    champion = SimpleNamespace(ignored_line="", features=(colour,), predict=None)
    held_out = pa.table({"own__colour": ["red", "green", None, "green"]})
    monkeypatch.setattr(flow.loading, "load", lambda *given: champion)
    monkeypatch.setattr(flow.loading, "lacks", lambda record: "")
    monkeypatch.setattr(flow, "_differing_inputs", lambda *given: "")
    monkeypatch.setattr(flow, "_rows", lambda *given: (None, held_out))
    refused = flow.validate(judging.platform, PIPELINE, "2", anew=True)
    assert not refused.promoted
    told = "does not know a value of feature 'own__colour' in 2 held-out rows, so the two cannot be compared"
    assert told in refused.reasons[-1] and "start validate_model_hotel_bookings in Airflow" in refused.reasons[-1]
    assert flow.validate(judging.platform, PIPELINE, "2").promoted


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"column": "day", "start": "2026-01-01"}, "from 2026-01-01 of day"),
        ({"column": "day", "last": "90d"}, "the last 90 days of day"),
        ({"column": "day", "last": "36h"}, "the last 36 hours of day"),
        ({"share": 0.2, "by": ["hotel", "room"]}, "20% of the groups by hotel, room"),
        ({"share": 0.15, "stratify": "target"}, "15% of the rows of each class"),
    ],
)
def test_a_model_card_tells_which_rows_were_held_out_whatever_the_rule(rule: dict[str, Any], told: str) -> None:
    assert rule_of(Holdout.model_validate(rule)) == told


def test_a_lost_alias_beside_an_altered_record_spares_no_candidate_the_comparison(
    judging: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alias stays away until a record decides (`champions.settle`); the champion on record is there to compare."""
    compared = list[str | None]()
    monkeypatch.setattr(flow.champions, "settle", lambda *given: judging.settled(lost=True))
    monkeypatch.setattr(flow, "_champions", lambda *given: [compared.append(given[3]), (None, "")][1])
    judged = flow.validate(judging.platform, PIPELINE, "2")
    assert compared == ["1"] and judged.previous == "1"
