"""Where probes work: a bucket of their own with the best that the site offers, and a prefix for each run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LOCKED_FOR = timedelta(minutes=2)
"""For the attacks on a lock. What is locked is left, and swept by a later run."""
RUN_LASTS = timedelta(hours=1)
"""No run lasts so long: what an older one left is nobody's."""
_OURS, _MOMENT = "probe-", "%Y%m%dT%H%M%S%f"


class Absent(Exception):
    """The site refuses openly."""


class Lie(Exception):
    """The site reports success, and it is not so."""


@dataclass(frozen=True)
class Scratch:
    """A prefix in the doctor's bucket. `client` is boto3's; `versioned` and `locks` tell what the bucket was made with.

    Probes let botocore's errors through: the runner judges them.
    """

    client: Any
    bucket: str
    prefix: str
    versioned: bool
    locks: bool

    def key(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def put(self, name: str, body: bytes = b"", **extra: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=body, **extra)
        return answer

    def get(self, name: str, **extra: Any) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.key(name), **extra)["Body"].read()
        return body

    def head(self, name: str, **extra: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=self.key(name), **extra)
        return answer

    def delete(self, name: str, **extra: Any) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.key(name), **extra)

    def is_there(self, name: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.head(name)
        except ClientError as error:
            if status(error) == 404:
                return False
            raise
        return True

    def names(self, below: str = "", **extra: Any) -> list[str]:
        """Names of one page of a listing, as the site orders them."""
        page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key(below), **extra)
        return [one["Key"].removeprefix(self.prefix) for one in page.get("Contents", ())]

    def versions(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.list_object_versions(Bucket=self.bucket, Prefix=self.key(name))
        return answer


def status(error: Any) -> int:
    """The HTTP status of a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code") or status(error))


def open_scratch(client: Any, bucket: str, now: datetime) -> Scratch:
    """Make the doctor's bucket if it is missing: with object lock, else with versions, else plain; sweep old runs.

    Raises botocore's errors where the site has no such bucket and makes none.
    """
    from botocore.exceptions import ClientError

    if not _exists(client, bucket):
        try:
            _create(client, bucket)
        except ClientError:
            if not _exists(client, bucket):  # else a run beside this one made it
                raise
    locks = _has_locks(client, bucket)
    versioned = locks or _has_versions(client, bucket)
    scratch = Scratch(client, bucket, f"{_OURS}{now:{_MOMENT}}-{secrets.token_hex(3)}/", versioned, locks)
    # a run that goes on beside this one must find what it wrote
    sweep(scratch, _OURS, f"{_OURS}{now - RUN_LASTS:{_MOMENT}}")
    return scratch


def _exists(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if status(error) != 404:
            raise
        return False
    return True


def _create(client: Any, bucket: str) -> None:
    """With object lock where the site makes such buckets, and in the client's region where it wants that said."""
    from botocore.exceptions import ClientError

    region = {"CreateBucketConfiguration": {"LocationConstraint": client.meta.region_name}}
    tries: tuple[dict[str, Any], ...] = ({"ObjectLockEnabledForBucket": True}, {})
    for number, wanted in enumerate(one | place for one in tries for place in ({}, region)):
        try:
            client.create_bucket(Bucket=bucket, **wanted)
        except ClientError:
            if number == 3:
                raise
        else:
            return


def _has_locks(client: Any, bucket: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(ClientError, BotoCoreError):
        answer = client.get_object_lock_configuration(Bucket=bucket)
        return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")
    return False


def _has_versions(client: Any, bucket: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(ClientError, BotoCoreError):
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return bool(client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled")
    return False


def sweep(scratch: Scratch, prefix: str | None = None, before: str | None = None) -> None:
    """Delete what this run left, or what others with a prefix and a key `before` this did.

    As far as the site lets it go: what is still locked is a later run's.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    for key, version in _left(scratch, scratch.prefix if prefix is None else prefix):
        if before is not None and key >= before:
            continue
        with suppress(ClientError, BotoCoreError):
            extra = {"VersionId": version} if version else {}
            scratch.client.delete_object(Bucket=scratch.bucket, Key=key, **extra)


def _left(scratch: Scratch, prefix: str) -> Iterator[tuple[str, str | None]]:
    from botocore.exceptions import BotoCoreError, ClientError

    found: list[tuple[str, str | None]] = []
    with suppress(ClientError, BotoCoreError):
        if scratch.versioned:
            for page in scratch.client.get_paginator("list_object_versions").paginate(
                Bucket=scratch.bucket, Prefix=prefix
            ):
                entries = (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
                found += [(one["Key"], one["VersionId"]) for one in entries]
        else:
            for page in scratch.client.get_paginator("list_objects_v2").paginate(Bucket=scratch.bucket, Prefix=prefix):
                found += [(one["Key"], None) for one in page.get("Contents", ())]
    yield from found
