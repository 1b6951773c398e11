"""A pipeline is judged once for all its DAGs and the cockpit, and again after a change."""

from __future__ import annotations

from datetime import date

import pytest

from rempart.errors import PipelineError
from rempart.flows.training import check_pipeline
from rempart.settings import config, pipelines
from rempart.web import facts
from rempart.web.facts import Unknown
from rempart.web.metrics import exposition
from tests.cockpit import NOW, Watched

DAY = date(2026, 3, 1)


def test_a_pipeline_is_judged_once_and_again_when_its_file_the_configuration_or_the_day_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(check_pipeline, "_judgements", {})
    monkeypatch.setattr(check_pipeline, "check", lambda pipeline, thorough, settings: asked.append(pipeline.owner))
    pipeline, current = pipelines.named("hotel_bookings"), config.load()
    for _ in range(3):
        assert check_pipeline.fault_of(pipeline, current, DAY) is None
    assert asked == [pipeline.owner]
    check_pipeline.fault_of(pipeline.model_copy(update={"owner": "sales"}), current, DAY)
    assert asked == [pipeline.owner, "sales"]
    without = current.model_copy(update={"retention": {}})
    fault = check_pipeline.fault_of(pipeline, without, DAY)
    assert fault is not None and "retention" in fault.what
    check_pipeline.fault_of(pipeline, current, DAY)
    check_pipeline.fault_of(pipeline, current, date(2026, 3, 2))
    assert asked == [pipeline.owner, "sales", pipeline.owner, pipeline.owner]


def test_the_cockpits_figures_tell_which_pipelines_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    good = pipelines.with_model(pipelines.named("hotel_bookings"))
    trainer = good.trainer.model_copy(update={"params": {"leave_out": "no_such_feature"}})
    refused = good.model_copy(update={"name": "refused", "trainer": trainer})
    invalid = PipelineError("The pipeline file is not valid", "Correct it.")
    monkeypatch.setattr(facts, "load_all", lambda: {"hotel_bookings": good, "invalid": invalid, "refused": refused})
    found = Watched().facts()
    assert found.at_fault == {"refused"} and not found.unknown()
    told = [line for line in exposition(found, NOW).splitlines() if line.startswith("rempart_pipeline_valid")]
    assert told == [
        'rempart_pipeline_valid{pipeline="hotel_bookings"} 1',
        'rempart_pipeline_valid{pipeline="invalid"} 0',
        'rempart_pipeline_valid{pipeline="refused"} 0',
    ]


@pytest.mark.parametrize("silent", ["pipelines", "at_fault"])
def test_pipelines_that_could_not_be_judged_have_no_figure_and_the_source_is_down(silent: str) -> None:
    told = exposition(Watched().facts(**{silent: Unknown("no answer")}), NOW)
    assert 'rempart_source_up{source="pipelines"} 0' in told and "rempart_pipeline_valid{" not in told
