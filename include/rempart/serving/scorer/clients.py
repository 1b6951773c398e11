"""Keys of the programs that ask for predictions, and how often each may ask. Pure.

A key has 256 random bits, so its SHA-256 says nothing about it, and only that is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rempart.serving.scorer.refusals import Refused

PREFIX = "rempart-client-"
"""Begins each key, so that a scanner for secrets recognises it."""
_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_ASK = "Ask the platform's owner for a key (`rempart users client`), and send it: `Authorization: Bearer KEY`."


@dataclass(frozen=True)
class Client:
    """A program that may ask. `sha256`: of its key; `per_minute`: requests in a minute, for each scorer process.

    `metrics`: whether it may read the scorer's metrics, as the platform's Prometheus may.
    """

    name: str
    sha256: str
    pipelines: tuple[str, ...]
    per_minute: int
    metrics: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sha256": self.sha256,
            "pipelines": list(self.pipelines),
            "per_minute": self.per_minute,
            "metrics": self.metrics,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Client:
        pipelines, may_read = tuple(data["pipelines"]), data.get("metrics") is True
        return cls(str(data["name"]), str(data["sha256"]), pipelines, int(data["per_minute"]), may_read)


def new_key() -> str:
    """Return a random key of 256 bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_in(authorization: str | None) -> str:
    """Return the key in an `Authorization` header; empty if nothing there can be one."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and _KEY.fullmatch(key.strip()) else ""


@dataclass
class Allowance:
    """A bucket that fills with `per_minute` requests a minute, and holds as many."""

    per_minute: int
    left: float
    filled_at: float

    def take(self, now: float) -> float:
        """Take one request at `now` (seconds of a monotonic clock). Return 0, or the seconds until there is one."""
        passed, self.filled_at = max(0.0, now - self.filled_at), now
        self.left = min(float(self.per_minute), self.left + passed * self.per_minute / 60)
        if self.left >= 1:
            self.left -= 1
            return 0.0
        return (1 - self.left) * 60 / self.per_minute


@dataclass
class Clients:
    """The clients by the newest knowledge, and what each has left of its quota."""

    known: tuple[Client, ...] = ()
    _allowances: dict[str, Allowance] = field(default_factory=dict)

    def replace(self, known: Iterable[Client]) -> None:
        """Take over the clients; quotas of those that stay go on."""
        self.known = tuple(known)
        names = {client.name: client.per_minute for client in self.known}
        for name, allowance in list(self._allowances.items()):
            if names.get(name) != allowance.per_minute:
                del self._allowances[name]

    def of(self, authorization: str | None) -> Client:
        """Return the client whose key an `Authorization` header has. Raises Refused (401)."""
        found: Client | None = None
        if key := key_in(authorization):
            given = digest(key)
            for client in self.known:  # all of them, in constant time: how long it takes tells nothing
                if hmac.compare_digest(client.sha256, given):
                    found = client
        if found is None:
            what = "the key is not valid" if authorization else "the request has no key"
            raise Refused(401, f"answer the request: {what}", _ASK, {"WWW-Authenticate": "Bearer"})
        return found

    def allowed(self, client: Client, pipeline: str, now: float) -> None:
        """Check that a client may ask a pipeline's model at `now`, and count the request. Raises Refused (403, 429)."""
        if pipeline not in client.pipelines:
            raise Refused(
                403,
                f"predict with pipeline '{pipeline[:60]}': the key of client '{client.name}' is not for it",
                f"Use one of {', '.join(client.pipelines) or 'no pipeline'}, or ask for a key with this pipeline.",
            )
        self.count(client, now)

    def may_read_metrics(self, client: Client, now: float) -> None:
        """Check that a client may read the metrics at `now`, and count the request. Raises Refused (403, 429)."""
        if not client.metrics:
            raise Refused(
                403,
                f"read the metrics: the key of client '{client.name}' is not for them",
                "Ask for a key that is: `rempart users client NAME --metrics`.",
            )
        self.count(client, now)

    def count(self, client: Client, now: float) -> None:
        """Count a request at `now`. Raises Refused (429)."""
        allowance = self._allowances.setdefault(
            client.name, Allowance(client.per_minute, float(client.per_minute), now)
        )
        if wait := allowance.take(now):
            raise Refused(
                429,
                f"answer the request: client '{client.name}' asked more than {client.per_minute} times a minute",
                "Wait as long as the header Retry-After says, send more rows in one request, or ask for a larger "
                "quota.",
                {"Retry-After": str(max(1, round(wait)))},
            )
