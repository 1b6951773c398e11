"""S10: a write that a page of another origin sends with the reader's cookie reaches no route."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from rempart.web.security.same_origin import SameOrigin

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
HOST = "airflow.example:8080"


def acted(request: Request) -> PlainTextResponse:
    return PlainTextResponse("acted")


@pytest.fixture
def client() -> TestClient:
    route = Route("/act", acted, methods=METHODS)
    app = Starlette(routes=[route, Mount("/rempart", Starlette(routes=[route]))])
    return TestClient(SameOrigin(app), base_url=f"http://{HOST}")


@pytest.mark.parametrize("path", ["/act", "/rempart/act"])
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize(
    "message",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this host
        {"Sec-Fetch-Site": "same-site", "Origin": f"http://{HOST}"},
        {"Origin": "http://airflow.example:9000"},
        {"Origin": "http://airflow.example"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
)
def test_a_write_from_another_origin_with_a_cookie_is_refused(
    client: TestClient, path: str, method: str, message: dict[str, str]
) -> None:
    answer = client.request(method, path, headers=message | {"Cookie": "_token=x"})
    assert answer.status_code == 403 and "another origin" in answer.json()["detail"]


@pytest.mark.parametrize(
    "message",
    [
        {"Sec-Fetch-Site": "same-origin", "Cookie": "_token=x"},
        {"Sec-Fetch-Site": "none", "Cookie": "_token=x"},
        {"Origin": f"http://{HOST}", "Cookie": "_token=x"},
        {"Origin": f"HTTPS://{HOST.upper()}", "Cookie": "_token=x"},
        {"Cookie": "_token=x"},  # no page sends a write without Origin
        {"Sec-Fetch-Site": "cross-site"},  # nobody is signed in by it
        {"Sec-Fetch-Site": "cross-site", "Cookie": "_token=x", "Authorization": "Bearer y"},
    ],
)
def test_every_other_write_passes(client: TestClient, message: dict[str, str]) -> None:
    assert client.post("/act", headers=message).text == "acted"


def test_reading_passes_from_everywhere(client: TestClient) -> None:
    assert client.get("/act", headers={"Sec-Fetch-Site": "cross-site", "Cookie": "_token=x"}).text == "acted"
