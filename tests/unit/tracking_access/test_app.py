"""The app in front of MLflow: requests that it passes on, and requests that it refuses before MLflow sees them."""

import asyncio
import base64
import json
from typing import Any

import pytest

from rempart.tracking_access import app, job_calls

RUN, OTHERS, MODEL = "a" * 32, "b" * 32, "m-" + "c" * 32
API = "/api/2.0/mlflow"
JOB = "job-1-1-x"


class KnownUsers:
    """Users whose password is `right`, and what is whose."""

    def administrator(self, name: str, password: str) -> bool | None:
        return None if password != "right" else name in ("admin", "job-made-admin")

    def owner(self, kind: str, name: str) -> tuple[str, str] | None:
        return {("run", RUN): (JOB, "7"), ("model", MODEL): (JOB, "7"), ("run", OTHERS): ("job-2-1-y", "7")}.get(
            (kind, name)
        )


class Mlflow:
    """Takes note of what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bytes, dict[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body = (await receive()).get("body", b"")
            self.heard.append((scope["method"], scope["path"], body, dict(scope["headers"])))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})


def call(
    method: str,
    path: str,
    body: Any = b"",
    user: str | None = JOB,
    *,
    query: bytes = b"",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    password: str = "right",  # noqa: S107 # of nobody
) -> tuple[int, Mlflow]:
    inner, answers = Mlflow(), []
    expected_text = base64.b64encode(f"{user}:{password}".encode())
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [*([(b"authorization", b"Basic " + expected_text)] if user else []), *headers],
    }
    parts = [{"type": "http.request", "body": data[: len(data) // 2], "more_body": True}]
    parts.append({"type": "http.request", "body": data[len(data) // 2 :], "more_body": False})

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        answers.append(message)

    asyncio.run(app.Access(inner, KnownUsers())(scope, receive, send))
    return answers[0]["status"], inner


def test_a_run_gets_the_tag_of_its_owner_and_the_body_that_was_judged_is_handed_on() -> None:
    tags = [{"key": "rempart.job_id", "value": "1"}]
    status, mlflow = call("POST", f"{API}/runs/create", {"experiment_id": "7", "tags": tags})
    ((_, _, body, headers),) = mlflow.heard
    assert status == 200 and json.loads(body)["tags"] == [*tags, {"key": job_calls.OWNER, "value": JOB}]
    assert headers[b"content-length"] == str(len(body)).encode() and headers[b"content-type"] == b"application/json"


def test_what_a_job_does_with_its_own_is_handed_on() -> None:
    metric = {"run_id": RUN, "key": "mae", "value": 1.0, "timestamp": 1, "step": 0, "model_id": MODEL}
    for method, path, body, query in (
        ("POST", f"{API}/runs/log-metric", metric, b""),
        ("GET", f"{API}/runs/get", b"", f"run_id={RUN}&run_uuid={RUN}".encode()),
        ("GET", f"{API}/logged-models/{MODEL}", b"", b""),
        ("PATCH", f"{API}/logged-models/{MODEL}", {"model_id": MODEL, "status": 2}, b""),
    ):
        assert call(method, path, body, query=query)[0] == 200
    assert call("PUT", f"/api/2.0/mlflow-artifacts/artifacts/7/{RUN}/artifacts/a/b.png", b"x")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{API}/runs/log-metric", {"run_id": OTHERS, "key": "a", "value": 1, "timestamp": 1}),
        ("POST", f"{API}/runs/log-metric", {"run_id": "x", "key": "a", "value": 1, "timestamp": 1}),
        ("POST", f"{API}/runs/log-metric", {"runId": RUN, "key": "a", "value": 1, "timestamp": 1}),
        ("POST", f"{API}/runs/update", {"status": "FAILED"}),
        ("POST", f"{API}/runs/update", b'{"run_id": "' + OTHERS.encode() + b'", "run_id": "' + RUN.encode() + b'"}'),
        ("POST", f"{API}/runs/update", b"[" * 100_000),
        ("POST", f"{API}/runs/update", b"x" * (app.MOST_BODY + 1)),
        ("POST", f"{API}/runs/create", {"experiment_id": "7", "tags": [{"key": job_calls.OWNER, "value": "x"}]}),
        ("POST", f"{API}/runs/create", {"experiment_id": "7", "tags": {"key": job_calls.OWNER}}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/8/{RUN}/artifacts/a.png", b"x"),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/7/{OTHERS}/artifacts/a.png", b"x"),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/7/{RUN}/artifacts", b"x"),
        ("POST", f"{API}/experiments/create", {"name": "x"}),
        ("POST", "/a/route/of/a/later/mlflow", {}),
    ],
)
def test_what_is_not_its_own_is_not_heard_of(method: str, path: str, body: Any) -> None:
    status, mlflow = call(method, path, body)
    assert status == 403 and mlflow.heard == []


def test_a_place_for_artifacts_is_refused_to_the_platform_too() -> None:
    for body in ({"name": "x", "artifact_location": "s3://a"}, {"name": "x", "artifactLocation": "file:///"}):
        assert call("POST", f"{API}/experiments/create", body, "admin")[0] == 403
    assert call("POST", f"{API}/experiments/create", {"name": "x", "tags": []}, "admin")[0] == 200


def test_nobody_is_heard_of_without_the_one_right_password() -> None:
    assert call("GET", "/version", user=None)[0] == 401
    assert call("GET", "/version", user="admin", password="wrong")[0] == 401
    other = base64.b64encode(b"admin:right")
    assert call("GET", "/version", user="anna", headers=((b"authorization", b"Basic " + other),))[0] == 401
    assert call("GET", "/version", user=None, headers=((b"authorization", b"Bearer x"),))[0] == 401
    assert call("GET", "/version", user=None, headers=((b"x-mlflow-authorization", b"Basic " + other),))[0] == 401
    status, mlflow = call("GET", "/health", user="admin")
    assert status == 200 and b"authorization" not in mlflow.heard[0][3]


def test_a_job_that_somebody_made_an_administrator_stays_a_job() -> None:
    assert call("POST", f"{API}/registered-models/create", {"name": "x"}, "job-made-admin")[0] == 403


def test_a_compressed_body_is_not_judged() -> None:
    encoded = ((b"content-encoding", b"gzip"),)
    assert call("POST", f"{API}/runs/update", {"run_id": RUN}, headers=encoded)[0] == 403


def test_a_web_socket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    inner = Mlflow()
    asyncio.run(app.Access(inner, KnownUsers())({"type": "websocket", "path": "/"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}] and inner.heard == []
