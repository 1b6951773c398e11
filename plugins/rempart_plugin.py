"""Registers Rempart with Airflow. Airflow executes every file here as a top-level module, so nothing else is in it."""

from airflow.plugins_manager import AirflowPlugin

from rempart.web.app import app


class RempartPlugin(AirflowPlugin):
    name = "rempart"
    fastapi_apps = [{"app": app, "url_prefix": "/rempart", "name": "Rempart"}]  # noqa: RUF012 - Airflow's interface
