"""The S3 sites: their credentials file, their buckets, and the write that proves each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rempart.config import Buckets, Connection, Connections
from rempart.errors import SiteError, StackError
from rempart.sites.s3 import S3Site
from rempart.stack.credentials import write_private
from rempart.stack.layout import Stack

HEALTH_KEY = ".rempart/health"
_SOCKETS = Path("/tmp")  # noqa: S108 # where SeaweedFS puts its gRPC sockets: the place cannot be chosen


def write_identities(file: Path, site: str, connection: Connection) -> None:
    """SeaweedFS's credentials: one identity, and so no anonymous access. Written only if it changed."""
    identity = {
        "name": site,
        "credentials": [{"accessKey": connection.login, "secretKey": connection.password}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    text = json.dumps({"identities": [identity]})
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, text)


def clear_sockets(ports: Mapping[str, int], folder: Path = _SOCKETS) -> None:
    """Remove the sockets that a stopped site left. Raises StackError for one that is not ours.

    Another user's socket at the same port would be dialled in place of our own: the site would never come up, or would
    talk to a stranger.
    """
    for port in ports.values():
        for socket in folder.glob(f"seaweedfs-*-grpc-{port}.sock"):
            try:
                socket.unlink()
            except PermissionError as cause:
                raise StackError(
                    f"{socket} was left by another user (uid {socket.lstat().st_uid}), and stands in a site's way",
                    "Have that user or root remove it, or move every port with REMPART_PORT_OFFSET=100.",
                ) from cause


def buckets(names: Buckets) -> dict[str, bool]:
    """Every bucket of a site, and whether it keeps versions."""
    return {names.landing: False, names.lake: True, names.artifacts: True, names.backups: True}


def check(stack: Stack, name: str, resolve: Connections) -> str:
    """Ensure the buckets; then write, read and delete one object where nothing keeps versions. Raises SiteError."""
    place = stack.config.sites[name]
    site = S3Site(name, resolve(place.connection), place.region)
    for bucket, versioned in buckets(stack.config.buckets).items():
        site.ensure_bucket(bucket, versioned=versioned)
    landing, body = stack.config.buckets.landing, f"stack {stack.id}".encode()
    site.write(landing, HEALTH_KEY, body)
    if site.read(landing, HEALTH_KEY) != body:
        raise SiteError(
            f"Site '{name}' gave back other bytes than were written to {landing}/{HEALTH_KEY}",
            "Ask the operator; do not use this site.",
        )
    site.delete(landing, HEALTH_KEY)
    return "put, get and delete work"
