"""What a job measured itself, how often a hold-out was opened, and rules of the gate, on the stack's real MLflow."""

import pytest

from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.train import train_on
from rempart.flows.training.validate import validate
from rempart.models import registry
from rempart.models.tracking import session
from tests.unit.training import late, stage

pytestmark = pytest.mark.tracking
TABLE = stage.table()


def test_what_a_job_measured_itself_and_each_opening_of_the_hold_out_are_on_record(scratch):
    from mlflow.models import get_model_info

    platform, pipeline = scratch
    trainer = {"params": {"max_iter": 300, "learning_rate": 0.3, "early_stopping_rounds": 5}}
    trainer |= {"intervals": {"coverage": 0.8}}
    gate = {**stage.definition()["gate"], "rules": [{"kind": "coverage", "at_least": 0.5, "max_width": 40}]}
    parts = {"validation": {"last": "60d", "gap": "7d"}, "backtest": {"origins": 2, "every": "30d"}}
    made = stage.pipeline(pipeline.name, trainer=trainer, gate=gate, **parts)
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)
    result = train_on(platform, made, TABLE, "s1", backend=backend)
    (record,) = [entry.body for entry in platform.ledger.find("candidate", made.name)]
    assert 1 <= record["validation"]["chosen"]["max_iter"] < 300
    with session(platform.tracking()) as client:
        logged = client.get_run(result.run_id).data.metrics
        history = client.get_metric_history(result.run_id, "backtest_mae")
        outputs = get_model_info(f"models:/{record['model_id']}").signature.outputs
    assert outputs.input_names() == ["prediction", "prediction_lower", "prediction_upper"]
    for name in ("validation_mae", "backtest_mae_mean", "backtest_mae_spread", "mae", "coverage", "width"):
        assert logged[name] == pytest.approx(record["metrics"][name])
    each = [origin["metrics"]["mae"] for origin in record["backtest"]]
    assert [point.value for point in sorted(history, key=lambda point: point.step)] == pytest.approx(each)
    judged = validate(platform, made)
    assert judged.promoted and any("of the true values lie in their interval" in why for why in judged.reasons)
    assert judged.metrics["coverage"] == pytest.approx(record["metrics"]["coverage"])
    assert judged.metrics["coverage"] > 0.5
    openings = [entry.body for entry in reversed(platform.ledger.find("opening", made.name))]
    told = [(body["opening"], body["why"], body["versions"]) for body in openings]
    assert told == [(1, "registration", []), (2, "gate", [result.version])]


def test_a_second_pipeline_is_refused_for_a_subgroup_alone_and_the_page_of_its_run_shows_it(scratch):
    platform, pipeline = scratch
    backend = stage.InProcess(platform.active_site("personal"), platform.connections)
    strict = late.pipeline(pipeline.name)
    version = train_on(platform, strict, late.table(), "s1", backend=backend).version
    refused = validate(platform, strict)
    assert not refused.promoted and registry.champion(platform.tracking(), pipeline.name) is None
    (record,) = platform.ledger.find("refusal", pipeline.name)
    outcomes = {rule["rule"]: rule["outcome"] for rule in record.body["rules"]}
    assert outcomes.pop("subgroups") == "refused"
    assert outcomes == dict.fromkeys(late.OTHER_RULES, "passed")
    (told,) = [reason for reason in refused.reasons if reason.startswith("refused")]
    assert "1 of 3 subgroups is worse" in told and "region=islands" in told
    with session(platform.tracking()) as client:
        tags = client.get_model_version(pipeline.name, version).tags
    assert tags["gate"] == "refused" and "region=islands" in tags["gate_reasons"]
    assert "region=islands" in late.page(record.body) and late.page(record.body).count("<svg") == 2
    candidate = candidate_record(platform.ledger, pipeline.name, version)
    assert candidate["metrics"]["pr_auc"] == pytest.approx(record.body["metrics"]["pr_auc"])
    passed = validate(platform, late.pipeline(pipeline.name, ratio=5), version)
    assert passed.promoted, passed.reasons
