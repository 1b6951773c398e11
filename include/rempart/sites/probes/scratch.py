"""Provide the probes' workspace: a bucket with the best features of the site, and a prefix for each run."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rempart.errors import ListingRefused
from rempart.sites.pages import PageGuard, walk
from rempart.sites.refusals import BUSY

LOCKED_FOR = timedelta(minutes=2)
"""For the attacks on a lock. What is locked is left, and swept by a later run."""
_CLOCK = ("RequestTimeTooSkewed", "RequestExpired")
_MOST_LEFT = 20_000
"""Limit of entries of earlier runs that one run examines."""
_VERSIONS = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
_OBJECTS = {"ContinuationToken": "NextContinuationToken"}
RUN_LASTS = timedelta(hours=1)
"""Longest possible run. Objects of an older run are leftovers."""
_OURS, _MOMENT = "probe-", "%Y%m%dT%H%M%S%f"


class Absent(Exception):
    """The site refuses openly."""


class FalseClaim(Exception):
    """Raised when the site reports success falsely."""


class NotRun(Exception):
    """The site was busy or failed: nothing is known."""


@dataclass(frozen=True)
class Scratch:
    """A prefix in the doctor's bucket. `client` is boto3's; `versioned` and `locks` tell what the bucket was made with.

    Probes let botocore's errors through: the runner judges them. An object that a write reported as stored, and that a
    read then reports as missing, raises FalseClaim.
    """

    client: Any
    bucket: str
    prefix: str
    versioned: bool
    locks: bool
    stored: set[str] = field(default_factory=set)

    def key(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def put(self, name: str, body: bytes = b"", **extra: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=body, **extra)
        self.stored.add(name)
        return answer

    def get(self, name: str, **extra: Any) -> bytes:
        with self._stands(name):
            body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.key(name), **extra)["Body"].read()
            return body

    def head(self, name: str, **extra: Any) -> dict[str, Any]:
        with self._stands(name):
            answer: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=self.key(name), **extra)
            return answer

    def delete(self, name: str, **extra: Any) -> None:
        if "VersionId" not in extra:
            self.stored.discard(name)
        self.client.delete_object(Bucket=self.bucket, Key=self.key(name), **extra)

    @contextmanager
    def _stands(self, name: str) -> Iterator[None]:
        """Check that an object reported as stored exists. Raises FalseClaim."""
        from botocore.exceptions import ClientError

        try:
            yield
        except ClientError as error:
            if name in self.stored and status(error) == 404:
                raise FalseClaim("the site reported success for a write, and the object is missing") from error
            raise

    def is_there(self, name: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        except ClientError as error:
            if status(error) == 404:
                return False
            raise
        return True

    def names(self, below: str = "", **extra: Any) -> list[str]:
        """Return the names in one page of a listing, as the site orders them."""
        page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key(below), **extra)
        return [entry["Key"].removeprefix(self.prefix) for entry in page.get("Contents", ())]

    def pages(self, below: str, *, versions: bool = False, **extra: Any) -> Iterator[list[str]]:
        """Yield the names in every page of a listing of objects, or of versions. Raises ListingRefused."""
        yield from (
            [key.removeprefix(self.prefix) for key, _ in page]
            for page in _pages(self, self.key(below), versions, extra)
        )

    def versions(self, name: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.list_object_versions(Bucket=self.bucket, Prefix=self.key(name))
        return answer


Probe = Callable[[Scratch], str]
PROBES: dict[str, Probe] = {}
"""The probe of each capability, by the capability's name."""


def proves(capability: str) -> Callable[[Probe], Probe]:
    """Register a function as the probe of a capability (rempart.sites.capabilities)."""

    def register(probe: Probe) -> Probe:
        PROBES[capability] = probe
        return probe

    return register


def status(error: Any) -> int:
    """Return the HTTP status of a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code") or status(error))


def busy(error: Any) -> bool:
    """Return whether a ClientError says nothing about the site's capabilities: busy, failed, or a wrong clock."""
    return unknown(code(error), status(error))


