"""Feast is imported without the instrumentation of its classes, which takes seconds."""

from __future__ import annotations

import subprocess
import sys

IMPORT = """
import typeguard
from typeguard import _decorators
instrumented = []
_decorators.instrument = lambda method: instrumented.append(method.__qualname__) or "left as it is by this test"
typechecked = typeguard.typechecked
from rempart.features import quick_feast
quick_feast.load()
import feast
from rempart.features.online_store import feast_store
assert typeguard.typechecked is typechecked, "others keep their checks"
assert feast.Entity(name="stay", join_keys=["stay"]).join_key == "stay"
print(len(instrumented))
"""


def test_no_method_of_feast_is_compiled_again_as_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "0"
