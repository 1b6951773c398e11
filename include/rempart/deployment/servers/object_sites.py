"""The S3 sites: their credentials file, their buckets, and the write that proves each of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rempart import private_files
from rempart.audit.knocking import knock
from rempart.backup.watch.heartbeat import PREFIX
from rempart.deployment.setup import site_certificates
from rempart.deployment.setup.credentials import session_key
from rempart.deployment.setup.paths import Stack
from rempart.errors import SiteError, StackError
from rempart.settings import config
from rempart.settings.config import Config, Connection, Connections
from rempart.settings.sections import Buckets
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.classification import ORDER
from rempart.sovereignty.places import decide_site
from rempart.sovereignty.policy import Decision

HEALTH_KEY = ".rempart/health"
_VERSION = "2012-10-17"
"""Version of IAM's policy language."""
_ACCOUNT = "000000000000"
"""SeaweedFS's own, where a role's ARN names none."""
REACHED_IN_CONTAINERS = ("s3-grpc",)
"""The inner ports of a site that other containers reach: the others listen on its own loopback."""
_SOCKETS = Path("/tmp")  # noqa: S108 # where SeaweedFS puts its gRPC sockets: the place cannot be chosen


@dataclass(frozen=True)
class Limited:
    """An identity in addition to the platform's own: allowed actions (IAM's), and objects (`bucket/key`)."""

    name: str
    connection: Connection
    actions: tuple[str, ...]
    objects: tuple[str, ...]
    lists: tuple[str, str] | None = None
    """Bucket and prefix of the keys that it may list."""


def limited(settings: Config, site: str, resolve: Connections) -> list[Limited]:
    """Return the limited identities of a site.

    The witness adds to the checkpoints, under lock, and writes heartbeats; the watch reads heartbeats; MLflow works
    below its own prefix; the landing watch lists the landing bucket; the scorer reads outputs of training jobs.
    """
    names, narrow = settings.buckets, list[Limited]()
    heartbeats = f"{names.backups}/{PREFIX}*"
    here = site == settings.backup.site
    if site == settings.checkpoint_site:
        puts = ("s3:PutObject", "s3:PutObjectRetention")
        places = (f"{names.checkpoints}/*", *([heartbeats] if here else []))
        narrow.append(Limited("witness", resolve(config.witness(site)), puts, places))
    if here:
        narrow.append(Limited("watch", resolve(config.watcher(site)), ("s3:GetObject",), (heartbeats,)))
    own = (names.artifacts, f"{config.TRACKED}/")
    works = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")
    return [
        *narrow,
        Limited("mlflow", resolve(config.tracker(site)), works, ("/".join(own) + "*",), own),
        Limited("landing", resolve(config.lister(site)), (), (), (names.landing, "")),
        Limited("scorer", resolve(config.reader(site)), ("s3:GetObject",), (f"{names.artifacts}/jobs/*",)),
    ]


def identities(site: str, connection: Connection, others: Sequence[Limited] = ()) -> dict[str, Any]:
    """Return SeaweedFS's credentials: the platform's (so no anonymous access), and the limited identities'."""

    def identity(name: str, keys: Connection, **rights: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": keys.login, "secretKey": keys.password}], **rights}

    plain: dict[str, Any] = {
        "identities": [identity(site, connection, actions=["Admin", "Read", "Write", "List", "Tagging"])]
    }
    for other in others:
        resources = [f"arn:aws:s3:::{place}" for place in other.objects]
        does = {"Effect": "Allow", "Action": list(other.actions), "Resource": resources}
        allow: list[dict[str, Any]] = [does] if resources else []
        if other.lists:
            bucket, prefix = other.lists
            below = {"StringLike": {"s3:prefix": [f"{prefix}*"]}}
            listing = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]}
            allow.append(listing | {"Condition": below})
        policy = json.dumps({"Version": _VERSION, "Statement": allow})
        # SeaweedFS's own action `Write` would also allow deletes, so the right is given by a policy
        plain["identities"].append(
            identity(f"{site}-{other.name}", other.connection, actions=[], policyNames=[other.name])
        )
        plain.setdefault("policies", []).append({"name": other.name, "content": policy})
    return plain


def write_identities(file: Path, site: str, connection: Connection, others: Sequence[Limited] = ()) -> None:
    """Write a site's credentials file if it changed."""
    _write(file, identities(site, connection, others))