def unknown(error_code: str, answered: int) -> bool:
    """Return whether a code and a status say nothing about the site's capabilities."""
    if error_code in ("NotImplemented", "501") or answered == 501:
        return False
    return error_code in BUSY or error_code in _CLOCK or answered == 429 or answered >= 500


def open_scratch(client: Any, bucket: str, now: datetime) -> Scratch:
    """Open the doctor's bucket and remove old runs. Make the bucket if missing: with object lock, else with versions,
    else plain.

    Raises botocore's errors if the site has no such bucket and makes none.
    """
    from botocore.exceptions import ClientError

    if not _exists(client, bucket):
        try:
            _create(client, bucket)
        except ClientError as error:
            if busy(error) or not _exists(client, bucket):  # else a run beside this one made it
                raise
    locks = _has_locks(client, bucket)
    versioned = locks or _has_versions(client, bucket)
    scratch = Scratch(client, bucket, f"{_OURS}{now:{_MOMENT}}-{secrets.token_hex(3)}/", versioned, locks)
    # a run that goes on beside this one must find what it wrote
    remove_leftovers(scratch, _OURS, f"{_OURS}{now - RUN_LASTS:{_MOMENT}}")
    return scratch


def _exists(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if status(error) in (400, 403):  # a HEAD has no body that names the cause
            client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        if status(error) != 404:
            raise
        return False
    return True


def _create(client: Any, bucket: str) -> None:
    """Create the bucket with object lock if possible, and with the client's region if required."""
    from botocore.exceptions import ClientError

    region = {"CreateBucketConfiguration": {"LocationConstraint": client.meta.region_name}}
    tries: tuple[dict[str, Any], ...] = ({"ObjectLockEnabledForBucket": True}, {})
    for number, wanted in enumerate(attempt | place for attempt in tries for place in ({}, region)):
        try:
            client.create_bucket(Bucket=bucket, **wanted)
        except ClientError as error:
            if number == 3 or busy(error):  # a site that was busy may have locks
                raise
        else:
            return


def _has_locks(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        answer = client.get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        _refused_openly(error)
        return False
    return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")


def _has_versions(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return bool(client.get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled")
    except ClientError as error:
        _refused_openly(error)
        return False


def _refused_openly(error: Exception) -> None:
    """Raises the error again if it says nothing about what the site can do."""
    if busy(error):
        raise error


def remove_leftovers(scratch: Scratch, prefix: str | None = None, before: str | None = None) -> None:
    """Delete the leftovers of this run, or those of other runs with a prefix and a key `before` this.

    Locked objects are left to a later run.
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
    try:
        for page in _pages(scratch, prefix, scratch.versioned, {}):
            found += page
    except ListingRefused:
        return  # what such a listing names need not be there
    except (ClientError, BotoCoreError):
        pass
    yield from found


def _pages(
    scratch: Scratch, prefix: str, versions: bool, extra: dict[str, Any]
) -> Iterator[list[tuple[str, str | None]]]:
    """Yield key and version of each entry, page by page. Raises ListingRefused."""
    client = scratch.client
    ask = client.list_object_versions if versions else client.list_objects_v2

    def entries(page: Mapping[str, Any]) -> list[tuple[str, str | None]]:
        found = (entry for kind in ("Contents", "Versions", "DeleteMarkers") for entry in page.get(kind, ()))
        return [(entry["Key"], entry.get("VersionId")) for entry in found]

    guard = PageGuard(f"list {scratch.bucket}/{prefix}", "NAME", _MOST_LEFT)
    pages = walk(
        lambda where: ask(Bucket=scratch.bucket, Prefix=prefix, **extra, **where),
        _VERSIONS if versions else _OBJECTS,
        entries,
        guard,
    )
    return (entries(page) for page in pages)
