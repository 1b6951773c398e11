"""Feast is imported without the instrumentation of its classes, which takes seconds, and leaves nothing in /tmp."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
import os
print(len(instrumented))
print(sorted(name for name in os.environ if name.startswith("PROMETHEUS_MULTIPROC")), flush=True)
os._exit(0)  # as a forked process ends, without the clean-up of the interpreter
"""


def test_feast_is_imported_quickly_and_without_a_folder_of_metrics(tmp_path: Path) -> None:
    temporary, here = tmp_path / "tmp", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_MULTIPROC")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=here,
        env=variables | {"TMPDIR": str(temporary)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    compiled, named = done.stdout.strip().splitlines()[-2:]
    assert compiled == "0", "no method is compiled again"
    assert named == "[]", "children would write their metrics there"
    assert list(temporary.iterdir()) == [] and list(here.iterdir()) == []
