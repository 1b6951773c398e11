"""The S3 adapter, on boto3.

Checksums are sent `when_required` (newer defaults are refused by several providers) and each write names its SHA-256
explicitly: a site that checks it refuses a body altered in flight.
"""

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode

from rempart.errors import AnswerInvalid, IntegrityError, SessionExpired, SiteError, SiteUnavailable
from rempart.settings.config import Connection
from rempart.settings.sections import MOST_LISTED
from rempart.sites import checking
from rempart.sites.answers import NotUnderstood, etag, fact
from rempart.sites.capabilities import CapabilityRecord
from rempart.sites.digests import ERROR_BYTES
from rempart.sites.listing import ENTRIES, keep_order
from rempart.sites.locks import Locks, lock_until
from rempart.sites.pages import Guard, walk
from rempart.sites.port import Checks, ObjectInfo
from rempart.sites.refusals import MOST_SKEW, translate
from rempart.sites.s3.bulk import Bulk
from rempart.sites.s3.upload import S3Upload
from rempart.sovereignty.policy import Decision

T = TypeVar("T")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_REFUSED = (400, 401, 403)
_CHUNK = 1 << 20
_making = threading.Lock()
"""Sessions of boto3 make one client at a time."""
SESSION_TOKEN, SESSION_UNTIL = "aws_session_token", "session_until"
_LOST = timedelta(minutes=1)
"""An object that is so much older than our put is not what we put: clocks differ by less where the doctor proved it."""


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_client(name: str, connection: Connection, region: str, *, attempts: int = 4, signed: bool = True) -> Any:
    """boto3's client of a site's connection; whoever makes one has a permission for it. Raises SiteError.

    `attempts` is how often a request is sent at the most. Without `signed` a body is not hashed once more for the
    signature: for bodies whose checksum is in a header, which is signed.
    """
    from botocore.config import Config as BotoConfig

    if not (endpoint := connection.extra.get("endpoint_url")):
        raise SiteError(
            f"Site '{name}': connection '{connection.name}' names no endpoint",
            'Add {"endpoint_url": "https://..."} to the connection\'s extra.',
        )
    settings = BotoConfig(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # adaptive: after SlowDown all threads of this client together ask less often
        retries={"mode": "adaptive" if attempts > 1 else "standard", "total_max_attempts": attempts},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=64,
        s3={"addressing_style": connection.extra.get("addressing_style", "path")}
        | ({} if signed else {"payload_signing_enabled": False}),
    )
    with _making:
        return _session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=connection.login,
            aws_secret_access_key=connection.password,
            aws_session_token=connection.extra.get(SESSION_TOKEN),
            region_name=connection.extra.get("region_name", region),
            verify=connection.extra.get("ca_bundle"),
            config=settings,
        )


@cache
def _session() -> Any:
    """One for all clients: each would read botocore's model of S3 anew."""
    import boto3

    return boto3.session.Session()


