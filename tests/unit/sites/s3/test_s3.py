"""The S3 adapter before any server answers: its errors name site, bucket and key, and never a secret."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rempart.errors import PlacementDenied, SiteError, SiteUnavailable
from rempart.settings.config import Connection
from rempart.sites.digests import file_sha256
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.policy import Decision, Reason

ALLOWED = Decision(True, "internal", "data", "site 'primary'", (Reason(True, "rule", "fact"),))
DENIED = Decision(False, "internal", "data", "site 'primary'", (Reason(False, "policy.x", "the fact", "the remedy"),))


def test_there_is_no_client_without_a_permission() -> None:
    connection = Connection("s3_primary", "aws", extra={"endpoint_url": "http://127.0.0.1:1"})
    with pytest.raises(PlacementDenied, match=r"(?s)policy\.x: the fact.*the remedy"):
        S3Site("primary", connection, "r1", DENIED)


def test_a_connection_without_an_endpoint_is_refused() -> None:
    with pytest.raises(SiteError, match="has no endpoint") as error:
        S3Site("primary", Connection("s3_primary", "aws", login="key", password="secret-word"), "r1", ALLOWED)
    assert "secret-word" not in str(error.value)


def test_a_site_that_does_not_answer_is_transient_and_named() -> None:
    with socket.socket() as taken:  # bound, not listening: a connection to it is refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        connection = Connection(
            "s3_primary", "aws", login="key", password="secret-word", extra={"endpoint_url": endpoint}
        )
        site = S3Site("primary", connection, "r1", ALLOWED)
        with pytest.raises(SiteUnavailable) as error:
            site.head("lake", "some/key")
    assert error.value.transient
    for part in ("primary", "lake/some/key", endpoint, "rempart status"):
        assert part in str(error.value)
    assert "secret-word" not in str(error.value)


def test_a_files_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
