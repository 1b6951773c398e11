"""A session with MLflow sends no headers of other packages' plugins."""

from __future__ import annotations

import subprocess
import sys

SESSION = """
import sys
from rempart.models.tracking import session
from rempart.settings.config import Connection
with session(Connection("mlflow", "mlflow", host="mlflow.example", schema="http")):
    pass
from mlflow.tracking.request_header.registry import _request_header_provider_registry as registry
from mlflow.utils.plugins import get_entry_points
assert {type(each).__module__.split(".")[0] for each in registry} == {"mlflow"}
assert "feast" not in sys.modules
assert [each.name for each in get_entry_points("mlflow.request_header_provider")] == ["feast"], "others are as before"
"""


def test_no_plugin_adds_headers_to_requests_and_feast_is_not_imported() -> None:
    done = subprocess.run([sys.executable, "-c", SESSION], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
