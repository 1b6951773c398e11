"""T2 with Kueue: a job that a job of higher priority displaces from its queue continues from its checkpoint.

Other events of a queued job need no server: tests/unit/orchestration/test_queued_jobs.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rempart.flows.shared.platform import Platform
from tests import pods
from tests.clusters import until
from tests.faults.held_jobs import hold
from tests.queues import QUEUE, install_kueue, other, refused, runs, urgent

pytestmark = [pytest.mark.tracking, pytest.mark.full]


@pytest.mark.parametrize("where", ["the next pool", "the same pool"])
def test_t2_preempted_half_way_the_job_resumes_from_its_checkpoint(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    steps, after = 2_000, 400
    only: dict[str, Any] = {"gpu_pools": ["gpu-a"], "pause": "1s"} if where == "the same pool" else {}
    home = pods.project(tmp_path / "home", {"gpu-a": {"queue": QUEUE, "max_pending": "60s"}}, **only)
    monkeypatch.setenv("REMPART_HOME", str(home))
    with (
        pods.clusters(home) as made,
        pods.connected(monkeypatch, made),
        pods.trial(platform, home, made) as trial,
    ):
        double = made["gpu-a"]
        install_kueue(double, 1)
        urgent(double)
        ordered = trial.order({"max_iter": steps, "learning_rate": 0.01, "max_leaf_nodes": 3})
        hold(trial, after)
        reached: list[int] = []

        def preempt(number: int, trigger: Any) -> None:
            if type(trigger).__name__ == "PauseTrigger":
                double.client().delete_namespaced_pod("urgent", double.namespace)
            elif not reached and runs(trigger):
                until(lambda: (pods.progress(double, trial) or 0) >= after, 240)
                reached.append(pods.progress(double, trial) or 0)
                other(double, "urgent", "urgent")

        ran = trial.run(ordered, deferred=preempt)["placement"]
        last = "gpu-a" if where == "the same pool" else "gpu-b"
        assert ran["pool"] == last
        assert trial.attempts(ordered) == [("gpu-a", "interrupted"), (last, "succeeded")]
        first = trial.job(ordered).attempts()[0]
        assert "Preempted to accommodate a workload" in first.cause
        work = trial.job(ordered).result().work
        assert work.resumed_from >= reached[0] * 0.9 > 0
        placed = {record.body["attempt"]: record.body for record in trial.platform.ledger.find("placement")}
        assert [placed[number]["ran"]["pool"] for number in (1, 2)] == ["gpu-a", last]
        assert "Preempted to accommodate a workload" in placed[1]["cause"]
        assert not refused(trial.clusters)
