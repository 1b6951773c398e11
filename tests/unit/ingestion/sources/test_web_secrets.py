"""Secrets of the source `http` go to their own host only, and no address leads to an undeclared place."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rempart.deployment.setup import site_certificates
from rempart.errors import ConnectionMissing, EgressDenied, IngestError, PlacementDenied, SourceUnavailable
from rempart.settings.config import Connection
from tests.http_service import Reply, Request, serving
from tests.unit.ingestion.sources.test_web import ROWS, TOKEN, as_json, client


@pytest.mark.parametrize(
    ("connection", "header", "value"),
    [
        (TOKEN, "authorization", "Bearer not-to-be-seen"),
        (Connection("shop", "http", login="me", password="x"), "authorization", "Basic bWU6eA=="),
        (Connection("shop", "http", password="key", extra={"header": "X-Api-Key"}), "x-api-key", "key"),
    ],
)
def test_the_secret_goes_in_a_header(connection: Connection, header: str, value: str) -> None:
    with serving(lambda asked: as_json([])) as service:
        client(service.url, connection=connection).page(f"{service.url}/rows")
        assert service.asked[0].headers[header] == value


@pytest.mark.parametrize(
    "connection", [Connection("shop", "http"), Connection("shop", "http", password="a\r\nHost: b")]
)
def test_a_secret_that_is_none_is_refused(connection: Connection) -> None:
    with pytest.raises(ConnectionMissing):
        client("http://127.0.0.1:9/", connection=connection)


def test_a_redirect_carries_no_secret_to_another_host_or_port() -> None:
    with serving(lambda asked: as_json(ROWS)) as other:
        with serving(lambda asked: Reply(status=302, headers={"Location": f"{other.url}/rows"})) as service:
            asked: list[tuple[str, int]] = []
            home = client(service.url, connection=TOKEN, allow=lambda host, port: asked.append((host, port)))
            with pytest.raises(IngestError, match="without TLS"):  # another server without TLS: not even asked
                home.page(f"{service.url}/rows")
        assert other.asked == []


def test_a_redirect_to_the_same_server_keeps_the_secret_and_an_endless_one_ends() -> None:
    def answers(asked: Request) -> Reply:
        if asked.path == "/old":
            return Reply(status=307, headers={"Location": "/rows"})
        return Reply(status=302, headers={"Location": "/loop"}) if asked.path == "/loop" else as_json([])

    with serving(answers) as service:
        client(service.url, connection=TOKEN).page(f"{service.url}/old")
        assert service.asked[-1].headers["authorization"] == "Bearer not-to-be-seen"
        with pytest.raises(IngestError, match="redirects"):
            client(service.url).page(f"{service.url}/loop")


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://me:pw@127.0.0.1/",
        "//",
        "http://[::1",
        "https://[x",
        "gopher://x:1/",
    ],
)
def test_nothing_but_plain_http_is_followed(target: str) -> None:
    elsewhere = Reply(status=302, headers={"Location": target})
    with serving(lambda asked: elsewhere) as service, pytest.raises(IngestError):
        client(service.url).page(service.url)


def test_the_policy_is_asked_about_each_host_before_anything_is_sent() -> None:
    def allow(host: str, port: int) -> None:
        if host != "127.0.0.1":
            raise PlacementDenied(f"{host}", "no")

    inside = Reply(status=302, headers={"Location": "https://inside.example/"})
    with serving(lambda asked: inside) as service, pytest.raises(PlacementDenied, match=r"inside\.example"):
        client(service.url, allow=allow).page(service.url)


def test_a_name_that_leads_to_this_machine_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with serving(lambda asked: as_json([])) as service:
        real = socket.create_connection
        monkeypatch.setattr(
            socket, "create_connection", lambda address, *a, **k: real(("127.0.0.1", service.port), *a, **k)
        )
        for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(EgressDenied, match=r"leads to 127\.0\.0\.1"):
            client("https://api.acme.example/").page("https://api.acme.example/rows")
        assert service.asked == []


def test_no_proxy_gets_the_secret_of_a_service_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda asked: as_json([])) as proxy, serving(lambda asked: as_json([])) as service:
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        named = Connection("shop", "http", password="not-to-be-seen", extra={"proxy": proxy.url})
        for connection in (TOKEN, named):
            client(service.url, connection=connection).page(f"{service.url}/rows")
        assert (len(service.asked), proxy.asked) == (2, [])


def test_messages_and_logs_hold_no_query_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda asked: Reply(status=403)) as service, pytest.raises(IngestError) as refused:
        client(service.url, connection=TOKEN).page(f"{service.url}/rows?since=a-value")
    assert "a-value" not in str(refused.value) + caplog.text
    assert "not-to-be-seen" not in str(refused.value) + caplog.text


def test_a_private_authority_counts_and_another_host_gets_no_secret(tmp_path: Path) -> None:
    made = site_certificates.make("test", datetime.now(UTC)).files()
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "site.pem", tmp_path / "site.key")
    with serving(lambda asked: as_json(ROWS), tls) as other:
        moved = Reply(status=302, headers={"Location": f"{other.url}/rows"})
        with serving(lambda asked: moved if asked.path == "/moved" else as_json([]), tls) as service:
            with pytest.raises(SourceUnavailable, match="certificate verify failed"):
                client(service.url, connection=TOKEN).page(service.url)
            home = client(service.url, connection=TOKEN, ca_file=tmp_path / "ca.pem")
            home.page(f"{service.url}/rows")
            assert "authorization" in service.asked[-1].headers
            home.page(f"{service.url}/moved")
            assert len(other.asked) == 1 and "authorization" not in other.asked[0].headers


@pytest.mark.parametrize("url", ["https://[x", "https://xn--\u2100/", "https://a.example/" + "x" * 70_000])
def test_an_address_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(IngestError, match="no plain HTTP address"):
        client("http://127.0.0.1:9/").page(url)
