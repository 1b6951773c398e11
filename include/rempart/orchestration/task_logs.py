"""Airflow's logging where components share no volume: `[logging] logging_config_class` in pods names this module.

Airflow finds REMOTE_TASK_LOG beside the configuration, asks it to upload a task's log when the task has ended, and to
read it for the pages. Its own class for S3 would bring a provider of 30 packages, and know nothing of the active site.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.config_templates.airflow_local_settings import BASE_LOG_FOLDER

from rempart.orchestration.shared_logs import LOGGING_CONFIG as LOGGING_CONFIG


class SiteTaskLog:
    """What Airflow calls a RemoteLogIO. An upload that fails is told by Airflow, and fails no task."""

    processors: tuple[Any, ...] = ()

    def upload(self, path: os.PathLike[str] | str, ti: Any = None) -> None:
        """Bring a finished log to the active site; the file goes, for nobody else reads it here."""
        from rempart.flows.shared import task_logs
        from rempart.flows.shared.platform import open_platform

        file = Path(BASE_LOG_FOLDER) / path
        task_logs.write(open_platform(), str(file.relative_to(BASE_LOG_FOLDER)), file.read_bytes())
        file.unlink()

    def read(self, relative_path: str, ti: Any = None) -> tuple[list[str], list[str] | None]:
        """Where a task's log was found, and what stands in it; why not, where it cannot be read."""
        from rempart.errors import RempartError
        from rempart.flows.shared import task_logs
        from rempart.flows.shared.platform import open_platform

        try:
            found = task_logs.read(open_platform(), relative_path)
        except RempartError as error:
            return [str(error)], None
        return list(found), list(found.values()) or None


REMOTE_TASK_LOG = SiteTaskLog()
