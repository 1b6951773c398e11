"""Import errors as a reader sees them, and the client's patience with a busy server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from rempart.airflow_api import AirflowApi, AirflowApiError, last_words
from rempart.settings import pipelines
from rempart.settings.config import Connection

FRAMES = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    raise ValueError()\n'


@pytest.mark.parametrize(
    ("trace", "message"),
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
def test_an_import_error_is_told_without_its_frames(trace: str, message: str) -> None:
    assert last_words(trace) == message


CONNECTION = Connection("airflow_api", "http", "127.0.0.1", 1, "admin", "secret", "http")
Answer = Callable[[httpx.Request], httpx.Response]


def asked_of(answer: Answer) -> tuple[AirflowApi, list[httpx.Request]]:
    """A client of a server that answers so, and what it was asked."""
    asked: list[httpx.Request] = []

    def told(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        asked.append(request)
        return answer(request)

    api = AirflowApi(CONNECTION)
    api._http = httpx.Client(base_url=api.url, transport=httpx.MockTransport(told))
    return api, asked


def too_late(times: int, then: httpx.Response) -> Answer:
    left = [then] + [None] * times

    def answer(request: httpx.Request) -> httpx.Response:
        if (found := left.pop()) is None:
            raise httpx.ReadTimeout("late", request=request)
        return found

    return answer


def test_what_only_reads_is_asked_again() -> None:
    api, asked = asked_of(too_late(2, httpx.Response(200, json={"dags": []})))
    assert api.get("/api/v2/dags") == {"dags": []}
    assert [request.method for request in asked] == ["GET"] * 3


def test_a_login_is_asked_for_again() -> None:
    login = too_late(2, httpx.Response(201, json={"access_token": "t"}))
    api = AirflowApi(CONNECTION)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return login(request)
        return httpx.Response(200, json={"dags": request.headers["Authorization"]})

    api._http = httpx.Client(base_url=api.url, transport=httpx.MockTransport(answer))
    assert api.get("/api/v2/dags") == {"dags": "Bearer t"}


@pytest.mark.parametrize("status", [200, 409])
def test_a_run_is_asked_for_again_by_its_id_so_that_there_is_one(status: int) -> None:
    """409: the server had taken the request that it did not answer."""
    api, asked = asked_of(too_late(1, httpx.Response(status, json={"detail": "exists"})))
    run = api.trigger("ingest")
    assert [json.loads(request.content)["dag_run_id"] for request in asked] == [run, run]


def test_a_server_that_never_answers_and_one_that_refuses_are_not_asked_for_ever() -> None:
    api, asked = asked_of(too_late(9, httpx.Response(200)))
    with pytest.raises(AirflowApiError, match="no answer"):
        api.trigger("ingest")
    assert len(asked) == 3
    api, asked = asked_of(lambda request: httpx.Response(409, text="paused"))
    with pytest.raises(AirflowApiError, match="HTTP 409: paused"):
        api.trigger("ingest")
    assert len(asked) == 1


def test_a_run_that_is_skipped_is_begun_anew_once_its_dag_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    parsed = iter([404, 200])
    states = iter(["skipped", "success"])
    started: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        path, state = request.url.path, "success"
        if path == "/api/v2/dags/replicate":
            return httpx.Response(next(parsed), json={})
        if "Errors" in path:
            return NO_ERRORS
        if request.method == "POST":
            started.append(next(states))
        if path.endswith("/taskInstances"):
            state = started[-1]
            found = [{"task_id": "conclude", "state": state}]
            return httpx.Response(200, json={"task_instances": found, "total_entries": 1})
        return httpx.Response(200, json={"state": state, "value": {"copied": len(started)}})

    api, _ = asked_of(answer)
    told: list[str] = []
    assert api.run("replicate", "conclude", tell=told.append) == {"copied": 2}
    assert told == [
        "conclude skipped",
        "skipped, because another run has the lease; next try in 5 s",
        "conclude success",
    ]


def test_a_dag_is_waited_for_until_airflow_has_read_it_and_finds_it_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    parsed = [httpx.Response(404), httpx.Response(200, json={"is_stale": True}), httpx.Response(200, json={})]

    def answer(request: httpx.Request) -> httpx.Response:
        return NO_ERRORS if "importErrors" in request.url.path else parsed.pop(0)

    api, _ = asked_of(answer)
    api.await_dag("ingest_late")
    assert not parsed


def test_the_dag_of_a_corrected_pipeline_is_waited_for_and_that_of_a_wrong_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    wrong = httpx.Response(200, json={"tags": [{"name": "broken"}]})
    parsed = [wrong, httpx.Response(200, json={"tags": [{"name": "rempart"}]})]
    api, asked = asked_of(lambda request: parsed[min(len(asked), 2) - 1])
    api.await_dag("ingest_late")
    assert len(asked) == 2
    parsed[1] = wrong
    with pytest.raises(AirflowApiError, match="finds the pipeline 'NAME' at fault"):
        api.await_dag("ingest_late")


CHANGED = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STAND_IN = {"tags": [{"name": name} for name in ("broken", "late_trains", "rempart", "trains")], "is_stale": False}
NO_ERRORS = httpx.Response(200, json={"import_errors": [], "total_entries": 0})


@pytest.mark.parametrize("found", ["the pipeline", "the file of a DAG", "the file of an unknown DAG"])
def test_a_fault_that_airflow_found_after_the_last_change_is_told_at_once_and_an_older_one_is_not(
    monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(pipelines, "changed_at", lambda: CHANGED)
    at = [CHANGED - timedelta(seconds=20), CHANGED + timedelta(seconds=20)]

    def answer(request: httpx.Request) -> httpx.Response:
        found_at = at[min(len(waited), 1)].isoformat()
        if "importErrors" in request.url.path:
            trace = {"filename": "ingest.py", "stack_trace": f"{FRAMES}ImportError: no x", "timestamp": found_at}
            others = [trace | {"filename": name} for name in ("train.py", "ingest_late.py")]
            return httpx.Response(200, json={"import_errors": [*others, trace], "total_entries": 3})
        if found == "the pipeline":
            return httpx.Response(200, json=STAND_IN | {"last_parsed_time": found_at, "last_parse_duration": 2.5})
        return httpx.Response(404) if "unknown" in found else httpx.Response(200, json={"is_stale": True})

    api, _ = asked_of(answer)
    with pytest.raises(AirflowApiError) as told:
        api.await_dag("ingest_late_trains" if found == "the pipeline" else "ingest_trains")
    assert len(waited) == 1, "the older fault may be corrected, the newer one is told at once"
    if found == "the pipeline":
        assert told.value.what == "run ingest_late_trains: Airflow finds the pipeline 'late_trains' at fault"
        assert "`rempart pipeline check late_trains`" in told.value.hint
    else:
        assert told.value.what == "run ingest_trains: Airflow cannot import ingest.py: ImportError: no x"


def test_an_account_that_may_not_read_import_errors_waits_for_the_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    parsed = [httpx.Response(404), httpx.Response(200, json={})]
    api, _ = asked_of(lambda request: httpx.Response(403) if "Errors" in request.url.path else parsed.pop(0))
    api.await_dag("ingest_late")
    assert not parsed


def test_the_last_change_of_the_projects_files_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    monkeypatch.setattr(pipelines, "project_root", lambda: tmp_path)
    assert pipelines.changed_at() == datetime.fromtimestamp(0, UTC)
    file = tmp_path / "include" / "pipelines" / "a.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    os.utime(file, (0, 0))
    assert pipelines.changed_at() >= before, "a file that was put back with its old date was changed now"


def test_a_dag_whose_file_is_gone_is_not_waited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    api, _ = asked_of(
        lambda request: NO_ERRORS if "Errors" in request.url.path else httpx.Response(200, json={"is_stale": True})
    )
    with pytest.raises(AirflowApiError, match="finds the DAG in no file"):
        api.await_dag("ingest_late")


@pytest.mark.parametrize("most", [100, 7])
def test_a_list_is_read_to_its_last_page_however_small_the_servers_pages_are(most: int) -> None:
    """Airflow cuts `limit` to `api.maximum_page_limit`, and says nothing about it."""
    there = [f"dag_{number:03d}" for number in range(250)]

    def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params
        start, count = int(query.get("offset", 0)), min(int(query.get("limit", 50)), most)
        page = [
            {"dag_id": name, "filename": name, "stack_trace": "", "state": "success", "task_id": name} for name in there
        ]
        entries = {"dags": "dags", "importErrors": "import_errors"}.get(request.url.path.rpartition("/")[2])
        page = page[start : start + count]
        return httpx.Response(
            200, json={entries or "task_instances": page, "total_entries": len(there), "state": "success"}
        )

    api, _ = asked_of(answer)
    assert api.dag_ids() == there
    assert len(api.import_errors()) == 250
    told: list[str] = []
    api.follow("train", "run", told.append)
    assert told[0].count("success") == 250


def test_a_keyed_run_is_started_once_and_not_with_other_parameters() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"dag_run_id": "key__1", "conf": {"a": 1}})
        return httpx.Response(409, json={"detail": "exists"})

    api, asked = asked_of(answer)
    assert not api.trigger_once("d", "key__1", {"a": 1})
    assert [request.method for request in asked] == ["POST", "GET"]
    with pytest.raises(AirflowApiError, match="other parameters"):
        api.trigger_once("d", "key__1", {"a": 2})
    new, _ = asked_of(lambda request: httpx.Response(200, json={}))
    assert new.trigger_once("d", "key__2")


def test_the_runs_that_have_not_ended_are_told_and_an_unknown_dag_has_none() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "/gone/" in request.url.path:
            return httpx.Response(404, json={"detail": "no such DAG"})
        assert request.url.params.get_list("state") == ["running", "queued"]
        runs = [{"dag_run_id": "r", "state": "queued"}, {"dag_run_id": "s", "state": "running"}]
        return httpx.Response(200, json={"dag_runs": runs, "total_entries": len(runs)})

    api, _ = asked_of(answer)
    assert api.unfinished_runs("d") == ["d, run s (running)", "d, run r (queued)"]
    assert api.unfinished_runs("gone") == []
