"""Write to a site with boto3. Reading is in `sites.s3.reader`."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode

from rempart.errors import SiteError, SiteUnavailable
from rempart.settings.config import Connection
from rempart.settings.sections import MOST_LISTED
from rempart.sites.answers import etag
from rempart.sites.capabilities import CapabilityRecord
from rempart.sites.digests import file_sha256
from rempart.sites.locks import Locks, lock_until
from rempart.sites.port import ObjectInfo
from rempart.sites.s3.client import PARTS_SECONDS, open_client
from rempart.sites.s3.reader import S3Reader
from rempart.sites.s3.upload import S3Upload
from rempart.sovereignty.policy import Decision

_LOST = timedelta(minutes=1)
"""An object that is so much older than our put is not what we put: clocks differ by less where the doctor proved it."""


class S3Site(S3Reader):
    """One S3-compatible site; the connection holds key, secret and `extra.endpoint_url`.

    For a session also its token and its end in ISO 8601 (`extra.aws_session_token`, `extra.session_until`).

    A client is made only from an allowing decision of the policy. Raises PlacementDenied for a denial. No listing has
    more entries than `most_listed`.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        region: str,
        permission: Decision,
        *,
        most_listed: int = MOST_LISTED,
    ) -> None:
        super().__init__(name, connection, region, permission, most_listed=most_listed)
        self._locks = Locks(self._client, f"site '{name}' ({self.endpoint})")
        self._unsigned = partial(open_client, name, connection, region, signed=False, silent=PARTS_SECONDS)

    @cached_property
    def _parts(self) -> Any:
        """Return a client for large objects in parts, each with its checksum in a header."""
        return self._unsigned()

    def ensure_bucket(self, bucket: str, *, versioned: bool, locked: bool = False) -> None:
        def create() -> None:
            try:
                self._client.head_bucket(Bucket=bucket)
            except self._client.exceptions.ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                    raise
                # locks are chosen when a bucket is made: not every operator can add them later
                self._client.create_bucket(Bucket=bucket, **({"ObjectLockEnabledForBucket": True} if locked else {}))
            if locked:
                self._locks.check_bucket(bucket)
            if versioned and not locked:
                self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

        self._call("create", bucket, "", create)

    def drop_bucket(self, bucket: str) -> None:
        for version in self.versions(bucket):
            ask = partial(
                self._client.delete_object, Bucket=bucket, Key=version.key, VersionId=version.version_id or "null"
            )
            self._call("drop", bucket, version.key, ask)
        self._call("drop", bucket, "", partial(self._client.delete_bucket, Bucket=bucket))

    def _put(
        self,
        bucket: str,
        key: str,
        body: bytes | BinaryIO,
        size: int,
        sha256: str,
        metadata: Mapping[str, str] | None,
        content_type: str,
        tags: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> ObjectInfo:
        kept = {**(metadata or {}), "sha256": sha256}
        if tags:
            extra["Tagging"] = urlencode(tags)
        answer = self._client.put_object(
            Bucket=bucket,
            Key=key,
            Body=body,
            Metadata=kept,
            ContentType=content_type,
            ContentLength=size,
            ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
            **extra,
        )
        return ObjectInfo(
            key, size, datetime.now(UTC), answer.get("VersionId"), etag(answer), kept, content_type, tags=tags or {}
        )

    def _stored(
        self, bucket: str, key: str, size: int, sha256: str, since: datetime, put: Callable[[], ObjectInfo]
    ) -> ObjectInfo:
        """Put a body, or find that it is there: an answer may be lost after the object was stored."""
        try:
            return self._call("put", bucket, key, put)
        except SiteUnavailable:
            with suppress(SiteUnavailable):
                if found := self._arrived(bucket, key, size, sha256, since):
                    return found
            raise

    def _arrived(self, bucket: str, key: str, size: int, sha256: str, since: datetime) -> ObjectInfo | None:
        """Return the object if a body with this SHA-256 was stored since then. Raises SiteUnavailable."""
        try:
            found = self.head(bucket, key)
        except SiteUnavailable:
            raise
        except SiteError:
            return None
        same = (found.size, found.sha256) == (size, sha256) and found.modified >= since - _LOST
        return found if same else None

    def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
        tags: Mapping[str, str] | None = None,
        sha256: str | None = None,
    ) -> ObjectInfo:
        digest, since = sha256 or hashlib.sha256(body).hexdigest(), datetime.now(UTC)
        kept = {**(metadata or {}), "sha256": digest}
        if not tags and self._bulk.takes(key, kept):
            stored = self._bulk.put(bucket, key, body, kept, content_type)
            if stored := stored or self._arrived(bucket, key, len(body), digest, since):
                return stored
        put = partial(self._put, bucket, key, body, len(body), digest, metadata, content_type, tags)
        return self._stored(bucket, key, len(body), digest, since, put)

    def upload(self, bucket: str, like: ObjectInfo) -> S3Upload:
        guard = partial(self._guard, f"upload {bucket}/{like.key}")
        return S3Upload(self._parts, partial(self._call, "upload", bucket, like.key), bucket, like, guard)

    def write_new(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
        retain_until: datetime | None = None,
    ) -> bool:
        digest = hashlib.sha256(body).hexdigest()
        extra: dict[str, Any] = {"IfNoneMatch": "*", **lock_until(retain_until)}
        kept = {**(metadata or {}), "sha256": digest}
        if retain_until is None and self._bulk.put(bucket, key, body, kept, content_type, new=True):
            return True

        def put() -> bool:
            try:
                self._put(bucket, key, body, len(body), digest, metadata, content_type, **extra)
            except self._client.exceptions.ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                    return False
                raise
            return True

        return self._call("put new", bucket, key, put)

    def write_file(
        self,
        bucket: str,
        key: str,
        file: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "application/octet-stream",
        retain_until: datetime | None = None,
    ) -> ObjectInfo:
        digest, extra = file_sha256(file), lock_until(retain_until)
        size, since = file.stat().st_size, datetime.now(UTC)

        def put() -> ObjectInfo:
            with file.open("rb") as stream:
                return self._put(bucket, key, stream, size, digest, metadata, content_type, **extra)

        return self._stored(bucket, key, size, digest, since, put)

    def retain(self, bucket: str, key: str, version_id: str, until: datetime) -> datetime:
        return self._call("retain", bucket, key, partial(self._locks.retain, bucket, key, version_id, until))

    def retained_until(self, bucket: str, key: str, version_id: str) -> datetime | None:
        return self._call("retention", bucket, key, partial(self._locks.retained_until, bucket, key, version_id))

    def delete(self, bucket: str, key: str, *, version_id: str | None = None) -> str | None:
        extra = {"VersionId": version_id} if version_id else {}
        ask = partial(self._client.delete_object, Bucket=bucket, Key=key, **extra)
        answer = self._call("delete", bucket, key, ask)
        return None if version_id else answer.get("VersionId")

    def probe(self, bucket: str, now: datetime) -> CapabilityRecord:
        from rempart.sites.probes.run import run

        # once: what is asked again until it works would hide how the site is
        return self._call("probe", bucket, "", lambda: run(self._impatient, self.name, bucket, now))
