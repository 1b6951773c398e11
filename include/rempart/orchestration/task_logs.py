"""Configure Airflow's logging for components without a shared volume: `[logging] logging_config_class` in pods.

Airflow finds REMOTE_TASK_LOG in this module, uploads a task's log with it when the task has ended, and reads the log
for its pages. Airflow's own S3 class would need a provider of 30 packages, and does not know the active site.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.config_templates.airflow_local_settings import BASE_LOG_FOLDER

from rempart.orchestration.shared_logs import LOGGING_CONFIG as LOGGING_CONFIG


class SiteTaskLog:
    """Implements Airflow's RemoteLogIO. A failed upload is reported by Airflow and fails no task."""

    processors: tuple[Any, ...] = ()

    def upload(self, path: os.PathLike[str] | str, ti: Any = None) -> None:
        """Upload a finished log to the active site and delete the local file."""
        from rempart.flows.governance import task_logs
        from rempart.flows.shared.platform import open_platform

        file = Path(BASE_LOG_FOLDER) / path
        site, bucket = task_logs.open_store(open_platform())
        task_logs.write(site, bucket, str(file.relative_to(BASE_LOG_FOLDER)), file.read_bytes())
        file.unlink()

    def read(self, relative_path: str, ti: Any = None) -> tuple[list[str], list[str] | None]:
        """Return where a task's log was found and its content, or why it cannot be read."""
        from rempart.errors import RempartError
        from rempart.flows.governance import task_logs
        from rempart.flows.shared.platform import open_platform

        try:
            lines_by_file = task_logs.read(*task_logs.open_store(open_platform()), relative_path)
        except RempartError as error:
            return [str(error)], None
        return list(lines_by_file), list(lines_by_file.values()) or None


REMOTE_TASK_LOG = SiteTaskLog()
