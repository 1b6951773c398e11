"""boto3's client of a site's connection.

Checksums are sent `when_required` (newer defaults are refused by several providers) and each write names its SHA-256
explicitly: a site that checks it refuses a body altered in flight. A site that answers nothing is left after
`SILENT_SECONDS`, and asked once more: a firewall may have forgotten a connection that was idle. The limit is between
bytes, so a long transfer is not cut.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from rempart.errors import SiteError
from rempart.settings.config import Connection

SESSION_TOKEN, SESSION_UNTIL = "aws_session_token", "session_until"
SILENT_SECONDS = 30.0
"""Seconds without a byte after which a request is given up."""
PARTS_SECONDS = 60.0
"""The same for an upload in parts: some servers join the parts before they send the first byte."""
_TRIES = 2
"""How often a request is sent to a site that answers nothing."""
_making = threading.Lock()
"""Lock around boto3 sessions, which create one client at a time."""


def open_client(
    name: str,
    connection: Connection,
    region: str,
    *,
    attempts: int = 4,
    signed: bool = True,
    silent: float = SILENT_SECONDS,
) -> Any:
    """Return a boto3 client of a site's connection; the caller has the policy's permission. Raises SiteError.

    `attempts` is the maximum number of times a request is sent. Without `signed` a body is not hashed again for the
    signature: for bodies with a checksum in a signed header. `silent`: seconds without a byte, then a request ends.
    """
    from botocore.config import Config as BotoConfig

    if not (endpoint := connection.extra.get("endpoint_url")):
        raise SiteError(
            f"open site '{name}': connection '{connection.name}' has no endpoint",
            'Add {"endpoint_url": "https://..."} to the connection\'s extra.',
        )
    if not endpoint.startswith(("http://", "https://")):
        raise SiteError(
            f"open site '{name}': the endpoint of connection '{connection.name}' is no address",
            'Write it with its scheme in the connection\'s extra: {"endpoint_url": "https://..."}.',
        )
    settings = BotoConfig(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # adaptive: after SlowDown all threads of this client together ask less often
        retries={"mode": "adaptive" if attempts > 1 else "standard", "total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=silent,
        max_pool_connections=64,
        s3={"addressing_style": connection.extra.get("addressing_style", "path")}
        | ({} if signed else {"payload_signing_enabled": False}),
    )
    with _making:
        client = _session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=connection.login,
            aws_secret_access_key=connection.password,
            aws_session_token=connection.extra.get(SESSION_TOKEN),
            region_name=connection.extra.get("region_name", region),
            verify=connection.extra.get("ca_bundle"),
            config=settings,
        )
    client.meta.events.register_first("needs-retry.s3", leave_silent)
    return client


def leave_silent(attempts: int, caught_exception: BaseException | None, **_: Any) -> bool | None:
    """Return False, which means no further try, if a site answered nothing `_TRIES` times (a handler of botocore)."""
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

    is_silent = isinstance(caught_exception, ReadTimeoutError | ConnectTimeoutError)
    return False if is_silent and attempts >= _TRIES else None


@cache
def _session() -> Any:
    """Return the shared session: each session would read botocore's model of S3 again."""
    import boto3

    return boto3.session.Session()
