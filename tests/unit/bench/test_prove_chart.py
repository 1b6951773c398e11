"""Without helm or the chart, the proof says that it was not run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bench import prove_chart
from tests.unit.deploy.platform_files import CHART


def test_the_proof_says_that_it_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMPART_VAR", str(tmp_path))
    monkeypatch.delenv("CHART", raising=False)
    assert prove_chart.main([]) == 1
    (check,) = yaml.safe_load((tmp_path / "proof" / "chart.json").read_text("utf-8"))["checks"]
    assert check["ok"] is None and "make prove-chart CHART=" in check["detail"]
    file = tmp_path / f"airflow-{CHART['version']}.tgz"
    file.write_bytes(b"")
    assert "HELM=" in prove_chart.why_not("no-such-helm", str(file)) and prove_chart.why_not("no", "gone.tgz")
