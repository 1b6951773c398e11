"""Configure Airflow's logging for components that share a disk: `[logging] logging_config_class` names this module.

No worker serves logs by HTTP here (`--skip-serve-logs`): the API server reads the file of a running task. Airflow's own
handler would also ask the worker's log server, and log the refused connection in each running task's log.
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
    """Return Airflow's logging configuration with this handler instead of Airflow's own."""
    config = deepcopy(default)
    config["handlers"]["task"]["class"] = f"{FileHandler.__module__}.{FileHandler.__qualname__}"
    return config


LOGGING_CONFIG = without_log_server(DEFAULT_LOGGING_CONFIG)
REMOTE_TASK_LOG = None
