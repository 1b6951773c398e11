"""Accept connections with TLS. Those whose handshake is under way count: the longest one makes room for another."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

LEAST = 50
"""Handshakes that may be under way in any case, so that nobody who begins many keeps others from theirs."""
WAIT = 0.1
"""Seconds without an accepted connection after the system refused one, as it does without free files."""
logger = logging.getLogger(__name__)


class TlsListener(asyncio.AbstractServer):
    """Accepts connections until it is closed. `make`: makes the protocol of each.

    `seconds`: of a handshake. `most_now`: how many handshakes may be under way at the moment, if more than LEAST.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        seconds: float,
        most_now: Callable[[], int],
    ) -> None:
        self.sockets, self.shaking = (listening,), dict[asyncio.Task[None], socket.socket]()
        self._context, self._make, self._seconds, self._most_now = context, make, seconds, most_now
        listening.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no further connection, and end the handshakes under way."""
        self._task.cancel()
        for opened in self.shaking.values():
            _end(opened)

    async def wait_closed(self) -> None:
        """Return once nothing is accepted any more, and no handshake is under way."""
        await asyncio.wait([self._task, *self.shaking])

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that accepts."""
        return self._task.get_loop()

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return not self._task.done()

    async def start_serving(self) -> None:
        """Do nothing: connections are accepted from the begin."""

    async def serve_forever(self) -> None:
        """Accept connections until this is cancelled, or the listener closed."""
        await self._task

    async def _accept(self) -> None:
        (listening,), loop = self.sockets, asyncio.get_running_loop()
        while True:
            try:
                opened, _ = await loop.sock_accept(listening)
            except OSError as cause:
                logger.warning("a connection was not accepted: %s", cause.strerror)
                await asyncio.sleep(WAIT)
                continue
            if len(self.shaking) >= max(LEAST, self._most_now()):
                task = next(iter(self.shaking))
                _end(self.shaking.pop(task))
            task = loop.create_task(self._shake(opened))
            self.shaking[task] = opened
            task.add_done_callback(lambda task: self.shaking.pop(task, None))

    async def _shake(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        with suppress(OSError, asyncio.TimeoutError):  # its client gave up, is too slow, or speaks no TLS
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, opened, ssl=self._context, ssl_handshake_timeout=self._seconds
            )


def _end(opened: socket.socket) -> None:
    with suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
