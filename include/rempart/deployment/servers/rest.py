"""One HTTP request with a JSON answer, as the health gates need it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from rempart.errors import StackError


class HttpRefused(StackError):
    """The server answered with an error status."""

    def __init__(self, status: int, where: str) -> None:
        super().__init__(
            f"{where} answered {status}", "Read the service's log (`rempart stack logs`) and check its credentials."
        )
        self.status = status


def call(
    method: str,
    url: str,
    *,
    body: object = None,
    basic: tuple[str, str] | None = None,
    bearer: str = "",
    timeout: float = 10.0,
) -> Any:
    """Return the decoded JSON answer, or raw bytes if it is not JSON.

    Raises StackError, HttpRefused, without credentials.
    """
    headers = {}
    data = None
    if isinstance(body, bytes):
        data = body
        headers["Content-Type"] = "application/octet-stream"
    elif body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    if basic:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    where = f"{method} {url}"
    near = urlsplit(url).hostname in ("127.0.0.1", "localhost")
    handlers = [urllib.request.ProxyHandler({})] if near else []
    request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310 # http(s) URLs of the configuration
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as answer:
            raw = answer.read()
    except urllib.error.HTTPError as cause:
        raise HttpRefused(cause.code, where) from cause
    except OSError as cause:
        reason = getattr(cause, "reason", cause)
        raise StackError(
            f"{where}: {reason}", "`rempart status` shows whether it runs; `rempart up` starts it."
        ) from cause
    try:
        return json.loads(raw)
    except ValueError:
        return raw
