"""`make test-gpu` where there is no GPU: it says so, and its checks pass on the CPU.

Its check of two processes is test_several_nodes.py's here.
"""

from __future__ import annotations

import subprocess

import pytest

from tests import real_gpu
from tests.unit.training import stage

TRAINER = stage.project_file(".venv-trainer/bin/python")


def test_without_a_gpu_nothing_was_checked_and_that_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_gpu, "look", lambda: 0)
    assert real_gpu.main(["--look"]) == 2 and real_gpu.main([]) == 2
    assert capsys.readouterr().out == "no GPU seen: nothing was checked\n" * 2


@pytest.mark.full
@pytest.mark.skipif(not TRAINER.is_file(), reason="there is no .venv-trainer: `make setup-trainer` makes it")
def test_the_checks_pass_on_the_cpu() -> None:
    done = subprocess.run(
        [TRAINER, "-m", "tests.real_gpu", "--rehearse", "--rows", "6000", "--only", "devices", "network", "xgboost"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=stage.project_file("."),
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "rehearsed on the CPU: no GPU was checked" in lines[-1] and " 0 failed" in lines[-1]
    passed = [line.split(":")[0].split(None, 1)[1] for line in lines if line.startswith("ok ")]
    assert passed == [
        "PyTorch",
        "network on the device as on the CPU",
        "mixed precision learns as float32",
        "ONNX of float32 predicts the same",
        "ONNX of bfloat16 predicts the same",
        "the same order gives the same weights",
        "batches by a thread give the same weights",
        "XGBoost on the device as on the CPU",
        "ONNX of XGBoost predicts the same",
    ]
