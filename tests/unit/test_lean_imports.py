"""MLflow is imported without what nobody uses, and every part of it is there for who asks for it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from rempart import lean_imports

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
import polars
data = mlflow.data.from_polars(polars.DataFrame({"nights": [1, 2]}), name="stays")
assert data.name == "stays" and data.profile["num_rows"] == 2
assert mlflow.data.dataset_registry.get_registered_constructors()["from_polars"] is mlflow.data.from_polars
assert not hasattr(mlflow.data, "from_nothing")
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


def test_a_module_that_makes_its_attributes_itself_does_so_from_the_first_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_later.py").write_text("ran = True\ndef __getattr__(name):\n    return f'its {name}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(lean_imports, "LATER", frozenset({"made_later"}))
    with lean_imports._lean():
        module = import_module("made_later")
    try:
        assert "ran" not in vars(module)
        assert module.first == "its first" and module.ran
    finally:
        del sys.modules["made_later"]


def test_a_thread_that_imports_meanwhile_has_every_part_and_waits_for_no_other() -> None:
    left_out = "mlflow.data.polars_dataset"
    finder = lean_imports._Finder()
    with pytest.raises(ModuleNotFoundError):
        finder.find_spec(left_out, None)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(finder.find_spec, left_out, None).result() is None
        assert other.submit(finder.find_spec, "scipy.stats", None).result() is None
