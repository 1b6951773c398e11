"""What a reader of import errors gets to see, and how patient the client is with a busy server."""

from __future__ import annotations

import httpx
import pytest

from rempart.airflow_api import AirflowApi, AirflowApiError, last_words
from rempart.config import Connection

FRAMES = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    raise ValueError()\n'


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (f"{FRAMES}ModuleNotFoundError: No module named 'x'\n", "ModuleNotFoundError: No module named 'x'"),
        (
            f"{FRAMES}airflow.exceptions.AirflowClusterPolicyViolation: DAG a breaks 1 rule:\n1. [owner] t: no",
            "airflow.exceptions.AirflowClusterPolicyViolation: DAG a breaks 1 rule:\n1. [owner] t: no",
        ),
        (
            f"{FRAMES}KeyError: 1\n\nDuring handling ...\n{FRAMES}rempart.errors.ConfigError: what\n  What to do: hint",
            "rempart.errors.ConfigError: what\n  What to do: hint",
        ),
        (
            "DAG a breaks 2 rules of this platform:\n1. [owner] ...",
            "DAG a breaks 2 rules of this platform:\n1. [owner] ...",
        ),
    ],
)
def test_an_import_error_is_told_without_its_frames(trace: str, said: str) -> None:
    assert last_words(trace) == said


def slow(api: AirflowApi, times: int) -> list[str]:
    """Make the server answer too late so many times; what it was asked."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        asked.append(request.method)
        if len(asked) <= times:
            raise httpx.ReadTimeout("late", request=request)
        return httpx.Response(200, json={"dag_run_id": "r"})

    api._http = httpx.Client(base_url=api.url, transport=httpx.MockTransport(answer))
    return asked


def test_what_only_reads_is_asked_again_and_what_starts_a_run_is_not() -> None:
    """A second POST could start a second run."""
    connection = Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http")
    patient = AirflowApi(connection)
    asked = slow(patient, 2)
    assert patient.get("/api/v2/dags") == {"dag_run_id": "r"} and asked == ["GET"] * 3
    asked = slow(starting := AirflowApi(connection), 1)
    with pytest.raises(AirflowApiError, match="no answer"):
        starting.trigger("ingest")
    assert asked == ["POST"]
