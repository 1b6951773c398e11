"""What a pod reaches: `python -m rempart.training.kubernetes.probe URL...`, run by `rempart doctor pool --probe`.

It holds no credentials and sends none: an answer of any kind, also a refusal, shows that the way is open. One JSON
object a line on standard output. Standard library only. Exit status: 0 if every address answered, else 1.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

SECONDS = 10.0
_PORTS = {"http": 80, "https": 443}


def reach(target: str, timeout: float = SECONDS) -> tuple[bool, str]:
    """Whether `scheme://host:port` answers: HTTP by a request without credentials, anything else by a connection."""
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


def main(targets: Sequence[str]) -> int:
    """Try each address."""
    open_ = True
    for target in targets:
        ok, detail = reach(target)
        open_ = open_ and ok
        sys.stdout.write(json.dumps({"target": target, "ok": ok, "detail": detail}) + "\n")
        sys.stdout.flush()
    return 0 if open_ else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
