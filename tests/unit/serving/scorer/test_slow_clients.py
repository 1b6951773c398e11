"""Clients that are slow, many, or send too much: memory stays small, and the others are answered."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvicorn
import uvloop

from rempart.errors import ServingError
from rempart.serving.scorer import bodies, http_server
from rempart.serving.scorer.batches import BatchAnswer
from rempart.serving.scorer.rows import Key, Row
from tests.answering import ROW, ScriptedVersion
from tests.unit.serving.scorer.test_app import KEY, running

BODY = json.dumps(ROW).encode()


def head(length: str = f"Content-Length: {len(BODY)}", key: str = KEY) -> bytes:
    return f"POST /predict/stays HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{length}\r\n\r\n".encode()


class RawConnection:
    """A connection to the scorer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes = head() + BODY) -> int:
        """Send a request. Return the status of its answer."""
        self.writer.write(request)
        await self.writer.drain()
        return await self.answered()

    async def answered(self) -> int:
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length:"))
        told = json.loads(await self.reader.readexactly(int(length.split(b":")[1])))
        status = int(answer.split(b" ")[1])
        assert status == 200 or set(told) == {"error", "remedy"}
        return status

    async def is_ended(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@dataclass
class Served:
    """A scorer that listens on a port of this machine."""

    server: uvicorn.Server
    port: int

    async def open(self, buffer: int | None = None) -> RawConnection:
        client = socket.socket()
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return RawConnection(*await asyncio.open_connection(sock=client, limit=buffer or 1 << 16))


@asynccontextmanager
async def served(most: int = 50, version: ScriptedVersion | None = None) -> AsyncIterator[Served]:
    async with running(version) as found:
        server = http_server.server(found.scorer.application(), "127.0.0.1", 0, most=most)
        listening = http_server.listen("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield Served(server, listening.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


def in_loop(check: Callable[[Served], Awaitable[None]], most: int = 50, version: ScriptedVersion | None = None) -> None:
    async def main() -> None:
        async with served(most, version) as found:
            await check(found)

    asyncio.run(main())


def test_a_flood_of_connections_takes_the_place_of_none_that_asks() -> None:
    async def check(found: Served) -> None:
        steady = await found.open()
        assert await steady.ask() == 200
        flood = []
        for number in range(120):
            flood.append(silent := await found.open())
            if number % 3 == 0:
                silent.writer.write(head()[:20])  # its header never ends
            if number % 10 == 0:
                assert await steady.ask() == 200, "its connection stays"
                assert await (await found.open()).ask() == 200, "a new client finds a place"
        ended = sum([await each.is_ended() for each in flood[:60]])
        assert ended == 60, "those that waited longest went"

    in_loop(check)


class Stuck(ScriptedVersion):
    """A version that answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def answer(self, rows: Sequence[Row | Key]) -> BatchAnswer:
        assert self.may.wait(30)
        return super().answer(rows)


def test_a_client_that_goes_while_several_of_its_requests_are_under_way_fails_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    version = Stuck()

    async def main() -> None:
        async with served(version=version) as found:
            gone = await found.open()
            gone.writer.write((head() + BODY) * 3)
            while not found.server.server_state.tasks:
                await asyncio.sleep(0.01)
            gone.writer.transport.abort()
            while found.server.server_state.connections:
                await asyncio.sleep(0.01)
            version.may.set()
            while found.server.server_state.tasks:
                await asyncio.sleep(0.01)
            assert await (await found.open()).ask() == 200

    uvloop.run(main())
    assert "Exception" not in caplog.text


def test_while_every_connection_has_a_request_under_way_a_further_one_is_told_so() -> None:
    version = Stuck()

    async def check(found: Served) -> None:
        busy = [await found.open() for _ in range(3)]
        asked = [asyncio.create_task(each.ask()) for each in busy]
        while len(found.server.server_state.tasks) < 3:
            await asyncio.sleep(0.01)
        assert await (await found.open()).answered() == 503
        version.may.set()
        assert await asyncio.gather(*asked) == [200] * 3
        assert await busy[0].ask() == 200
        assert await (await found.open()).ask() == 200

    in_loop(check, most=3, version=version)


def test_a_client_that_does_not_read_its_answers_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "READ_SECONDS", 0.2)
    rows = json.dumps({"rows": [ROW] * 1000}).encode()
    request = head(f"Content-Length: {len(rows)}") + rows

    async def check(found: Served) -> None:
        deaf = await found.open(buffer=4096)
        sending = asyncio.create_task(sent_again_and_again(deaf, request))
        while not sending.done():
            assert await (await found.open()).ask() == 200
        assert isinstance(await sending, ConnectionError)

    in_loop(check)


async def sent_again_and_again(opened: RawConnection, request: bytes) -> Exception:
    try:
        while True:
            opened.writer.write(request)
            await opened.writer.drain()
    except ConnectionError as ended:
        return ended


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


@pytest.mark.parametrize("key", [KEY, "none"], ids=["with a key", "without one"])
def test_requests_of_64_mb_are_refused_without_being_held(key: str) -> None:
    part, whole = b" " * (1 << 16), 1 << 10
    status = 413 if key == KEY else 401

    async def check(found: Served) -> None:
        big, endless = await found.open(), await found.open()
        big.writer.write(head(f"Content-Length: {whole * len(part)}", key))
        endless.writer.write(head("Transfer-Encoding: chunked", key))
        tracemalloc.start()
        try:
            for number in range(whole):
                for opened, body in ((big, part), (endless, chunked(part))):
                    if opened is big or number < whole - 10:  # with its frame it is longer
                        opened.writer.write(body)
                        await opened.writer.drain()
                if number % 256 == 0:
                    assert await (await found.open()).ask() == 200
            endless.writer.write(b"0\r\n\r\n")
            assert await big.answered() == status and await endless.answered() == status
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()
        assert await big.ask() == 200, "the connection is whole"

    in_loop(check)


def test_bodies_of_all_requests_together_stay_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MOST_HELD", 1 << 20)
    body = BODY + b" " * 400_000
    whole = head(f"Content-Length: {len(body)}") + body

    async def check(found: Served) -> None:
        slow = [await found.open() for _ in range(4)]
        for each in slow:
            each.writer.write(whole[:-1])  # with a key, and all but the last byte
            await each.writer.drain()
        ended = [asyncio.create_task(each.answered()) for each in slow]
        done, waiting = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        assert {each.result() for each in done} == {503}
        assert await (await found.open()).ask() == 200, "there is room for others again"
        for each in slow:
            each.writer.write(whole[-1:])
        assert [await each for each in waiting].count(200) >= 2
        assert await slow[0].ask(whole) in (200, 503)
        for _ in range(5):
            assert await (await found.open()).ask(whole) == 200, "what was answered is not held"

    in_loop(check)


def test_a_port_that_is_taken_is_told() -> None:
    with http_server.listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ServingError, match="Address already in use") as refused:
            http_server.listen("127.0.0.1", taken.getsockname()[1])
    assert "--port" in refused.value.hint


def test_connections_leave_files_for_models_and_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, raised = (1024, 4096), list[tuple[int, int]]()
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: raised.append(wanted))
    assert http_server.allowed_connections() == 1000 and raised == [(1200, 4096)]
    limits = (256, 512)
    assert http_server.allowed_connections() == 312 and raised[-1] == (512, 512)
    limits = (100_000, 100_000)
    assert http_server.allowed_connections() == 1000 and len(raised) == 2
