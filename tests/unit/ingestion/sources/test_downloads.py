"""Downloads against a real server with faults: resumed, whole, and never a mixture of two versions."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import IngestError
from rempart.ingestion.sources.web.download import Version, digests_of, download
from tests.http_service import Reply, Request, serving
from tests.unit.ingestion.sources.test_web import NOW, MemorySink, client, opened

BODY = bytes(range(256)) * 400


def ranged(asked: Request, body: bytes, etag: str, *, cut: int | None = None, **more: str) -> Reply:
    headers = {"ETag": etag, **more}
    if asked.headers.get("if-none-match") == etag:
        return Reply(status=304, headers=headers)
    wanted = asked.headers.get("range")
    if wanted and asked.headers.get("if-range") == etag:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return Reply(status=416)
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Reply(body[start:], 206, headers, cut)
    return Reply(body, 200, headers, cut)


@given(st.lists(st.integers(0, 120_000), max_size=5))
def test_a_download_is_resumed_where_it_was_cut(cuts: list[int]) -> None:
    left = list(cuts)

    def answers(asked: Request) -> Reply:
        return ranged(asked, BODY, '"v1"', cut=left.pop(0) if left else None)

    with serving(answers) as service:
        sink = MemorySink()
        got = opened(service, "/year/bookings.csv.gz", download=True, format="csv").extract({}, sink, NOW)
    (name,) = sink.stored
    assert sink.stored[name] == BODY and got.state["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert name == f"bookings-{got.state['sha256'][:32]}.csv.gz"


def test_what_is_unchanged_is_not_downloaded_again() -> None:
    with serving(lambda asked: ranged(asked, BODY, '"v1"')) as service:
        file = opened(service, "/f.csv", download=True, format="csv")
        state = file.extract({}, MemorySink(), NOW).state
        again = file.extract(state, MemorySink(), NOW)
        assert (again.deliveries, again.state) == ([], state)
        assert service.asked[-1].headers["if-none-match"] == '"v1"'
    with serving(lambda asked: Reply(BODY)) as service:  # neither ETag nor time: its bytes tell
        file = opened(service, "/f.csv", download=True, format="csv")
        state = file.extract({}, MemorySink(), NOW).state
        assert file.extract(state, MemorySink(), NOW).deliveries == []


@pytest.mark.parametrize("etag", ["\xe9", "x" * 2000])
def test_a_version_that_no_header_can_carry_is_not_kept(etag: str) -> None:
    with serving(lambda asked: Reply(BODY, headers={"ETag": etag})) as service:
        file = opened(service, "/f.csv", download=True, format="csv")
        state = file.extract({}, MemorySink(), NOW).state
        assert list(state) == ["sha256"]
        assert file.extract(state, MemorySink(), NOW).deliveries == []


def test_a_file_that_was_never_read_is_not_unchanged() -> None:
    with serving(lambda asked: Reply(status=304)) as service, pytest.raises(IngestError, match="status 304"):
        opened(service, "/f.csv", download=True, format="csv").extract({}, MemorySink(), NOW)


def test_a_file_that_changes_meanwhile_is_never_a_mixture() -> None:
    replies = [('"v1"', b"a" * 5000, 2000), ('"v2"', b"b" * 6000, 3000), ('"v2"', b"b" * 6000, None)]

    def answers(asked: Request) -> Reply:
        etag, body, cut = replies.pop(0)
        return ranged(asked, body, etag, cut=cut)

    with serving(answers) as service:
        sink = MemorySink()
        opened(service, "/f.csv", download=True, format="csv").extract({}, sink, NOW)
    assert list(sink.stored.values()) == [b"b" * 6000]


def test_a_range_that_lies_is_not_believed(tmp_path: Path) -> None:
    def answers(asked: Request) -> Reply:
        if "range" in asked.headers:
            return Reply(b"z" * 10, 206, {"ETag": '"v1"', "Content-Range": f"bytes 5-14/{len(BODY)}"})
        return Reply(BODY, 200, {"ETag": '"v1"'}, cut=100)

    with serving(answers) as service, client(service.url) as patient, pytest.raises(IngestError, match="changed"):
        download(patient, f"{service.url}/f", tmp_path / "f", Version())


@pytest.mark.parametrize("name", ["Repr-Digest", "Digest", "Content-MD5"])
def test_a_whole_file_has_the_digest_that_the_service_declares(name: str, tmp_path: Path) -> None:
    kind = "md5" if name == "Content-MD5" else "sha256"

    def declared(body: bytes) -> dict[str, str]:
        text = base64.b64encode(hashlib.new(kind, body, usedforsecurity=False).digest()).decode()
        return {name: {"Repr-Digest": f"sha-256=:{text}:", "Digest": f"SHA-256={text}"}.get(name, text)}

    with serving(lambda asked: Reply(BODY, headers=declared(BODY))) as service, client(service.url) as patient:
        got = download(patient, f"{service.url}/f", tmp_path / "f", Version())
    assert got is not None and got.size == len(BODY)
    with (
        serving(lambda asked: Reply(BODY, headers=declared(b"other"))) as service,
        client(service.url) as patient,
        pytest.raises(IngestError, match="its own digest"),
    ):
        download(patient, f"{service.url}/f", tmp_path / "f", Version())


def test_a_file_of_unknown_length_is_refused(tmp_path: Path) -> None:
    endless = Reply(BODY, length=False)
    with (
        serving(lambda asked: endless) as service,
        client(service.url) as patient,
        pytest.raises(IngestError, match="no length"),
    ):
        download(patient, f"{service.url}/f", tmp_path / "f", Version())


@given(st.text(max_size=40))
def test_no_header_breaks_the_digests(text: str) -> None:
    for name in ("repr-digest", "digest", "content-md5"):
        assert all(len(value) in (16, 32) for value in digests_of({name: text}).values())
