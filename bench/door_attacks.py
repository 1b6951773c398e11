"""What is tried at each kind of port by somebody without credentials. Pure: attacks as data, and what lets them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ORIGIN = "http://evil.example"
PAGE = {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
"""What a browser says of a request that a page of another site makes it send."""
LETS_IN = range(200, 400)


@dataclass(frozen=True)
class Attack:
    """One request: to which door, by whom, and how. `plain`: this answer gives nothing away, whatever its status."""

    door: str
    who: str
    what: str
    order: Mapping[str, Any]
    plain: bool = False


def text(value: str, number: int = 1) -> str:
    """A string as a field of a protobuf message, in hexadecimal. Shorter than 128 bytes."""
    encoded = value.encode()
    return bytes([number << 3 | 2, len(encoded)]).hex() + encoded.hex()


SITE_CALLS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "master-grpc": (
        ("/master_pb.Seaweed/CollectionList", "0801"),
        ("/master_pb.Seaweed/Assign", "0801"),
        ("/master_pb.Seaweed/CollectionDelete", text("{bucket}")),
    ),
    "volume-grpc": (
        ("/volume_server_pb.VolumeServer/VolumeServerStatus", ""),
        ("/volume_server_pb.VolumeServer/DeleteCollection", text("{bucket}")),
    ),
    "filer-grpc": (
        ("/filer_pb.SeaweedFiler/ListEntries", text("/buckets")),
        ("/filer_pb.SeaweedFiler/LookupDirectoryEntry", text("/buckets") + text("{bucket}", 2)),
        ("/filer_pb.SeaweedFiler/DeleteCollection", text("{bucket}")),
    ),
    "s3-grpc": (("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", text("", 7)),),
}
"""Calls of SeaweedFS's gRPC services that read, write or delete; `{bucket}` stands for one that is there."""
SITE_PAGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "master": (
        ("GET", "/dir/status"),
        ("GET", "/dir/assign"),
        ("GET", "/cluster/status"),
        ("POST", "/submit"),
        ("GET", "/col/delete?collection={bucket}"),
        ("POST", "/col/delete?collection={bucket}"),
    ),
    "volume": (("GET", "/status"), ("GET", "/1,01637037d6"), ("POST", "/1,01637037d6"), ("DELETE", "/1,01637037d6")),
    "filer": (("GET", "/"), ("GET", "/buckets/"), ("POST", "/buckets/x"), ("DELETE", "/buckets/{bucket}")),
}
S3_REQUESTS = (
    ("GET", "/"),
    ("GET", "/{bucket}"),
    ("GET", "/{bucket}/{key}"),
    ("PUT", "/{bucket}/intruder"),
    ("POST", "/{bucket}?delete"),
    ("POST", "/{bucket}"),
    ("DELETE", "/{bucket}/{key}"),
    ("DELETE", "/{bucket}"),
    ("PUT", "/{bucket}?policy"),
    ("POST", "/?Action=AssumeRole&RoleArn=arn:aws:iam::000000000000:role/jobs&RoleSessionName=x&Version=2011-06-15"),
    ("POST", "/?Action=CreateUser&UserName=x&Version=2010-05-08"),
    ("GET", "/metrics"),
    ("GET", "/debug/pprof/"),
)
"""Unsigned requests to an S3 port."""


def lets_in(attack: Attack, answer: Mapping[str, Any]) -> bool:
    """Whether the answer gave something, or took something, that needs credentials."""
    return not attack.plain and answer["status"] in LETS_IN


def of_site(
    site: str, part: str, where: Mapping[str, Any], bucket: str, key: str, who: str, web: bool = False
) -> list[Attack]:
    """Attacks at one port of a SeaweedFS server. `part`: as in the stack's ports, empty for S3. `web`: by a page."""

    def filled(value: str) -> str:
        return value.replace("{bucket}", bucket).replace("{key}", key)

    door, headers = f"{site} {part}".strip(), PAGE if web else {}
    found = []
    if not part:
        for method, path in S3_REQUESTS:
            order = {**where, "how": "http", "method": method, "path": filled(path), "headers": headers}
            found.append(Attack(door, who, f"{method} {path}", order))
        status = {**where, "how": "http", "path": "/status", "headers": headers}
        found.append(Attack(door, who, "GET /status", status, plain=True))
        return found
    for method, path in SITE_PAGES.get(part, ()):
        for tls in (False, True):
            order = {**where, "how": "http", "method": method, "path": filled(path), "headers": headers, "tls": tls}
            found.append(Attack(door, who, f"{method} {path}{' (TLS)' if tls else ''}", order))
    for path, message in () if web else SITE_CALLS.get(part, ()):
        sent = text(bucket) if message == text("{bucket}") else message.replace(text("{bucket}", 2), text(bucket, 2))
        for tls in (False, True):
            order = {**where, "how": "grpc", "path": path, "message": sent, "tls": tls}
            found.append(Attack(door, who, f"{path}{' (TLS)' if tls else ''}", order))
    return found
