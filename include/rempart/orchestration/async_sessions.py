"""Set TLS for Airflow's asynchronous sessions: asyncpg takes no TLS setting from an SQLAlchemy URL.

Airflow imports CONNECT_ARGS (`database.sql_alchemy_connect_args_async`) before its other modules work, so this module
imports nothing of Airflow.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_VERIFIED = ("verify-ca", "verify-full")
_SYSTEM = "system"
"""libpq's word for the authorities of the machine: no file."""


def connect_args(url: str) -> dict[str, Any]:
    """Return asyncpg arguments that match libpq's behaviour for the TLS settings of this URL; empty without any.

    Raises OSError, ssl.SSLError for unreadable files.
    """
    query = dict(parse_qsl(urlsplit(url).query))
    mode, root = query.get("sslmode"), query.get("sslrootcert")
    if mode == "require" and root and Path(root).is_file():
        mode = "verify-ca"  # as libpq
    if mode not in _VERIFIED:
        return {"ssl": mode} if mode else {}
    context = ssl.create_default_context(cafile=None if root == _SYSTEM else root)
    context.check_hostname = mode == "verify-full"
    if certificate := query.get("sslcert"):
        context.load_cert_chain(certificate, query.get("sslkey"))
    return {"ssl": context}


CONNECT_ARGS = connect_args(os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", ""))
