"""Set and extend object locks at an S3 site, in compliance mode."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.errors import SiteError

_NOT_LOCKED = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest")
"""Error codes for a version without a lock, or a bucket without locks."""


def lock_until(retain_until: datetime | None) -> dict[str, Any]:
    """Return the parameters of a put that locks its object; empty without a time."""
    if retain_until is None:
        return {}
    return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": retain_until}


class Locks:
    """Object locks of a site's buckets; `site` names it. Callers translate boto3's errors."""

    def __init__(self, client: Any, site: str) -> None:
        self._client, self._site = client, site
        self._buckets: set[str] = set()

    def check_bucket(self, bucket: str) -> None:
        """Check that the bucket was made with object lock. Raises SiteError."""
        if bucket in self._buckets:
            return
        try:
            answer = self._client.get_object_lock_configuration(Bucket=bucket)
            enabled = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
        except self._client.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") != "ObjectLockConfigurationNotFoundError":
                raise
            enabled = None
        if enabled != "Enabled":
            raise SiteError(
                f"lock an object in bucket {bucket} at {self._site}: the bucket was made without object lock",
                "Set another bucket under `buckets` in rempart.yaml, or copy its content to a bucket with object lock.",
            )
        self._buckets.add(bucket)  # it is for good

    def retained_until(self, bucket: str, key: str, version_id: str) -> datetime | None:
        """Return the end of the lock as `Site.retained_until` does."""
        try:
            answer = self._client.get_object_retention(Bucket=bucket, Key=key, VersionId=version_id)
        except self._client.exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_LOCKED:
                return None
            raise
        retention = answer.get("Retention", {})
        if retention.get("Mode") != "COMPLIANCE":  # governance mode yields to whoever has the right to bypass it
            return None
        until: datetime | None = retention.get("RetainUntilDate")
        return until and until.astimezone(UTC)

    def retain(self, bucket: str, key: str, version_id: str, until: datetime) -> datetime:
        """Extend the lock as `Site.retain` does: the site's later answer counts. Raises SiteError if it is earlier."""
        self.check_bucket(bucket)  # SeaweedFS 4.48 takes a lock in any bucket, and holds to it only in one with locks
        now = self.retained_until(bucket, key, version_id)
        if now is None or now < until:
            self._client.put_object_retention(
                Bucket=bucket, Key=key, VersionId=version_id, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
            )
            now = self.retained_until(bucket, key, version_id)
        if now is None or now < until - timedelta(seconds=1):  # whole seconds are kept
            raise SiteError(
                f"lock {bucket}/{key} at {self._site} until {until}: the site reports a lock until {now}",
                "Do not rely on locks of this site. Run `rempart site doctor`, and ask the operator.",
            )
        return now
