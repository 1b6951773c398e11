"""The server closes connections whose header does not arrive, and a signal lets its caller finish."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from pathlib import Path

import pytest
import uvloop

from bench.outside import make_pair
from rempart.serving.scorer import handshakes, http_server
from tests.answering import ROW
from tests.unit.serving.scorer.test_app import KEY, running


def test_a_slow_client_is_dropped_and_a_signal_ends_the_server_after_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "HEADER_SECONDS", 0.2)
    body = json.dumps(ROW).encode()
    head = (
        f"POST /predict/stays HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def main() -> None:
        async with running() as found:
            server = http_server.server(found.scorer.application(), "127.0.0.1", 0)
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            slow, half = await asyncio.open_connection("127.0.0.1", port)
            half.write(b"POST /predict/stays HTTP/1.1\r\nHost")
            assert await slow.read() == b"", "the connection is closed without an answer"
            monkeypatch.setattr(http_server, "HEADER_SECONDS", 600)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert (await reader.readline()).startswith(b"date: "), "every answer has its time"
            writer.close()
            endless, long = await asyncio.open_connection("127.0.0.1", port)
            long.write(b"GET /v2 HTTP/1.1\r\nX: " + b"a" * (http_server.MOST_HEADER + 1))
            assert await asyncio.wait_for(endless.read(), 120) == b""
            refused, rest = await asyncio.open_connection("127.0.0.1", port)
            rest.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            await refused.readuntil(b"HTTP/1.1 200")  # the time for this connection's first header is over
            monkeypatch.setattr(http_server, "HEADER_SECONDS", 0.2)
            rest.write(head.replace(KEY, "none").replace(str(len(body)), "99999999").encode() + b"{")
            await refused.readuntil(b"HTTP/1.1 401")
            await refused.read()  # the connection ends, although the rest of the body never comes
            for each in (half, rest, long):
                each.close()
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
            assert len(found.log.entries) == 1

    asyncio.run(main())


def test_a_client_that_begins_no_handshake_is_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(http_server, "HEADER_SECONDS", 5)
    pair = make_pair(tmp_path, "localhost")
    trusts = ssl.create_default_context(cafile=pair.certificate)

    async def main() -> None:
        async with running() as found:
            server = http_server.server(found.scorer.application(), "", 0, (pair.certificate, pair.key))
            listening = http_server.listen("127.0.0.1", 0)
            serving = asyncio.create_task(server.serve([listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            port = listening.getsockname()[1]
            mute, _ = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(mute.read(), 120) == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusts, server_hostname="localhost")
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            server.should_exit = True
            await serving

    uvloop.run(main())


def test_handshakes_that_do_not_end_make_room_for_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(handshakes, "LEAST", 1)
    monkeypatch.setattr(http_server, "HEADER_SECONDS", 600)
    pair = make_pair(tmp_path, "localhost")
    trusts = ssl.create_default_context(cafile=pair.certificate)
    asks = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"

    async def main() -> None:
        async with running() as found:
            server = http_server.server(found.scorer.application(), "", 0, (pair.certificate, pair.key), most=5)
            listening = http_server.listen("127.0.0.1", 0)
            serving = asyncio.create_task(server.serve([listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            port = listening.getsockname()[1]

            async def asked() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                opened = await asyncio.open_connection("127.0.0.1", port, ssl=trusts, server_hostname="localhost")
                opened[1].write(asks)
                assert (await opened[0].readline()).startswith(b"HTTP/1.1 200")
                return opened

            first = await asked()
            mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
            other = await asked()
            ended = [await asyncio.wait_for(reader.read(), 120) for reader, _ in mute[:26]]
            assert ended == [b""] * 26, "they went before their time was over"
            first[1].write(asks)
            await first[0].readuntil(b"HTTP/1.1 200")  # who asked keeps its connection
            for _, writer in (first, other, *mute):
                writer.close()
            server.should_exit = True
            await serving

    uvloop.run(main())
