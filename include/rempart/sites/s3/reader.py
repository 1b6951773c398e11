"""Read from a site: listings, facts, bodies.

Errors are translated once, and each body is checked against what was announced, listed or recorded.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, BinaryIO, TypeVar

from rempart.errors import AnswerInvalid, IntegrityError, SessionExpired, SiteUnavailable
from rempart.settings.config import Connection
from rempart.settings.sections import MOST_LISTED
from rempart.sites import checking
from rempart.sites.answers import NotUnderstood, etag, fact
from rempart.sites.capabilities import CapabilityRecord
from rempart.sites.digests import ERROR_BYTES
from rempart.sites.listing import ENTRIES, keep_order
from rempart.sites.pages import PageGuard, walk
from rempart.sites.port import Checks, ObjectInfo
from rempart.sites.refusals import MOST_SKEW, translate
from rempart.sites.s3.bulk import Bulk
from rempart.sites.s3.client import SESSION_UNTIL, open_client
from rempart.sovereignty.policy import Decision

T = TypeVar("T")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_REFUSED = (400, 401, 403)


class S3Reader:
    """The half of an S3 site that changes nothing; parameters as of `S3Site`."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        region: str,
        permission: Decision,
        *,
        most_listed: int = MOST_LISTED,
    ) -> None:
        if not permission.allowed:
            raise permission.refusal()
        self.name = name
        self.endpoint = str(connection.extra.get("endpoint_url") or "")
        until = connection.extra.get(SESSION_UNTIL)
        self._until = datetime.fromisoformat(until) if until else None
        self._connection, self._most, self._rising = connection.name, most_listed, False
        self._client = open_client(name, connection, region)
        keep_order(self._client)
        self._bulk = Bulk(connection, region)
        self._once = partial(open_client, name, connection, region, attempts=1)

    @cached_property
    def _impatient(self) -> Any:
        """Return a client that sends each request once."""
        return self._once()

    def _call(self, operation: str, bucket: str, key: str, call: Callable[[], T]) -> T:
        """Run one S3 call and translate its error, for all operations."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        where = f"{operation} {bucket}/{key} at site '{self.name}' ({self.endpoint})"
        try:
            return call()
        except ClientError as cause:
            code = str(cause.response.get("Error", {}).get("Code", ""))
            if self._is_over(code, cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")):
                raise SessionExpired(
                    f"{where}: refused ({code}), the session has ended (its end: {self._until or 'unknown'})",
                    "Run again with a new session. The job continues from its checkpoint.",
                ) from cause
            now = datetime.now(UTC)
            raise translate(where, cause.response, site=self.name, connection=self._connection, now=now) from cause
        except (NotUnderstood, ResponseParserError) as cause:
            reason = cause if isinstance(cause, NotUnderstood) else "the answer is not valid XML"
            raise AnswerInvalid(
                f"{where}: {reason}",
                f"Run `rempart site doctor {self.name}` and show the result to the operator. If a proxy or a "
                "cache is in front of the site, bypass it.",
            ) from cause
        except BotoCoreError as cause:
            raise SiteUnavailable(
                f"{where}: {type(cause).__name__}",
                "Check that the site answers (`rempart status`) and that the endpoint is right.",
            ) from cause

    def _is_over(self, code: str, status: int | None) -> bool:
        """Return whether a refusal means that the session has expired: servers name that differently, or for HEAD
        not at all.
        """
        late = self._until is not None and datetime.now(UTC) > self._until - MOST_SKEW
        return code in _EXPIRED or (late and status in _REFUSED)

    def rely_on(self, record: CapabilityRecord) -> None:
        self._rising = record.endpoint == self.endpoint and record.outcome("listing order") == "proven"

    def list(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._entries(
            bucket, prefix, self._client.list_objects_v2, {"ContinuationToken": "NextContinuationToken"}
        )

    def versions(self, bucket: str, prefix: str = "") -> Iterator[ObjectInfo]:
        follows = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
        return self._entries(bucket, prefix, self._client.list_object_versions, follows)

    def _entries(
        self, bucket: str, prefix: str, ask: Callable[..., dict[str, Any]], follows: Mapping[str, str]
    ) -> Iterator[ObjectInfo]:
        """Yield the entries of all pages; `follows` maps request parameters to fields of the last answer."""

        def page(where: dict[str, str]) -> Mapping[str, Any]:
            return self._call("list", bucket, prefix, partial(ask, Bucket=bucket, Prefix=prefix, **where))

        guard = self._guard(f"list {bucket}/{prefix}", rising=self._rising)
        for entry_page in walk(
            page, follows, lambda page: [(entry.key, entry.version_id) for entry in page[ENTRIES]], guard
        ):
            yield from entry_page[ENTRIES]

    def _guard(self, what: str, *, rising: bool = False) -> PageGuard:
        return PageGuard(f"{what} at site '{self.name}' ({self.endpoint})", self.name, self._most, rising)

    def keeps_versions(self, bucket: str) -> bool:
        ask = partial(self._client.get_bucket_versioning, Bucket=bucket)
        return bool(self._call("versioning", bucket, "", ask).get("Status") == "Enabled")

    def head(self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False) -> ObjectInfo:
        if not tags and (found := self._bulk.head(bucket, key, version_id)):
            return found
        extra = {"VersionId": version_id} if version_id else {}
        return self._call(
            "head",
            bucket,
            key,
            lambda: self._info(bucket, key, self._client.head_object(Bucket=bucket, Key=key, **extra), tags),
        )

    def _info(self, bucket: str, key: str, answer: Mapping[str, Any], tags: bool) -> ObjectInfo:
        """Return the facts in an answer to GET or HEAD, with the tags if wanted."""
        version = answer.get("VersionId")
        version = None if version == "null" else version
        return ObjectInfo(
            key,
            fact(answer, "ContentLength"),
            fact(answer, "LastModified"),
            version,
            etag(answer),
            answer.get("Metadata", {}),
            answer.get("ContentType", ""),
            tags=self._tags(bucket, key, version) if tags else {},
        )

    def checks(self, bucket: str, key: str, *, version_id: str | None = None) -> Checks:
        extra: dict[str, Any] = {"VersionId": version_id} if version_id else {}
        ask = partial(self._client.head_object, Bucket=bucket, Key=key, **extra)

        def ask_checks() -> Checks:
            answer = ask(ChecksumMode="ENABLED")
            return checking.checks_of(answer, ask(PartNumber=1) if "-" in etag(answer) else None)

        return self._call("head", bucket, key, ask_checks)

    def _where(self, operation: str, bucket: str, key: str) -> str:
        return f"{operation} {bucket}/{key} at site '{self.name}'"

    def _tagged(self, bucket: str, info: ObjectInfo) -> ObjectInfo:
        return replace(info, tags=self._tags(bucket, info.key, info.version_id))

    def _tags(self, bucket: str, key: str, version_id: str | None) -> dict[str, str]:
        extra = {"VersionId": version_id} if version_id else {}
        ask = partial(self._client.get_object_tagging, Bucket=bucket, Key=key, **extra)
        return {tag["Key"]: tag["Value"] for tag in self._call("tags", bucket, key, ask).get("TagSet", ())}

    def fetch(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        tags: bool = False,
        listed: ObjectInfo | None = None,
    ) -> tuple[ObjectInfo, bytes]:
        where = self._where("get", bucket, key)
        info, body = self._bulk.get(bucket, key, version_id) or self._get(bucket, key, version_id)
        self._refuse_error(bucket, key, version_id, body)
        if listed is not None:
            self._check_listed(bucket, listed, info)
        elif info.sha256:
            checking.check_sha256(where, body, info.sha256, "the writer recorded")
        return (self._tagged(bucket, info) if tags else info), body

    def _get(self, bucket: str, key: str, version_id: str | None) -> tuple[ObjectInfo, bytes]:
        extra = {"VersionId": version_id} if version_id else {}

        def get() -> tuple[dict[str, Any], bytes]:
            answer = self._client.get_object(Bucket=bucket, Key=key, **extra)
            with closing(answer["Body"]) as stream:
                return answer, stream.read()  # botocore refuses a body that is shorter than announced

        answer, body = self._call("get", bucket, key, get)
        self._refuse_error(bucket, key, version_id, body)
        return self._call("get", bucket, key, lambda: self._info(bucket, key, answer, False)), body

    def _check_listed(self, bucket: str, listed: ObjectInfo, info: ObjectInfo) -> None:
        where = self._where("get", bucket, info.key)
        try:
            checking.check_listed(where, listed, info)
        except IntegrityError:
            if listed.version_id:
                raise
            checking.check_listed(where, self.head(bucket, info.key), info)  # it may have been replaced meanwhile

    def _refuse_error(self, bucket: str, key: str, version_id: str | None, body: bytes) -> None:
        """Check that a body with status 200 is no S3 error. Raises SiteUnavailable."""
        if checking.is_error(body, None) is None:
            return
        extra = {"VersionId": version_id} if version_id else {}
        ask = partial(self._client.head_object, Bucket=bucket, Key=key, **extra)
        if code := checking.is_error(body, self._call("head", bucket, key, ask)):
            raise SiteUnavailable(
                f"{self._where('get', bucket, key)}: the site returned an error as the body of a success ({code})",
                "Nothing was stored. Retry. If it fails again, ask the site's operator.",
            )

    def read_part(self, bucket: str, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        extra = {"VersionId": version_id} if version_id else {}

        def get() -> tuple[str | None, bytes]:
            wanted = f"bytes={start}-{start + length - 1}"
            answer = self._client.get_object(Bucket=bucket, Key=key, Range=wanted, **extra)
            with closing(answer["Body"]) as stream:
                return answer.get("ContentRange"), bytes(stream.read())

        content_range, body = self._call("get", bucket, key, get)
        checking.check_range(self._where("get", bucket, key), start, length, content_range, len(body))
        return body

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        where = self._where("read", bucket, key)
        with self._opened(bucket, key, version_id, self._client) as (recorded, stream):
            body = self._call("read", bucket, key, stream.read)
        if sha256:
            checking.check_sha256(where, body, sha256, "on record")
        elif recorded:
            checking.check_sha256(where, body, recorded, "the writer recorded")
        return body

    @contextmanager
    def open(self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> Iterator[BinaryIO]:
        with self._opened(bucket, key, version_id, self._impatient if once else self._client) as (_, stream):
            yield stream

    @contextmanager
    def _opened(
        self, bucket: str, key: str, version_id: str | None, client: Any
    ) -> Iterator[tuple[str | None, BinaryIO]]:
        """Return the object's recorded SHA-256 and its body; a small body is read first."""
        from botocore.exceptions import BotoCoreError

        extra = {"VersionId": version_id} if version_id else {}
        answer = self._call("get", bucket, key, lambda: client.get_object(Bucket=bucket, Key=key, **extra))
        body, recorded = answer["Body"], answer.get("Metadata", {}).get("sha256")
        try:
            if answer.get("ContentLength", 0) <= ERROR_BYTES:
                small = body.read()
                self._refuse_error(bucket, key, version_id, small)
                yield recorded, io.BytesIO(small)
            else:
                yield recorded, body
        except BotoCoreError as cause:  # a read by the caller that broke off in the middle of the body
            raise SiteUnavailable(
                f"read {bucket}/{key} at site '{self.name}' ({self.endpoint}): {type(cause).__name__}",
                "Check that the site answers (`rempart status`), then retry.",
            ) from cause
        finally:
            body.close()
