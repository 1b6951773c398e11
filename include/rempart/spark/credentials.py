"""Read the secrets of a Spark job: one file for its owner alone, named by an environment variable.

The driver and each executor read it where they use it. A connection never stands in Spark's configuration and never
travels in a task, so no log, page or file of Spark holds one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from rempart.errors import ConnectionMissing, SparkError
from rempart.settings.config import Connection, connection_text, parse_connection
from rempart.settings.sections import Classification
from rempart.sites.port import Site
from rempart.sovereignty.job_permission import ASK_AGAIN, JobSite, Permission, decide
from rempart.spark.order import OrderedAt, SparkOrder, parse_order

VARIABLE = "REMPART_SPARK_CREDENTIALS"
"""Environment variable that names the file."""
_HINT = "The program that starts a Spark job writes the file and names it in " + VARIABLE + "."


def write(file: Path, secret: str, connections: Mapping[str, Connection]) -> None:
    """Write the file with mode 0600: the secret of the job's own connections, and the connections of its sites."""
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text(secret, connections))


def text(secret: str, connections: Mapping[str, Connection]) -> str:
    """Return the content of the file. Never log it."""
    texts = {name: connection_text(each) for name, each in connections.items()}
    return json.dumps({"secret": secret, "connections": texts})


def secret() -> str:
    """Return the secret that driver and executors of this job prove to each other. Raises ConnectionMissing."""
    return str(_read().get("secret", ""))


def connection(name: str) -> Connection:
    """Return a connection of the job from its file only. Raises ConnectionMissing."""
    held = _read().get("connections")
    text = held.get(name) if isinstance(held, Mapping) else None
    if not isinstance(text, str):
        raise ConnectionMissing(f"run the Spark job: connection '{name}' is not in the file of {VARIABLE}", _HINT)
    try:
        return parse_connection(name, text)
    except ValueError:  # the cause would quote the value, which holds the password
        raise ConnectionMissing(f"run the Spark job: connection '{name}' is neither JSON nor a URI", _HINT) from None


def site_of(order: SparkOrder) -> Site:
    """Open the site of an order, in the driver or in an executor, if its permission allows it. Raises SparkError."""
    return opened(order.site, order.classification, permission_of(order))


def order_of(at: OrderedAt) -> SparkOrder:
    """Return the order that is at a site, with the attempt's permission.

    Raises PlacementDenied, ConnectionMissing, IntegrityError if it has another SHA-256, SparkError, and the site's own.
    """
    site = opened(at.site, at.classification, at.permission)
    order = parse_order(site.read(at.bucket, at.key, sha256=at.sha256))
    return order.model_copy(update={"permission": at.permission})


def opened(place: JobSite, classification: Classification, permission: Permission) -> Site:
    """Open a site that a permission allows. Raises PlacementDenied, ConnectionMissing."""
    from rempart.sites.s3.site import S3Site

    held = connection(place.connection)
    endpoint, today = held.extra.get("endpoint_url"), datetime.now(UTC).date()
    return S3Site(place.name, held, place.region, decide(permission, classification, place.name, endpoint, on=today))


def permission_of(order: SparkOrder) -> Permission:
    """Return the permission in an order. Raises SparkError without one."""
    if order.permission is None:
        raise SparkError(f"run job {order.order_id}: its order has no permission of the policy", ASK_AGAIN)
    return order.permission


def _read() -> Mapping[str, object]:
    file = os.environ.get(VARIABLE, "")
    try:
        body = json.loads(Path(file).read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError):  # the cause may quote the file
        body = None
    if not isinstance(body, Mapping):
        raise ConnectionMissing(f"run the Spark job: {VARIABLE} names no file of credentials that can be read", _HINT)
    return body
