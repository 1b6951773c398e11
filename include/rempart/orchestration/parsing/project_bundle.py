"""The folder of DAG files as a bundle of Airflow that notices changed pipelines: `dag_bundle_config_list` names it.

Airflow reads a DAG file again as soon as the file is newer than its last reading, and otherwise once per
`min_file_process_interval`. DAG files also read the files of pipelines, whose changes Airflow does not see. So this
bundle looks at them whenever Airflow refreshes it (every 10 s), and gives the DAG files a new time of change.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from airflow.dag_processing.bundles.local import LocalDagBundle

from rempart.settings.config import project_root

logger = logging.getLogger(__name__)

AHEAD_SECONDS = 1.0
"""Seconds by which the new time lies ahead, so that a reading that is under way is not the last."""
AGAIN_SECONDS = 50.0
"""Seconds after which DAG files are read once more. Airflow takes a DAG for removed when its file is read without it
more than so long (`stale_dag_threshold`) after it was last seen.
"""
PAUSE_SECONDS = 120.0
"""Seconds without a look after a DAG file could not be given a time: each look would have the others read again."""
_UNREAD = frozenset({"rempart", "__pycache__", "notebooks"})
"""Folders in `include/` that Airflow's processes load once, when they start, or that no DAG file reads."""


def are_outdated(dag_files: Collection[float], inputs: Iterable[float]) -> bool:
    """Return whether a DAG file is older than what DAG files read, other DAG files included. All are times."""
    return bool(dag_files) and min(dag_files) < max(*dag_files, *inputs, min(dag_files))


def read_by_dags(project: Path) -> Iterator[Path]:
    """Return the files and folders that DAG files read besides themselves. A folder's time shows what was removed."""
    yield project / "rempart.yaml"
    for folder, folders, files in os.walk(project / "include"):
        folders[:] = [name for name in folders if name not in _UNREAD and not name.endswith(".egg-info")]
        yield Path(folder)
        yield from (Path(folder, name) for name in files)


def _changed(paths: Iterable[Path]) -> list[float]:
    """Return when each file was last written, renamed or moved here, which no copy of an earlier time hides."""
    times = []
    for path in paths:
        try:
            times.append(path.stat().st_ctime)
        except OSError:  # it vanished meanwhile: its folder has changed
            continue
    return times


def renew(dags: Path, project: Path, now: float) -> bool:
    """Give every DAG file the time `now` if one is older than what it reads. Return whether one was. Raises OSError.

    A time ahead of `now` does not count: the clock was set back since, and each look would find a change. A DAG file
    whose own time is ahead gets `now`, too: until then Airflow would read it without a pause.
    """
    inputs = [changed for changed in _changed(read_by_dags(project)) if changed <= now]
    times = [file.stat().st_mtime for file in _dag_files(dags)]
    if not are_outdated(times, inputs) and max(times, default=now) <= now:
        return False
    _touch(dags, now)
    return True


def _dag_files(dags: Path) -> list[Path]:
    return [file for file in dags.rglob("*.py") if file.is_file()]


def _touch(dags: Path, now: float) -> None:
    """Give every DAG file that may be changed a time. Raises the OSError of one that may not."""
    refused = None
    for file in _dag_files(dags):
        try:
            os.utime(file, (now, now))
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as cause:
            refused = cause
    if refused is not None:
        raise refused


class ProjectBundle(LocalDagBundle):
    """A local folder of DAG files that read the project's pipelines."""

    _again: float | None = None
    _paused_until = 0.0

    def refresh(self) -> None:
        """Have the DAG files read again if a file that they read has changed."""
        if time.monotonic() < self._paused_until:
            return
        try:
            self.look(time.time())
        except OSError as cause:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning(
                "%s: %s; Airflow reads changed pipelines with a delay of minutes", cause.filename, cause.strerror
            )

    def look(self, now: float) -> None:
        """Have the DAG files read now if a file that they read has changed, and once more later. Raises OSError."""
        if renew(self.path, project_root(), now + AHEAD_SECONDS):
            self._again = now + AGAIN_SECONDS
            logger.info("a file of the project has changed: Airflow reads the DAG files again")
        elif self._again is not None and now >= self._again:
            _touch(self.path, now + AHEAD_SECONDS)
            self._again = None
