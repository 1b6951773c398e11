"""The list of routes: who may make which call, however its path is spelled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.tracking_access import routes

LISTED = routes.listed()


def allowed(role: str, method: str, path: str) -> bool:
    return routes.is_plain(path) and routes.allowed(LISTED, role, method, path) is not None


def test_a_job_has_the_calls_of_a_job_and_a_person_has_no_call_that_writes() -> None:
    jobs = {(route.method, route.template) for route in LISTED if "job" in route.who}
    assert len(jobs) == 12 and all(template.startswith("/api/2.0/") for _, template in jobs)
    reads = ("/search", "/get-latest-versions")
    assert all(
        route.method == "GET" or route.template.endswith(reads)
        for route in LISTED
        if route.who & {"person", routes.ANYBODY}
    )
    assert {route.template for route in LISTED if routes.ANYBODY in route.who} == {"/health"}


def test_places_and_versions_are_the_platform_s() -> None:
    for path in ("experiments/create", "registered-models/create", "model-versions/create", "registered-models/alias"):
        for api in ("api", "ajax-api"):
            assert allowed("platform", "POST", f"/{api}/2.0/mlflow/{path}")
            assert not allowed("job", "POST", f"/{api}/2.0/mlflow/{path}")
            assert not allowed("person", "POST", f"/{api}/2.0/mlflow/{path}")


def test_a_path_that_fits_two_lines_needs_both() -> None:
    listed = routes.read("platform,person GET /a/<name>\nplatform GET /a/search\n")
    assert routes.allowed(listed, "person", "GET", "/a/1")
    assert routes.allowed(listed, "person", "GET", "/a/search") is None
    found = routes.allowed(listed, "platform", "HEAD", "/a/search")
    assert found and found.route.template == "/a/search"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "//a",
        "/a/",
        "/a//b",
        "/./a",
        "/a/..",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/%25",
        "/a\\b",
        "/a\0b",
        "/a\nb",
        "/a/...",
        "/ä",
        "/a?b",
        "/" + "a" * 3000,
    ],
)
def test_a_path_that_could_mean_another_is_none(path: str) -> None:
    assert not routes.is_plain(path)


@pytest.mark.parametrize("raw", [b"/a%2Fb", b"/a%2fb", b"/%2e", b"/a%5Cb", b"/%00", b"/%2561"])
def test_an_encoded_separator_is_refused_whatever_it_decodes_to(raw: bytes) -> None:
    assert not routes.is_plain("/a/b", raw)
    assert routes.is_plain("/a/b", b"/a/b") and routes.is_plain("/a b", b"/a%20b")


@given(st.lists(st.sampled_from([".", "..", "", "a", "%2e", "%2F", "artifacts", "\\", "1"]), max_size=6))
def test_no_plain_path_has_an_empty_segment_or_dots(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    if routes.is_plain(path) and path != "/":
        assert not {"", ".", ".."} & set(path[1:].split("/")) and "%" not in path and "\\" not in path


def test_a_line_that_is_none_is_told_by_its_number() -> None:
    with pytest.raises(ValueError, match="line 2"):
        routes.read("nobody GET /a\neverybody GET /b\n")


def test_a_new_route_is_told_as_it_would_stand_in_the_list() -> None:
    registered = [("GET", "/health"), ("POST", "/new/{name:path}/<path:x>/{id}")]
    assert routes.unlisted(LISTED, registered) == ["POST /new/<path:name>/<path:x>/<id>"]
