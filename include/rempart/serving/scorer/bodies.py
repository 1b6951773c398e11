"""The bodies of requests: within limits for each, for all of them together, and for the time that one takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from rempart.serving.scorer.patience import Patience
from rempart.serving.scorer.refusals import Refused

MOST_BODY = 4 << 20
"""Bytes of a request."""
MOST_HELD = 128 << 20
"""Bytes of the bodies of all requests under way. What is made of them takes a few times as much memory."""
BODY_SECONDS = 10.0
"""Seconds in which a request's body must arrive."""


@dataclass
class BodiesUnderWay:
    """What the bodies of all requests under way take. `size`: in bytes."""

    size: int = 0


@dataclass
class Body:
    """The body of one request. `size`: what arrived so far; it counts in `held` until `forget`."""

    held: BodiesUnderWay
    size: int = 0
    _parts: list[bytes] = field(default_factory=list)

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive, patience: Patience) -> bytes:
        """Return the whole body. Raises Refused (408, 413, 415, 503), ClientDisconnect."""
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "read the request: its body is compressed", "Send the body as it is.")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > MOST_BODY:
            raise _too_large()
        try:
            with patience.limit(BODY_SECONDS):
                while await self._part(receive):
                    pass
        except TimeoutError:
            raise Refused(
                408, f"read the request: its body did not arrive within {BODY_SECONDS:.0f} s", "Send it again."
            ) from None
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def forget(self) -> None:
        """Make room for other requests."""
        self.held.size -= self.size

    async def _part(self, receive: Receive) -> bool:
        """Add the next part. Return whether more comes."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        if self.size + len(part) > MOST_BODY:
            raise _too_large()
        self.size += len(part)
        self.held.size += len(part)
        if self.held.size > MOST_HELD:
            raise Refused(
                503,
                f"read the request: all requests under way have more than {MOST_HELD >> 20} MiB",
                "Ask again later, send fewer rows in a request, or run more scorers.",
                {"Retry-After": "5"},
            )
        self._parts.append(part)
        return bool(message.get("more_body"))


def _too_large() -> Refused:
    return Refused(
        413,
        f"read the request: its body is larger than {MOST_BODY >> 20} MiB",
        "Send several requests, or predict a file with `rempart model predict`.",
    )
