"""Faults that a test switches on in the API server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from .errors import REASONS, Refusal


@dataclass
class Fault:
    """An answer for the next requests that match. `status` 0 drops the connection instead of answering."""

    status: int
    times: int
    method: str | None
    path_contains: str | None
    retry_after: int | None
    done: bool
    message: str | None

    def matches(self, method: str, path: str) -> bool:
        """Whether it is for this request."""
        wanted = self.method is None or self.method.upper() == method
        return self.times > 0 and wanted and (self.path_contains is None or self.path_contains in path)

    def refusal(self) -> Refusal:
        """The answer as a Status."""
        texts = {
            429: "the server has received too many requests and has asked us to try again later",
            500: "Internal error occurred: etcdserver: request timed out",
            503: "the server is currently unable to handle the request",
            504: "Timeout: request did not complete within the allotted timeout",
        }
        details = {} if self.retry_after is None else {"retryAfterSeconds": self.retry_after}
        reason = REASONS.get(self.status, "InternalError" if self.status >= 500 else "Unknown")
        message = self.message or texts.get(self.status, f"{reason} (injected by the test)")
        return Refusal(self.status, message, reason, details)


class Faults:
    """The faults still to come, and the latency of every request."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.seconds = 0.0

    def add(self, fault: Fault) -> None:
        """Adds a fault behind those already there."""
        self._faults.append(fault)

    def clear(self) -> None:
        """No more faults and no latency."""
        self._faults.clear()
        self.seconds = 0.0

    def take(self, method: str, path: str) -> Fault | None:
        """The fault of a request, used up by it."""
        for fault in self._faults:
            if fault.matches(method, path):
                fault.times -= 1
                return fault
        return None

    async def wait(self) -> None:
        """Waits the latency."""
        if self.seconds:
            await asyncio.sleep(self.seconds)
