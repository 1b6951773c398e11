"""A pipeline is judged once for all its DAGs, and again after a change."""

from __future__ import annotations

from datetime import date

import pytest

from rempart.settings import config, pipelines

pytestmark = pytest.mark.airflow


def test_a_pipeline_is_judged_once_and_again_when_its_file_the_configuration_or_the_day_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rempart.orchestration import dags

    asked: list[str] = []
    monkeypatch.setattr(dags, "_judgements", {})
    monkeypatch.setattr(dags, "today", lambda: date(2026, 3, 1))
    monkeypatch.setattr(dags, "check", lambda pipeline, thorough: asked.append(pipeline.owner))
    pipeline, current = pipelines.named("hotel_bookings"), config.load()
    for _ in range(3):
        assert dags._fault(pipeline, current) is None
    assert asked == [pipeline.owner]
    dags._fault(pipeline.model_copy(update={"owner": "sales"}), current)
    assert asked == [pipeline.owner, "sales"]
    without = current.model_copy(update={"retention": {}})
    fault = dags._fault(pipeline, without)
    assert fault is not None and "retention" in fault.what
    dags._fault(pipeline, current)
    monkeypatch.setattr(dags, "today", lambda: date(2026, 3, 2))
    dags._fault(pipeline, current)
    assert asked == [pipeline.owner, "sales", pipeline.owner, pipeline.owner]
