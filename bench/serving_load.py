"""Requests at a server of the bench `serving`: an open loop at a fixed rate, a closed loop, and what they cost."""

from __future__ import annotations

import asyncio
import os
import ssl
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTIONS = 64
"""So many that a server has work while answers wait for the disk."""
KEY = "rempart-client-" + "k" * 43
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class LoadFigures:
    """Figures of one kind of request: milliseconds, requests a second, and processor milliseconds of the server."""

    p50: float
    p99: float
    rate: float
    cpu: float


@dataclass(frozen=True)
class Load:
    """Requests of one kind, on connections that stay open. `pid`: the server, whose children count with it."""

    port: int
    path: str
    body: bytes
    pid: int
    tls: bool = False

    def measure(self, rate: int, seconds: float) -> LoadFigures:
        """Ask `rate` times a second, then as fast as answers come."""
        import uvloop

        return uvloop.run(self._measure(rate, seconds))

    async def _measure(self, rate: int, seconds: float) -> LoadFigures:
        await self._closed_loop(0.5)
        took = sorted(await self._open_loop(rate, seconds))
        before, began = processor_seconds(self.pid), time.perf_counter()
        done = await self._closed_loop(seconds)
        spent, passed = processor_seconds(self.pid) - before, time.perf_counter() - began
        p99 = took[int(len(took) * 0.99)]
        return LoadFigures(1000 * statistics.median(took), 1000 * p99, done / passed, 1000 * spent / done)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = None
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def _ask(self, opened: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        reader, writer = opened
        head = f"POST {self.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n"
        writer.write(head.encode() + self.body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.split(b" ", 2)[1] == b"200", answer
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))

    async def _open_loop(self, rate: int, seconds: float) -> list[float]:
        """Return the seconds from when each request was due to its answer."""
        free, took = asyncio.Queue[Any](), list[float]()
        for _ in range(CONNECTIONS):
            free.put_nowait(await self._connect())

        async def send(due: float) -> None:
            opened = await free.get()
            await self._ask(opened)
            took.append(time.perf_counter() - due)
            free.put_nowait(opened)

        began, tasks = time.perf_counter() + 0.1, []
        for number in range(int(seconds * rate)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(send(due)))
        await asyncio.gather(*tasks)
        while not free.empty():
            free.get_nowait()[1].close()
        return took

    async def _closed_loop(self, seconds: float) -> int:
        """Return the number of answers."""
        end, done = time.perf_counter() + seconds, 0

        async def ask() -> None:
            nonlocal done
            opened = await self._connect()
            while time.perf_counter() < end:
                await self._ask(opened)
                done += 1
            opened[1].close()

        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
        return done


def processor_seconds(pid: int) -> float:
    """Return what a process and its living descendants have used. So it does not depend on who else works."""
    used = 0.0
    for line in Path(f"/proc/{pid}/task").iterdir():
        for child in (line / "children").read_text().split():
            used += processor_seconds(int(child))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return used + (int(fields[11]) + int(fields[12])) / _TICKS


def disk_milliseconds(folder: Path) -> dict[str, float]:
    """Return how long the disk takes to keep 1,500 bytes more of a file. The log waits for it, answers do not."""
    took = []
    with (folder / "disk").open("wb", buffering=0) as out:
        for _ in range(200):
            began = time.perf_counter()
            out.write(bytes(1500))
            os.fdatasync(out.fileno())
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(0.002)
    took.sort()
    return {"p50": statistics.median(took), "p99": took[197]}
