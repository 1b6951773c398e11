"""The proof of ports: how it reads the kernel's tables and the answers that attackers get."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import access_attacks, access_compose, access_embedded, intruder, listening
from bench.access_attacks import Attack, Row, lets_in, of_site, rows
from bench.listening import Port
from rempart.deployment.setup import paths
from rempart.settings import config

ROOT = Path(__file__).resolve().parents[3]
EVERYWHERE = "0.0.0.0"  # noqa: S104 # compared, not bound
TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4A2E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 x 100 0 0 10 0
   1: 0100007F:4A2E 0100007F:C0DE 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 x 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 x 100 0 0 10 0
"""
TABLE6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1 x 100 0 0
"""


def test_the_kernels_table_says_who_listens_and_where() -> None:
    found = list(listening.parse(TABLE, "tcp"))
    assert found == [Port("tcp", "127.0.0.1", 18990, "4242"), Port("tcp", EVERYWHERE, 80, "4244")]
    assert [(port.address, port.port) for port in listening.parse(TABLE6, "tcp6")] == [("::1", 8080)]


def test_ports_and_sockets_of_a_process_are_found(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        ports = listening.of_processes([os.getpid()])
        assert server.getsockname()[1] in {port.port for port in ports}
        assert str(path) in listening.sockets_of_processes([os.getpid()])


def test_a_port_of_which_nobody_said_what_it_is_is_red_and_so_is_one_that_was_not_seen(tmp_path: Path) -> None:
    stack = paths.Stack(ROOT, tmp_path / "var", config.load(ROOT / "rempart.yaml"))
    stranger, postgresql = Port("tcp", "127.0.0.1", 9, "1"), Port("tcp", "127.0.0.1", stack.ports["postgresql"], "2")
    wide = Port("tcp", EVERYWHERE, stack.ports["mlflow"], "3")
    ports = {stranger: os.getpid(), postgresql: os.getpid(), wide: os.getpid()}
    found = access_embedded.unknown(access_embedded.Place(stack, ports, {}))
    assert not any(row.ok for row in found)
    assert [row.who for row in found[:2]] == ["nobody said what it is", "other machines"]
    assert {row.endpoint for row in found[2:]} == set(stack.ports) - {"postgresql", "mlflow"}


@pytest.mark.parametrize(
    ("answer", "order", "let"),
    [
        ({"status": 200, "text": ""}, {}, True),
        ({"status": 302, "text": ""}, {}, True),
        ({"status": 401, "text": ""}, {}, False),
        ({"status": 404, "text": ""}, {}, False),
        ({"status": None, "text": "closed"}, {}, False),
        ({"status": None, "text": "TimeoutError: timed out"}, {}, True),  # unknown is no refusal
        ({"status": None, "text": "no answer"}, {"refusal": "no answer"}, False),
        ({"status": None, "text": "+PONG"}, {"refusal": "-"}, True),
        ({"status": None, "text": "-NOAUTH"}, {"refusal": "-"}, False),
    ],
)
def test_what_counts_as_let_in(answer: Mapping[str, Any], order: Mapping[str, Any], let: bool) -> None:
    assert lets_in(Attack("d", "w", "x", order), answer) == let
    assert not lets_in(Attack("d", "w", "x", {}, plain=True), {"status": 200, "text": ""})
    strict = Attack("d", "w", "x", {}, strict=True)
    assert lets_in(strict, {"status": 400, "text": ""}) and not lets_in(strict, {"status": 403, "text": ""})


def test_the_table_tells_who_got_what() -> None:
    attacks = [Attack("a", "w", "GET /", {}), Attack("a", "w", "GET /x", {}), Attack("b", "w", "GET /", {}, plain=True)]
    answers = [{"status": 401, "text": ""}, {"status": 200, "text": ""}, {"status": 200, "text": ""}]
    first, second = rows(attacks, answers)
    assert (first.tries, first.answers, first.let_in, first.ok) == (2, ("200", "401"), ("GET /x: 200",), False)
    assert second.ok and second.answers == ("200 (nothing in it)",)
    assert "| a | w | 2 | 200, 401 | GET /x: 200 |" in access_attacks.page([first], "# head")
    assert not Row("a", "w", 0, (), ()).ok, "what was not tried is not proved"


@pytest.mark.parametrize(
    "part", ["", "master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "s3-grpc"]
)
def test_each_port_of_a_site_is_attacked(part: str) -> None:
    assert of_site("haven", part, {"host": "h", "port": 1}, "landing", "k", "somebody")


def test_every_port_of_a_container_has_a_name() -> None:
    declared = access_compose.parts(ROOT)
    assert declared["postgres"] == {15432: "postgresql"} and declared["broker"] == {16379: "broker"}
    assert declared["haven"][18433] == "haven" and "haven s3-grpc" in declared["haven"].values()
    assert set(declared["gate"]) == {18080, 15000, 19090, 18090}


def test_the_intruder_tells_a_call_that_was_taken_from_one_that_was_not() -> None:
    def serve(server: socket.socket, says: bytes) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(says)

    settings, headers = b"\0\0\0\4\0\0\0\0\0", b"\0\0\1\1\5\0\0\0\1\x88"
    for says, status in ((settings + headers, 200), (settings, None), (b"", None), (b"HTTP/1.1 400 Bad\r\n", None)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=(server, says))
            thread.start()
            order = {"how": "grpc", "host": "127.0.0.1", "port": server.getsockname()[1], "path": "/x"}
            assert intruder.ask(order)["status"] == status
            thread.join(5)
