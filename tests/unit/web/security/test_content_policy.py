"""Every answer of the web server restricts the browser to the server's own host."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from bench import pages
from rempart.web.security.content_policy import FRAMING, POLICY, ContentPolicy


def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def stricter(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok", headers={"Content-Security-Policy": "default-src 'none'"})


def own(request: Request) -> PlainTextResponse:
    headers = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Frame-Options": "DENY"}
    return PlainTextResponse("ok", headers=headers)


def test_the_policy_names_no_other_host() -> None:
    assert pages.confined(POLICY)


def test_it_is_on_every_answer_and_replaces_none() -> None:
    client = TestClient(ContentPolicy(Starlette(routes=[Route("/plain", plain), Route("/stricter", stricter)])))
    assert client.get("/plain").headers["content-security-policy"] == POLICY
    assert client.get("/absent").headers["content-security-policy"] == POLICY
    assert client.get("/stricter").headers.get_list("content-security-policy") == ["default-src 'none'", FRAMING]


@pytest.mark.parametrize("path", ["/plain", "/absent", "/stricter", "/own"])
def test_s10_no_page_of_another_origin_may_frame_an_answer(path: str) -> None:
    routes = [Route("/plain", plain), Route("/stricter", stricter), Route("/own", own)]
    answer = TestClient(ContentPolicy(Starlette(routes=routes))).get(path)
    policies = answer.headers.get_list("content-security-policy")
    assert sum("frame-ancestors" in policy for policy in policies) == 1
    assert answer.headers["x-frame-options"] == ("DENY" if path == "/own" else "SAMEORIGIN")
