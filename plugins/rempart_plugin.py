"""Registers Rempart with Airflow. Airflow executes every file here as a top-level module, so nothing else is in it."""

from airflow.plugins_manager import AirflowPlugin

from rempart.web.app import app
from rempart.web.content_policy import ContentPolicy


class RempartPlugin(AirflowPlugin):
    name = "rempart"
    fastapi_apps = [{"app": app, "url_prefix": "/rempart", "name": "Rempart"}]  # noqa: RUF012 - Airflow's interface
    fastapi_root_middlewares = [{"middleware": ContentPolicy, "name": "Content policy"}]  # noqa: RUF012 - as above
