"""Airflow's logging where components read one disk: `[logging] logging_config_class` names this module.

No worker serves its logs by HTTP here (`--skip-serve-logs`): the API server reads the file of a running task. Airflow's
own handler would ask the worker's log server as well, and put the refused connection into each running task's log.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG
from airflow.utils.log.file_task_handler import FileTaskHandler


class FileHandler(FileTaskHandler):
    """Airflow's handler without its question to a log server."""

    def _read_from_logs_server(self, ti: Any, worker_log_rel_path: str) -> tuple[list[str], list[Any]]:
        return [], []


def without_log_server(default: dict[str, Any]) -> dict[str, Any]:
    """Airflow's configuration of its logs with that handler in place of its own."""
    found = deepcopy(default)
    found["handlers"]["task"]["class"] = f"{FileHandler.__module__}.{FileHandler.__qualname__}"
    return found


LOGGING_CONFIG = without_log_server(DEFAULT_LOGGING_CONFIG)
REMOTE_TASK_LOG = None
