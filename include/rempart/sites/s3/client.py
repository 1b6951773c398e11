"""boto3's client of a site's connection.

Checksums are sent `when_required` (newer defaults are refused by several providers) and each write names its SHA-256
explicitly: a site that checks it refuses a body altered in flight.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from rempart.errors import SiteError
from rempart.settings.config import Connection

SESSION_TOKEN, SESSION_UNTIL = "aws_session_token", "session_until"
_making = threading.Lock()
"""Lock around boto3 sessions, which create one client at a time."""


def open_client(name: str, connection: Connection, region: str, *, attempts: int = 4, signed: bool = True) -> Any:
    """Return a boto3 client of a site's connection; the caller has the policy's permission. Raises SiteError.

    `attempts` is the maximum number of times a request is sent. Without `signed` a body is not hashed again for the
    signature: for bodies with a checksum in a signed header.
    """
    from botocore.config import Config as BotoConfig

    if not (endpoint := connection.extra.get("endpoint_url")):
        raise SiteError(
            f"open site '{name}': connection '{connection.name}' has no endpoint",
            'Add {"endpoint_url": "https://..."} to the connection\'s extra.',
        )
    settings = BotoConfig(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # adaptive: after SlowDown all threads of this client together ask less often
        retries={"mode": "adaptive" if attempts > 1 else "standard", "total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=64,
        s3={"addressing_style": connection.extra.get("addressing_style", "path")}
        | ({} if signed else {"payload_signing_enabled": False}),
    )
    with _making:
        return _session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=connection.login,
            aws_secret_access_key=connection.password,
            aws_session_token=connection.extra.get(SESSION_TOKEN),
            region_name=connection.extra.get("region_name", region),
            verify=connection.extra.get("ca_bundle"),
            config=settings,
        )


@cache
def _session() -> Any:
    """Return the shared session: each session would read botocore's model of S3 again."""
    import boto3

    return boto3.session.Session()
