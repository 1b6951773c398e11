"""Sessions with the MLflow server: credentials for as long as they are needed, its errors translated once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rempart import lean_imports
from rempart.errors import TrackingRefused, TrackingUnavailable
from rempart.process_environment import variables
from rempart.settings.config import Connection
from rempart.settings.telemetry import TELEMETRY_OFF

if TYPE_CHECKING:
    from mlflow import MlflowClient


@contextmanager
def session(connection: Connection, doing: str = "use") -> Iterator[MlflowClient]:
    """Point mlflow at the server with its credentials, provide a client, and restore everything at the end.

    `doing` names the operation in errors. Raises TrackingUnavailable if the server fails or does not answer,
    TrackingRefused if it refuses. One session at a time in a process, because MLflow keeps its address process-wide.
    """
    url = connection.http_url()
    settings = {
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_REGISTRY_URI": url,
        "MLFLOW_TRACKING_USERNAME": connection.login,
        "MLFLOW_TRACKING_PASSWORD": connection.password,
        **TELEMETRY_OFF,
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # artifacts go through the server; signed URLs would lead past it, to the site
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    }
    # an empty value is unset: tasks have the name of another user
    with variables({name: value or None for name, value in settings.items()}), translated(url, doing):
        import mlflow
        from mlflow.tracking._tracking_service import utils as _tracking

        _refuse_header_plugins()

        tracking, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        mlflow.set_tracking_uri(url)
        mlflow.set_registry_uri(url)
        # MLflow remembers artifact clients by model id alone: one of another server would answer for this one
        _tracking._artifact_repos_cache.clear()
        try:
            yield mlflow.MlflowClient(url, url)
        finally:
            mlflow.set_tracking_uri(tracking)
            mlflow.set_registry_uri(registry)


@functools.cache
def _refuse_header_plugins() -> None:
    """Keep plugins of other packages from adding headers to requests.

    Feast registers one that sends the pod's service account token to MLflow. To find it, MLflow imports Feast: 4 s.
    """
    from mlflow.utils import plugins

    find = plugins.get_entry_points
    plugins.get_entry_points = lambda group: []
    try:
        from mlflow.tracking.request_header import registry
    finally:
        plugins.get_entry_points = find
    kept = [each for each in registry._request_header_provider_registry if type(each).__module__.startswith("mlflow.")]
    registry._request_header_provider_registry._registry[:] = kept


@contextmanager
def translated(url: str, doing: str) -> Iterator[None]:
    """Translate MLflow's errors into ours."""
    lean_imports.load("mlflow")
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError, RequestException

    try:
        yield
    except MlflowException as cause:
        # a server that does not answer comes as INTERNAL_ERROR, status 500
        status: int = cause.get_http_status_code()  # type: ignore[no-untyped-call] # MLflow has no types there
        raise _error(url, doing, status, cause.error_code) from cause
    except HTTPError as cause:
        raise _error(url, doing, cause.response.status_code if cause.response is not None else 503, "") from cause
    except RequestException as cause:
        raise _error(url, doing, 503, type(cause).__name__) from cause


def _error(url: str, doing: str, status: int, code: str) -> TrackingRefused | TrackingUnavailable:
    if 400 <= status < 500 and status not in (408, 425, 429):
        return TrackingRefused(f"{doing} at MLflow ({url}): refused ({status} {code})", _remedy(status))
    return TrackingUnavailable(
        f"{doing} at MLflow ({url}): no usable answer ({code or status})",
        "Check that MLflow runs (`rempart status`), then run again. Finished training is not lost.",
    )


def _remedy(status: int) -> str:
    """Return what to do about a refusal with this status."""
    if status in (401, 403):
        return "Check the user, the password and the rights of the connection 'mlflow'."
    if status == 404:
        return "MLflow does not have this object: check its name, and whether somebody deleted it there."
    return "Read what MLflow wrote about it: `rempart stack logs mlflow`."