def _write(file: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        private_files.write(file, text)


def sessions(site: str, role: str, longest: timedelta, key: str, names: Buckets) -> dict[str, Any]:
    """Return SeaweedFS's settings for sessions of jobs: the role, the identity that may assume it, and `key`, which
    signs tokens.

    Only the site's own identity may assume the role. The role's rights are the maximum of any session: objects of
    snapshots, of rows to learn from and of jobs in their buckets, and nothing in other buckets. No session reads
    held-out rows.
    """

    def allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
        return {"Effect": "Allow", "Action": actions, "Resource": resources}

    jobs = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion"]
    others = (names.landing, names.backups, names.evidence, names.checkpoints)
    closed = [f"arn:aws:s3:::{name}{end}" for name in others for end in ("", "/*")]
    policy = [
        allow(["s3:GetObject"], ["arn:aws:s3:::*/training/*", "arn:aws:s3:::*/snapshots/*"]),
        {"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::*/training/*/held-out/*"]},
        allow(jobs, ["arn:aws:s3:::*/jobs/*"]),
        allow(["s3:ListBucket"], ["arn:aws:s3:::*"]),
        {"Effect": "Deny", "Action": ["s3:*"], "Resource": closed},
    ]
    name, account = role.rpartition("/")[2], role.split(":")[4] or _ACCOUNT
    trust = allow(["sts:AssumeRole"], []) | {"Principal": {"AWS": f"arn:aws:iam::{account}:user/{site}"}}
    del trust["Resource"]
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": f"{int(longest.total_seconds())}s",
            "issuer": f"rempart-{site}",
            "signingKey": base64.b64encode(key.encode()).decode(),
            "accountId": account,
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roleStore": {"storeType": "memory"},
        "roles": [
            {
                "roleName": name,
                "roleArn": role,
                "trustPolicy": {"Version": _VERSION, "Statement": [trust]},
                "attachedPolicies": [name],
            }
        ],
        "policies": [{"name": name, "document": {"Version": _VERSION, "Statement": policy}}],
    }


def write_settings(stack: Stack, resolve: Connections, secrets: Mapping[str, str]) -> None:
    """Write credentials, job session settings if declared, and data folder of every embedded site."""
    for name in stack.embedded_sites:
        folder = stack.var / "sites" / name
        connection = resolve(stack.config.sites[name].connection)
        write_identities(folder / "s3.json", name, connection, limited(stack.config, name, resolve))
        if role := stack.job_role(name):
            key = secrets[session_key(name)]
            _write(folder / "iam.json", sessions(name, role[0], role[1], key, stack.config.buckets))
        (folder / "data").mkdir(exist_ok=True)
        certificates = stack.site_certificates(name)
        if not site_certificates.read(certificates):  # those that are there may be in use: its start renews them
            site_certificates.ensure(certificates, name, datetime.now(UTC))


def clear_sockets(ports: Mapping[str, int], folder: Path = _SOCKETS) -> None:
    """Remove the sockets of a stopped site. Raises StackError for another user's socket.

    The site would use another user's socket at the same port: it would never start, or would talk to that user's
    program.
    """
    for port in ports.values():
        for socket in folder.glob(f"seaweedfs-*-grpc-{port}.sock"):
            try:
                socket.unlink()
            except PermissionError as cause:
                raise StackError(
                    f"start a site: {socket} belongs to another user (uid {socket.lstat().st_uid}) and blocks it",
                    "Ask that user or root to remove it, or move every port with REMPART_PORT_OFFSET=100.",
                ) from cause


def buckets(names: Buckets) -> dict[str, bool]:
    """Return every bucket of a site without locks, and whether it keeps versions."""
    return {names.landing: False, names.lake: True, names.artifacts: True}


def locked_buckets(settings: Config, site: str) -> list[str]:
    """Return the buckets of a site with object lock: backups, evidence, and checkpoints.

    Every site has the bucket for backups, because after a failover they go to the other site.
    """
    wanted = (
        (settings.evidence_site, settings.buckets.evidence),
        (settings.checkpoint_site, settings.buckets.checkpoints),
    )
    return [settings.buckets.backups, *(bucket for name, bucket in wanted if name == site)]


def permission(stack: Stack, name: str, endpoint: str | None) -> Decision:
    """Return the policy's answer for the lowest classification allowed at this site, or its denial of all."""
    today = datetime.now(UTC).date()
    answers = [decide_site(stack.config, level, "data", name, on=today, endpoint=endpoint) for level in ORDER]
    return next((answer for answer in answers if answer.allowed), answers[0])


def check_inner_ports(stack: Stack, name: str) -> None:
    """Check that each port of a site except S3 requires the site's certificate. Raises StackError.

    SeaweedFS only warns, and opens these ports, if it cannot read its certificates.
    """
    for part, port in stack.ports.items():
        owner, _, inner = part.partition(" ")
        if owner != name or not inner or (stack.containers and inner not in REACHED_IN_CONTAINERS):
            continue
        answer = knock(stack.host(name), port, "certificate")
        if not answer.shut:
            remedy = (
                f"Run `rempart down`, remove {stack.site_certificates(name)}, then run `rempart up`, which "
                "makes new certificates."
            )
            if stack.containers:
                remedy = (
                    f"Remove var/compose/{name}.ca.pem, run `rempart stack init`, then `docker compose restart {name}`."
                )
            raise StackError(
                f"check site '{name}': its port {port} ({inner}) accepts any client: {answer.text}", remedy
            )


def check(stack: Stack, name: str, resolve: Connections) -> str:
    """Create the buckets. Then write, read and delete one object in a bucket without versions.

    The inner ports must be closed to others. Raises SiteError, StackError.
    """
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
            f"check site '{name}': it returned other bytes than were written to {landing}/{HEALTH_KEY}",
            "Do not use this site, and ask its operator.",
        )
    site.delete(landing, HEALTH_KEY)
    check_inner_ports(stack, name)
    return "put, get and delete work"
