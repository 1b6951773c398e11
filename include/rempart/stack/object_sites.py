"""The S3 sites: their credentials file, their buckets, and the write that proves each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rempart import config
from rempart.config import Config, Connection, Connections
from rempart.errors import SiteError, StackError
from rempart.sections import Buckets
from rempart.sites.s3 import S3Site
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.places import decide_site
from rempart.sovereignty.policy import Decision
from rempart.stack.credentials import write_private
from rempart.stack.layout import Stack

HEALTH_KEY = ".rempart/health"
_SOCKETS = Path("/tmp")  # noqa: S108 # where SeaweedFS puts its gRPC sockets: the place cannot be chosen


def write_identities(
    file: Path, site: str, connection: Connection, witness: Connection | None = None, checkpoints: str = ""
) -> None:
    """SeaweedFS's credentials: the platform's, and so no anonymous access; and the witness's. Written only if changed.

    The witness may put objects under lock into the bucket of checkpoints: not read, list or delete, and nowhere else.
    """

    def identity(name: str, keys: Connection, **rights: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": keys.login, "secretKey": keys.password}], **rights}

    plain: dict[str, Any] = {
        "identities": [identity(site, connection, actions=["Admin", "Read", "Write", "List", "Tagging"])]
    }
    if witness:
        put = {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:PutObjectRetention"],
            "Resource": [f"arn:aws:s3:::{checkpoints}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [put]})
        # SeaweedFS's own action `Write` would also allow deletes, so the right is given by a policy
        plain["identities"].append(identity(f"{site}-witness", witness, actions=[], policyNames=["witness"]))
        plain["policies"] = [{"name": "witness", "content": policy}]
    text = json.dumps(plain)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_private(file, text)


def write_settings(stack: Stack, resolve: Connections) -> None:
    """Credentials file and data folder of every embedded site."""
    for name in stack.embedded_sites:
        folder = stack.var / "sites" / name
        connection = resolve(stack.config.sites[name].connection)
        witness = resolve(config.witness(name)) if name == stack.config.checkpoint_site else None
        write_identities(folder / "s3.json", name, connection, witness, stack.config.buckets.checkpoints)
        (folder / "data").mkdir(exist_ok=True)


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


def locked_buckets(settings: Config, site: str) -> list[str]:
    """The buckets of a site in which objects can be locked: evidence, and the checkpoints that witness it."""
    wanted = (
        (settings.evidence_site, settings.buckets.evidence),
        (settings.checkpoint_site, settings.buckets.checkpoints),
    )
    return [bucket for name, bucket in wanted if name == site]


def permission(stack: Stack, name: str, endpoint: str | None) -> Decision:
    """The policy's answer for the least protected data that it lets into this site, or its denial of all of it."""
    today = datetime.now(UTC).date()
    answers = [decide_site(stack.config, one, "data", name, on=today, endpoint=endpoint) for one in ORDER]
    return next((answer for answer in answers if answer.allowed), answers[0])


def check(stack: Stack, name: str, resolve: Connections) -> str:
    """Ensure the buckets; then write, read and delete one object where nothing keeps versions. Raises SiteError."""
    place = stack.config.sites[name]
    connection = resolve(place.connection)
    site = S3Site(name, connection, place.region, permission(stack, name, connection.extra.get("endpoint_url")))
    for bucket, versioned in buckets(stack.config.buckets).items():
        site.ensure_bucket(bucket, versioned=versioned)
    for bucket in locked_buckets(stack.config, name):
        site.ensure_bucket(bucket, versioned=True, locked=True)
    landing, body = stack.config.buckets.landing, f"stack {stack.id}".encode()
    site.write(landing, HEALTH_KEY, body)
    if site.read(landing, HEALTH_KEY) != body:
        raise SiteError(
            f"Site '{name}' gave back other bytes than were written to {landing}/{HEALTH_KEY}",
            "Ask the operator; do not use this site.",
        )
    site.delete(landing, HEALTH_KEY)
    return "put, get and delete work"
