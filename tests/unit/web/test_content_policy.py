"""Every answer of the web server tells the browser to stay with it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from bench import pages
from rempart.web.content_policy import POLICY, ContentPolicy


def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def stricter(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok", headers={"Content-Security-Policy": "default-src 'none'"})


def test_the_policy_names_no_other_host() -> None:
    assert pages.confined(POLICY)


def test_it_is_on_every_answer_and_replaces_none() -> None:
    client = TestClient(ContentPolicy(Starlette(routes=[Route("/plain", plain), Route("/stricter", stricter)])))
    assert client.get("/plain").headers["content-security-policy"] == POLICY
    assert client.get("/absent").headers["content-security-policy"] == POLICY
    assert client.get("/stricter").headers.get_list("content-security-policy") == ["default-src 'none'"]
