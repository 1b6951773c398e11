"""Check whether an address answers, without credentials: a refusal, too, shows that the network path is open."""

from __future__ import annotations

import http.client
import socket
import ssl
from urllib.parse import urlsplit

SECONDS = 10.0
_PORTS = {"http": 80, "https": 443}


def reach(target: str, timeout: float = SECONDS) -> tuple[bool, str]:
    """Return whether `scheme://host:port` answers, and what it answered.

    `http` and `https`: a request without credentials, to which any status below 500 is an answer. Any other scheme: a
    connection. `timeout`: in seconds, of each step.
    """
    try:
        url = urlsplit(target)
        host, port = url.hostname or "", url.port or _PORTS.get(url.scheme, 0)
        if url.scheme not in _PORTS:
            with socket.create_connection((host, port), timeout):
                return True, "connected"
        connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
            if url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )
        try:
            connection.request("GET", "/")
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return False, f"{type(error).__name__}: {error}"
    return status < 500, f"HTTP {status}"