class S3Site:
    """One S3-compatible site; the connection holds key, secret and `extra.endpoint_url`.

    Of a session also its token and, ISO 8601, its end (`extra.aws_session_token`, `extra.session_until`).

    No client without a permission: it is made only from a decision of the policy that allows it. Raises PlacementDenied
    for one that does not. No listing has more entries than `most_listed`.
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
        self._locks = Locks(self._client, f"site '{name}' ({self.endpoint})")
        self._once = partial(open_client, name, connection, region, attempts=1)
        self._unsigned = partial(open_client, name, connection, region, signed=False)

    @cached_property
    def _parts(self) -> Any:
        """A client for large objects in parts, each of which has its checksum in a header."""
        return self._unsigned()

    @cached_property
    def _impatient(self) -> Any:
        """A client that sends each request once."""
        return self._once()

    def _call(self, operation: str, bucket: str, key: str, call: Callable[[], T]) -> T:
        """Run one S3 call; translate its error once, for all operations."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        where = f"{operation} {bucket}/{key} at site '{self.name}' ({self.endpoint})"
        try:
            return call()
        except ClientError as cause:
            code = str(cause.response.get("Error", {}).get("Code", ""))
            if self._is_over(code, cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")):
                raise SessionExpired(
                    f"{where}: refused ({code}), the session is over (its end: {self._until or 'not known'})",
                    "Run again with a new session: the job goes on from its checkpoint.",
                ) from cause
            now = datetime.now(UTC)
            raise translate(where, cause.response, site=self.name, connection=self._connection, now=now) from cause
        except (NotUnderstood, ResponseParserError) as cause:
            told = cause if isinstance(cause, NotUnderstood) else "the answer is no valid XML"
            raise AnswerInvalid(
                f"{where}: {told}",
                f"Run `rempart doctor site {self.name}` and show the operator what it finds; if a proxy or a cache "
                "stands in front of the site, connect past it.",
            ) from cause
        except BotoCoreError as cause:
            raise SiteUnavailable(
                f"{where}: {type(cause).__name__}",
                "Check that the site answers (`rempart status`) and the endpoint is right.",
            ) from cause

    def _is_over(self, code: str, status: int | None) -> bool:
        """Whether a refusal means that the session is over: servers name that differently, or for HEAD not at all."""
        late = self._until is not None and datetime.now(UTC) > self._until - MOST_SKEW
        return code in _EXPIRED or (late and status in _REFUSED)

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
        for one in self.versions(bucket):
            ask = partial(self._client.delete_object, Bucket=bucket, Key=one.key, VersionId=one.version_id or "null")
            self._call("drop", bucket, one.key, ask)
        self._call("drop", bucket, "", partial(self._client.delete_bucket, Bucket=bucket))

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
        """The entries of all pages; `follows` maps a request's parameters to where the last answer tells them."""

        def page(where: dict[str, str]) -> Mapping[str, Any]:
            return self._call("list", bucket, prefix, partial(ask, Bucket=bucket, Prefix=prefix, **where))

        guard = self._guard(f"list {bucket}/{prefix}", rising=self._rising)
        for found in walk(page, follows, lambda page: [(one.key, one.version_id) for one in page[ENTRIES]], guard):
            yield from found[ENTRIES]

    def _guard(self, what: str, *, rising: bool = False) -> Guard:
        return Guard(f"{what} at site '{self.name}' ({self.endpoint})", self.name, self._most, rising)

    def keeps_versions(self, bucket: str) -> bool:
        ask = partial(self._client.get_bucket_versioning, Bucket=bucket)
        return bool(self._call("versioning", bucket, "", ask).get("Status") == "Enabled")

    def head(self, bucket: str, key: str, *, version_id: str | None = None, tags: bool = False) -> ObjectInfo:
        extra = {"VersionId": version_id} if version_id else {}
        return self._call(
            "head",
            bucket,
            key,
            lambda: self._info(bucket, key, self._client.head_object(Bucket=bucket, Key=key, **extra), tags),
        )

    def _info(self, bucket: str, key: str, answer: Mapping[str, Any], tags: bool) -> ObjectInfo:
        """The facts in an answer to GET or HEAD, and the tags if they are wanted."""
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

        def told() -> Checks:
            answer = ask(ChecksumMode="ENABLED")
            return checking.checks_of(answer, ask(PartNumber=1) if "-" in etag(answer) else None)

        return self._call("head", bucket, key, told)

    def _where(self, operation: str, bucket: str, key: str) -> str:
        return f"{operation} {bucket}/{key} at site '{self.name}'"

    def _tagged(self, bucket: str, info: ObjectInfo) -> ObjectInfo:
        return replace(info, tags=self._tags(bucket, info.key, info.version_id))

    def _tags(self, bucket: str, key: str, version_id: str | None) -> dict[str, str]:
        extra = {"VersionId": version_id} if version_id else {}
        ask = partial(self._client.get_object_tagging, Bucket=bucket, Key=key, **extra)
        return {one["Key"]: one["Value"] for one in self._call("tags", bucket, key, ask).get("TagSet", ())}

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
            checking.check_sha256(where, body, info.sha256, "its writer recorded")
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
        """Raises SiteUnavailable for an S3 error that came as a body under status 200."""
        if checking.is_error(body, None) is None:
            return
        extra = {"VersionId": version_id} if version_id else {}
        ask = partial(self._client.head_object, Bucket=bucket, Key=key, **extra)
        if code := checking.is_error(body, self._call("head", bucket, key, ask)):
            raise SiteUnavailable(
                f"{self._where('get', bucket, key)}: an error came as the body of a success ({code})",
                "Nothing was taken over. Retry; if it lasts, ask the site's operator.",
            )

    def read_part(self, bucket: str, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        extra = {"VersionId": version_id} if version_id else {}

        def get() -> tuple[str | None, bytes]:
            wanted = f"bytes={start}-{start + length - 1}"
            answer = self._client.get_object(Bucket=bucket, Key=key, Range=wanted, **extra)
            with closing(answer["Body"]) as stream:
                return answer.get("ContentRange"), bytes(stream.read())

        told, body = self._call("get", bucket, key, get)
        checking.check_range(self._where("get", bucket, key), start, length, told, len(body))
        return body

    def read(self, bucket: str, key: str, *, version_id: str | None = None, sha256: str | None = None) -> bytes:
        where = self._where("read", bucket, key)
        with self._opened(bucket, key, version_id, self._client) as (recorded, stream):
            body = self._call("read", bucket, key, stream.read)
        if sha256:
            checking.check_sha256(where, body, sha256, "on record")
        elif recorded:
            checking.check_sha256(where, body, recorded, "its writer recorded")
        return body

    @contextmanager
    def open(self, bucket: str, key: str, *, version_id: str | None = None, once: bool = False) -> Iterator[BinaryIO]:
        with self._opened(bucket, key, version_id, self._impatient if once else self._client) as (_, stream):
            yield stream

    @contextmanager
    def _opened(
        self, bucket: str, key: str, version_id: str | None, client: Any
    ) -> Iterator[tuple[str | None, BinaryIO]]:
        """The SHA-256 on record with the object, and its body; a small one is read before it is handed on."""
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
                "Retry; check that the site answers (`rempart status`).",
            ) from cause
        finally:
            body.close()

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
            if (found := self._arrived(bucket, key, size, sha256, since)) is None:
                raise
            return found

    def _arrived(self, bucket: str, key: str, size: int, sha256: str, since: datetime) -> ObjectInfo | None:
        """The object, if a body with this SHA-256 was stored since then."""
        try:
            found = self.head(bucket, key)
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

    def probe(self, bucket: str, now: datetime, say: Callable[[str], object] = lambda line: None) -> CapabilityRecord:
        from rempart.sites.probes.run import run

        # once: what is asked again until it works would hide how the site is
        return self._call("probe", bucket, "", lambda: run(self._impatient, self.name, bucket, now, say))
