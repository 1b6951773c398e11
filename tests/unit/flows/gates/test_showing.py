"""What a candidate shows: as much as its gate asks, measured on the held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from rempart.flows.gates.showing import ChampionAnswers, JudgedCandidate, reads, show
from rempart.flows.training import labelled
from rempart.flows.training.train import target_feature
from rempart.models import predictions
from rempart.models.encoding import encode, features_of
from rempart.models.gates.candidate_figures import CandidateFigures
from rempart.models.gates.thresholds import OperatingPoint
from rempart.models.gates.verdict import judge
from rempart.settings.pipeline import Gate, ModelPipeline
from tests.unit.training import late, stage

PIPELINE = late.pipeline()
ROWS = labelled.split(PIPELINE, late.table())


@dataclass(frozen=True)
class Knows:
    """A model that knows the rule of the rows, but for the islands."""

    features: Any
    size: int | None = 1000
    operating: OperatingPoint | None = None

    def figures(self, matrix: Any) -> Any:
        chance = 1 / (1 + np.exp(-(matrix[:, 0] + 40 * matrix[:, 1] - 75.0) / 4))
        return np.column_stack([1 - chance, chance]).astype(float) * 0.9 + 0.05

    def predict(self, table: pa.Table) -> pa.Table:
        return predictions.named("classification", TARGET, self.figures(encode(self.features, table)))


TARGET = target_feature(PIPELINE)
MODEL: Any = Knows(features_of(PIPELINE))


def shown(
    gate: Gate, holdout: pa.Table = ROWS.held_out, champion: Any = None, then: Any = None, model: Any = MODEL
) -> CandidateFigures:
    pipeline = PIPELINE.model_copy(update={"gate": gate})
    theirs = None if champion is None else ChampionAnswers(champion, then)
    return show(JudgedCandidate(pipeline, "classification", TARGET, model, ROWS.learn, holdout, theirs))


def gate(**changes: Any) -> Gate:
    return Gate.model_validate({"metric": "pr_auc", "limit": 0.5, "baseline_by": [], **changes})


def test_all_that_the_rules_ask_is_measured_and_the_islands_alone_refuse() -> None:
    found = shown(PIPELINE.gate)
    results = {result.rule: result for result in judge(found, PIPELINE.gate).results}
    assert {rule for rule, result in results.items() if result.outcome != "passed"} == {"subgroups"}
    assert "region=islands" in results["subgroups"].reason
    assert found.latency and found.latency > 0 and 0 < found.changes[0.01] < 0.05
    assert sum(band.rows for band in found.calibration) == ROWS.held_out.num_rows
    assert found.reads and found.reads.columns["delivery__load"] == {"load"} and not found.reads.unknown


def test_nothing_is_measured_that_no_rule_asks() -> None:
    found = shown(gate())
    assert set(found.candidate) == {"log_loss", "accuracy", "pr_auc"} and found.champion is None
    assert not found.samples and not found.subgroups and not found.changes
    assert found.latency is None and found.reads is None


def test_a_champion_that_predicts_the_same_is_not_beaten_by_chance() -> None:
    same = MODEL.figures(encode(MODEL.features, ROWS.held_out))
    rules = gate(rules=[{"kind": "beats_champion", "tolerance": 0}, {"kind": "beats_champion", "metric": "brier"}])
    found = shown(rules, champion=same)
    assert found.champion == found.candidate and judge(found, rules).passed
    better = shown(rules, champion=np.where(np.arange(len(same))[:, None] % 9 == 0, same[:, ::-1], same))
    assert judge(better, rules).passed and np.isfinite(better.samples["champion"]["brier"]).all()


def test_rows_without_the_column_of_a_subgroup_refuse_and_say_so() -> None:
    found = shown(PIPELINE.gate, ROWS.held_out.drop_columns(["region"]))
    (refused,) = [reason for reason in judge(found, PIPELINE.gate).reasons if reason.startswith("refused")]
    assert "have no column 'region', because it was trained before this rule" in refused


def test_a_feature_is_made_of_what_it_aggregates_and_of_its_groups() -> None:
    trend = {"kind": "trailing", "at": "booking", "by": ["agent"], "days": [30], "mean": ["lead"]}
    views = {**stage.definition()["features"], "trend": trend}
    made: ModelPipeline = stage.pipeline(features=views, expressions={"ratio": "stay.lead / stay.nights"})
    features = features_of(made)
    found = reads(made, features)
    assert not found.unknown and found.features == {feature.name for feature in features}
    (mean,) = [name for name in found.columns if name.startswith("trend__") and "mean" in name]
    assert found.columns[mean] == {"lead", "agent"}
    assert found.columns["stay__arrival_month"] == {"arrival"}
    assert [columns for name, columns in found.columns.items() if name.endswith("__ratio")] == [{"lead", "nights"}]
    other = (replace(features[0], definition="0" * 16), *features[1:])
    assert reads(made, other).unknown == {features[0].name}


def test_each_side_is_judged_by_the_answers_that_it_would_give() -> None:
    """The threshold is the version's own: as if each had been served."""
    costs = gate(metric="cost", limit=1.0, confidence=0.9, cost={"false_positive": 1, "false_negative": 4})
    same = MODEL.figures(encode(MODEL.features, ROWS.held_out))
    late_row, early = np.array(ROWS.held_out["late"].to_pylist()), OperatingPoint(positive=1, threshold=0.2)

    def cost(taken: Any) -> float:
        return float(((taken & ~late_row) + 4 * (~taken & late_row)).mean())

    found = shown(costs, champion=same, model=replace(MODEL, operating=early))
    assert found.candidate["cost"] == cost(same[:, 1] >= 0.2) and found.champion is not None
    assert found.champion["cost"] == cost(same[:, 1] > same[:, 0]) != found.candidate["cost"]
    spread = found.samples["candidate"]["cost"].std()
    assert abs(found.samples["candidate"]["cost"].mean() - found.candidate["cost"]) < spread
    assert abs(found.samples["champion"]["cost"].mean() - found.champion["cost"]) < spread
    then = shown(costs, champion=same, then=early)
    assert then.champion is not None and then.champion["cost"] == found.candidate["cost"]
    # more than a fifth of the rows are late, so the naive answer that costs least is always "late"
    assert late_row.mean() > 0.2
    assert found.baseline["cost"] == cost(np.ones(len(late_row), bool)) < then.baseline["cost"]
