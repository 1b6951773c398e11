"""Sessions that end at a time that a test chooses: no service issues any that last less than 15 min.

They are signed again with the site's session key. Only the holder of that key can do this. The server checks these
tokens as it does its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.deployment.setup.credentials import session_key
from rempart.deployment.setup.paths import Stack
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.sites.s3.client import SESSION_TOKEN, SESSION_UNTIL


def signing_key(stack: Stack, site: str = "primary") -> str:
    return config.read_env_file(stack.secrets)[session_key(site)]


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(session: Connection) -> dict[str, Any]:
    """What the token of a session says."""
    part = session.extra[SESSION_TOKEN].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def altered(session: Connection, key: str | None, **changes: Any) -> Connection:
    """The session with other claims, signed with `key`; without one, under the signature that it had."""
    head, _, signature = session.extra[SESSION_TOKEN].split(".")
    body = f"{head}.{_encoded(json.dumps({**claims(session), **changes}).encode())}"
    if key is not None:
        signature = _encoded(hmac.new(key.encode(), body.encode(), hashlib.sha256).digest())
    return replace(session, extra={**session.extra, SESSION_TOKEN: f"{body}.{signature}"})


def ending(session: Connection, key: str, seconds: float) -> Connection:
    """The session, to end in so many seconds."""
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    made = altered(session, key, exp=int(until.timestamp()))
    return replace(made, extra={**made.extra, SESSION_UNTIL: until.isoformat()})
