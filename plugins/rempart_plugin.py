"""Registers Rempart with Airflow. Airflow executes every file here as a top-level module, so nothing else is in it."""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from rempart.orchestration import run_parameters
from rempart.orchestration.dags import Periodic
from rempart.orchestration.run_listener import RunListener
from rempart.web.mount import Cockpit
from rempart.web.security.content_policy import ContentPolicy
from rempart.web.security.same_origin import SameOrigin


class RempartPlugin(AirflowPlugin):
    name = "rempart"
    fastapi_apps = [{"app": Cockpit(), "url_prefix": "/rempart", "name": "Rempart"}]  # noqa: RUF012 - Airflow's interface
    fastapi_root_middlewares = [  # noqa: RUF012 - as above
        {"middleware": ContentPolicy, "name": "Content policy"},
        {"middleware": SameOrigin, "name": "Same origin"},
    ]
    external_views = [  # noqa: RUF012 - as above
        {
            "name": "Sovereignty",
            "href": "rempart/overview",  # without a leading slash: below Airflow's own prefix, if it has one
            "destination": "nav",
            "url_route": "sovereignty",
            "icon": "rempart/static/icon.svg",
            "icon_dark_mode": "rempart/static/icon-dark.svg",
        },
        {
            "name": "Evidence",
            "href": "rempart/dag?dag_id={DAG_ID}",
            "destination": "dag",
            "url_route": "evidence-of-dag",
            "icon": "rempart/static/icon.svg",
            "icon_dark_mode": "rempart/static/icon-dark.svg",
        },
        {
            "name": "Evidence",
            "href": "rempart/run?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "evidence-of-run",
            "icon": "rempart/static/icon.svg",
            "icon_dark_mode": "rempart/static/icon-dark.svg",
        },
        {
            "name": "Evidence",
            "href": "rempart/run?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}",
            "destination": "task_instance",
            "url_route": "evidence-of-task",
            "icon": "rempart/static/icon.svg",
            "icon_dark_mode": "rempart/static/icon-dark.svg",
        },
    ]
    timetables = [Periodic]  # noqa: RUF012 - as above
    listeners = [RunListener()]  # noqa: RUF012 - as above

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        run_parameters.install()
