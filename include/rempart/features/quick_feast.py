"""Import Feast in a seventh of the time. Import this module before any other module imports Feast.

Feast decorates its classes with typeguard's `typechecked`, which reads and compiles a whole module again for each
method: 3.8 of the 4.4 s of CPU time that `import feast` (0.67) takes. The only loss is that Feast no longer checks the
types of its arguments at run time.

Feast also creates a folder /tmp/feast_metrics_* for the metrics of its own web server, which nobody starts here, and
names it in two environment variables. A process that is killed, or that forks and ends at once, leaves the folder
behind, and its children would write their own metrics there. Here Feast creates none: its counters stay in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rempart.process_environment import variables

_FOLDERS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
"""Variables that name the folder of metrics. Feast creates one, and sets both, unless the first is there."""


def load() -> None:
    """Import Feast; nothing if that was done."""
    if "feast" in sys.modules:
        return
    import typeguard

    typechecked = typeguard.typechecked
    typeguard.typechecked = _unchanged
    try:
        with _without_folder():
            import feast  # noqa: F401 # for what it leaves in sys.modules
    finally:
        typeguard.typechecked = typechecked


@contextmanager
def _without_folder() -> Iterator[None]:
    """Let Feast create no folder of metrics meanwhile, and leave the environment as it was."""
    import prometheus_client  # noqa: F401 # it decides at its import whether counters are files: before Feast says so

    kept = {name: os.environ.get(name) for name in _FOLDERS}
    with variables({**kept, _FOLDERS[0]: os.environ.get(_FOLDERS[0], "")}):
        yield


def _unchanged(target: Any = None, **options: Any) -> Any:
    """Return the function unchanged. Replaces `typechecked`, with and without arguments."""
    return _unchanged if target is None else target
