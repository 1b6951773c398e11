"""MLflow is imported without what nobody uses, and every part of it is there for who asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = """
import gc, sys
from rempart import lean_imports
from rempart.models import tracking
from rempart.settings.config import Connection
mlflow = lean_imports.load("mlflow")
assert lean_imports.load("mlflow") is mlflow and gc.isenabled()
with tracking.session(Connection("mlflow", conn_type="http", host="127.0.0.1", port=1)) as client:
    assert isinstance(client, mlflow.MlflowClient)
import mlflow.onnx, mlflow.pyfunc
print(*sorted({"fastapi", "polars"} & sys.modules.keys()))
"""
USED = """
from rempart import lean_imports
mlflow = lean_imports.load("mlflow")
from mlflow.genai.scorers.base import Scorer  # a part that imports others, which import it
assert mlflow.genai.scorers.Scorer is Scorer and callable(mlflow.genai.evaluate)
import mlflow.data.polars_dataset, mlflow.genai.datasets
assert mlflow.gateway.__spec__.loader.get_code("mlflow.gateway")
from mlflow.gateway.utils import is_valid_endpoint_name
assert mlflow.gateway.utils.is_valid_endpoint_name is is_valid_endpoint_name
try:
    mlflow.genai.nothing
except AttributeError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("code", "told"), [(CLIENT, ""), (USED, "module 'mlflow.genai' has no attribute 'nothing'")], ids=["client", "used"]
)
def test_a_process_has_what_it_asks_for_and_no_more(code: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == told


TRAINER = Path(__file__).parents[2] / ".venv-trainer" / "bin" / "python"
NETWORK = """
import sys, torch
from rempart import lean_imports
assert lean_imports.torch() is torch is lean_imports.torch()
def trained():
    torch.manual_seed(3)
    layer, rows = torch.nn.Linear(3, 1), torch.rand(64, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        layer(rows).sum().square().backward()
        optimizer.step()
    return layer.weight.tolist()
weights = trained()
assert "torch._dynamo.eval_frame" not in sys.modules, "the compiler is not loaded"
assert torch.compile(lambda value: value + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
assert "torch._dynamo.eval_frame" in sys.modules and torch._dynamo.disable is not lean_imports._left_alone
assert trained() == weights
"""


@pytest.mark.full
@pytest.mark.skipif(not TRAINER.is_file(), reason="there is no .venv-trainer: `make setup-trainer` makes it")
def test_pytorchs_compiler_is_loaded_by_whoever_compiles_and_weights_are_the_same() -> None:
    done = subprocess.run([TRAINER, "-c", NETWORK], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
