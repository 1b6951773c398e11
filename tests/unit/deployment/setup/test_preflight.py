"""Each lack of the machine is found and has a remedy; the script needs no installed package."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rempart.deployment.setup import findings, preflight

SCRIPT = Path(preflight.__file__)


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def test_a_taken_port_names_the_port_its_holder_and_the_way_out(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    found = preflight.check_port("primary master", port, "abc")
    assert found is not None and found.outcome == "failed"
    assert str(port) in found.what and f"process {os.getpid()}" in found.detail
    assert "services.primary.port" in found.remedy and "REMPART_PORT_OFFSET" in found.remedy


def test_a_port_that_this_stack_holds_is_fine() -> None:
    program = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"REMPART_SERVICE": "abc:mlflow"}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        port = int(child.stdout.readline())
        assert preflight.check_port("mlflow", port, "abc") is None
        assert preflight.check_port("mlflow", port, "other") is not None
        child.communicate()


def test_ports_that_one_stop_frees_are_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "port_is_free", lambda port: False)
    monkeypatch.setattr(preflight, "free_offset", lambda environment: 300)
    monkeypatch.setattr(
        preflight, "port_holder", lambda port: (7, "weed", "other:site") if port > 18000 else (8, "x", "")
    )
    first, second = preflight.check_ports(
        {"postgresql": 15432, "primary": 18333, "haven": 18433, "scorer": 18090}, "abc"
    )
    assert (first.what, second.what) == ("port 15432", "port 18333")
    assert second.detail.endswith("; 2 more ports of this stack are taken so") and "Stop that stack" in second.remedy
    assert first.detail.endswith("process 8 (x)")


def test_the_proposed_offset_keeps_out_of_the_ports_of_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "outgoing_ports", lambda: range(32768, 61000))
    busy: set[int] = set()
    monkeypatch.setattr(preflight, "port_is_free", lambda port: port not in busy)
    assert preflight.free_offset({}) == 100
    assert preflight.free_offset({"REMPART_PORT_OFFSET": "14300"}) == 100  # 18440 + 14400 is 32840
    busy |= set(preflight.default_ports(100).values())
    # with 200, the second site would need a port of the first
    assert preflight.free_offset({"REMPART_PORT_OFFSET": "18000"}) == 300
    busy |= set(range(32768))
    assert preflight.free_offset({"REMPART_PORT_OFFSET": "18000"}) == 18100  # better than none
    found = preflight.check_port("scorer", 36090, "abc")
    assert found is None
    busy.add(36090)
    found = preflight.check_port("scorer", 36090, "abc")
    assert found and "an outgoing connection: the system gives these the ports 32768 to 60999" in found.detail


def test_a_port_that_an_outgoing_connection_may_take_is_a_hint_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight, "outgoing_ports", lambda: range(32768, 61000))
    monkeypatch.setattr(findings, "outgoing_ports", lambda: range(32768, 61000))
    monkeypatch.setattr(preflight, "given_ports", lambda: findings.given_ports(tmp_path / "reserved"))
    monkeypatch.setattr(preflight, "reserved_ports", lambda: findings.reserved_ports(tmp_path / "reserved"))
    monkeypatch.setattr(preflight, "port_is_free", lambda port: True)
    monkeypatch.setenv("REMPART_PORT_OFFSET", "18000")
    [low] = preflight.check_ports(preflight.default_ports(100), "abc")
    assert low.outcome == "ok" and not low.remedy
    high = preflight.default_ports(18000)
    [hint] = preflight.check_ports(high, "abc")
    assert not preflight.failures([hint]) and "such as 33000," in hint.detail
    assert hint.remedy == "Set another REMPART_PORT_OFFSET, such as 100."
    [hint] = preflight.check_ports({"airflow": 36080}, "abc")
    assert "may take port 36080 while the stack is stopped" in hint.detail
    monkeypatch.setattr(findings, "outgoing_ports", lambda: range(1024, 65000))  # no offset helps
    [hint] = preflight.check_ports(high, "abc")
    assert hint.remedy.endswith(f"net.ipv4.ip_local_reserved_ports={min(high.values())}-{max(high.values())}")
    (tmp_path / "reserved").write_text("8080\n")
    [hint] = preflight.check_ports(high, "abc")
    assert f"_ports=8080,{min(high.values())}-" in hint.remedy, "those that another program needs stay reserved"
    (tmp_path / "reserved").write_text("8080,33000-37000\n")
    [done] = preflight.check_ports(high, "abc")
    assert done.outcome == "ok", "the remedy helps"


@pytest.mark.parametrize(("told", "ports"), [("32768\t60999\n", range(32768, 61000)), ("", range(0)), (None, range(0))])
def test_ports_of_outgoing_connections_are_those_of_the_system(tmp_path: Path, told: str | None, ports: range) -> None:
    if told is not None:
        (tmp_path / "range").write_text(told)
    assert findings.outgoing_ports(tmp_path / "range") == ports


@pytest.mark.parametrize(
    ("look", "outcome", "message"),
    [
        (lambda: preflight.check_python((3, 10, 2)), "failed", "PYTHON="),
        (lambda: preflight.check_python((3, 14, 0)), "failed", "PYTHON="),
        (lambda: preflight.check_python((3, 12, 1)), "ok", ""),
        (lambda: preflight.check_host("Darwin", "arm64"), "failed", "Linux"),
        (lambda: preflight.check_amount("disk", 1.0, 4, 8, "free some"), "failed", "free some"),
        (lambda: preflight.check_amount("disk", 5.0, 4, 8, "free some"), "warning", "free some"),
        (lambda: preflight.check_amount("disk", 9.0, 4, 8, "free some"), "ok", ""),
        (
            lambda: findings.check_restic({"PATH": "/nowhere"}, Path("/nowhere/restic")),
            "warning",
            "apt-get install restic",
        ),
        (lambda: findings.check_restic({"PATH": "/nowhere"}, Path(__file__)), "ok", ""),
        (lambda: preflight.check_user(0, {"PATH": "/nowhere"}), "failed", "util-linux"),
        (lambda: preflight.check_user(1000, {}), "ok", ""),
        (lambda: preflight.check_certificates({"SSL_CERT_FILE": "/nowhere/ca.pem"}), "failed", "SSL_CERT_FILE"),
        (
            lambda: preflight.check_index({"PIP_INDEX_URL": "http://u:hush@127.0.0.1:9/simple"}, True),
            "failed",
            "PIP_INDEX_URL",
        ),
        (lambda: preflight.check_index({"PIP_INDEX_URL": "http://u:hush@127.0.0.1:9/simple"}, False), "ok", ""),
        (lambda: preflight.check_index({"PIP_NO_INDEX": "1"}, True), "ok", ""),
    ],
)
def test_findings(look: Callable[[], preflight.PreflightFinding], outcome: str, message: str) -> None:
    finding = look()
    assert finding.outcome == outcome and message in finding.remedy
    assert bool(finding.remedy) == (outcome != "ok"), "a fault without a remedy"
    assert "hush" not in finding.line()


def test_the_password_of_an_index_is_given_to_the_index_and_to_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given, looked_up, look_up = list[str | None](), list[object](), socket.getaddrinfo

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def watched(host: object, *more: Any, **named: Any) -> Any:
        looked_up.append(host)
        return look_up(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        index = f"http://me:h%40sh@127.0.0.1:{server.server_port}/simple"
        finding = preflight.check_index({"PIP_INDEX_URL": index}, True)
        server.shutdown()
        thread.join()
    assert finding.outcome == "ok" and "h%40sh" not in finding.line()
    assert given == ["Basic " + base64.b64encode(b"me:h@sh").decode()]
    assert set(looked_up) <= {"127.0.0.1"}


def test_a_proxy_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hush@proxy:3128")
    line = preflight.check_proxy(os.environ).line()
    assert "proxy:3128" in line and "hush" not in line


def test_the_script_runs_with_the_bare_interpreter(tmp_path: Path) -> None:
    # these ports lie below those of outgoing connections, and between those that servers of tests draw in steps of 200
    environment = os.environ | {"REMPART_VAR": str(tmp_path), "PIP_NO_INDEX": "1", "REMPART_PORT_OFFSET": "7050"}
    done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert "preflight: this machine is ready" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("url", ["http://me:secret@proxy:80", "me:secret@proxy:80", "http://me:sec@ret@proxy:80"])
def test_the_password_of_a_proxy_is_never_shown(url: str) -> None:
    shown = preflight.without_secret(url)
    assert "sec" not in shown and "me" not in shown and shown.endswith("***@proxy:80")
    assert preflight.without_secret("proxy:80") == "proxy:80"


def test_restic_is_no_warning_where_set_up_can_unpack_it(tmp_path: Path) -> None:
    apt, unpacked = tmp_path / "apt-get", tmp_path / ".venv" / "tools" / "bin" / "restic"
    apt.touch(mode=0o755)
    assert findings.check_restic({"PATH": str(tmp_path)}, unpacked).outcome == "ok"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / findings.NO_RESTIC).write_text("no network")
    assert findings.check_restic({"PATH": str(tmp_path)}, unpacked).outcome == "warning"
