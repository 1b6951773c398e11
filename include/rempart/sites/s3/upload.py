"""Upload large objects in parts with boto3; an interrupted upload continues."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from rempart.errors import ObjectMissing, SiteError, SiteUnavailable
from rempart.sites.answers import etag, fact
from rempart.sites.digests import etag_of_parts, md5
from rempart.sites.pages import PageGuard, walk
from rempart.sites.port import ObjectInfo

_UPLOADS = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
_PARTS = {"PartNumberMarker": "NextPartNumberMarker"}


class S3Upload:
    """A multipart upload: the upload in progress for this key, or a new one."""

    def __init__(
        self,
        client: Any,
        call: Callable[[Callable[[], Any]], Any],
        bucket: str,
        like: ObjectInfo,
        guard: Callable[[], PageGuard],
    ) -> None:
        self._client, self._call, self._like, self._guard = client, call, like, guard
        self._where = {"Bucket": bucket, "Key": like.key}
        self._stored: dict[int, tuple[int, str]] = {}
        self._checksums: dict[int, str] = {}
        self._md5s: dict[int, bytes] = {}
        self._id = self._found() or self._begun()

    def _found(self) -> str | None:
        """Return the newest upload of this key with its parts. Older uploads are aborted."""
        bucket, key = self._where["Bucket"], self._where["Key"]
        asked = {"Bucket": bucket, "Prefix": key}
        pages = self._walk(
            self._client.list_multipart_uploads,
            asked,
            _UPLOADS,
            "Uploads",
            lambda upload: (upload["Key"], upload["UploadId"]),
        )
        under_way = [upload for page in pages for upload in page.get("Uploads", ()) if upload["Key"] == key]
        under_way.sort(key=lambda upload: upload["Initiated"])
        for older in under_way[:-1]:
            self._call(partial(self._client.abort_multipart_upload, **self._where, UploadId=older["UploadId"]))
        if not under_way:
            return None
        upload_id = str(under_way[-1]["UploadId"])
        asked = {**self._where, "UploadId": upload_id}
        for page in self._walk(self._client.list_parts, asked, _PARTS, "Parts", lambda part: (part["PartNumber"],)):
            for part in page.get("Parts", ()):
                # without an ETag the part is sent again
                self._stored[part["PartNumber"]] = (part["Size"], part.get("ETag", "").strip('"'))
        return upload_id

    def _walk(
        self,
        ask: Callable[..., Mapping[str, Any]],
        asked: Mapping[str, str],
        follows: Mapping[str, str],
        entries: str,
        identity: Callable[[Mapping[str, Any]], tuple[Any, ...]],
    ) -> Iterator[Mapping[str, Any]]:
        """Yield every page of a listing of uploads or parts. Raises ListingRefused."""

        def page(where: dict[str, Any]) -> Mapping[str, Any]:
            if (number := where.get("PartNumberMarker")) is not None:
                where = {"PartNumberMarker": int(number)}
            answer: Mapping[str, Any] = self._call(partial(ask, **asked, **where))
            return answer

        def marks(page: Mapping[str, Any]) -> list[tuple[Any, tuple[Any, ...]]]:
            return [(identity(entry)[0], identity(entry)) for entry in page.get(entries, ())]

        return walk(page, follows, marks, self._guard())

    def _begun(self) -> str:
        like = self._like
        extra = {"Tagging": urlencode(like.tags)} if like.tags else {}
        ask = partial(
            self._client.create_multipart_upload,
            **self._where,
            Metadata=dict(like.metadata),
            ContentType=like.content_type or "application/octet-stream",
            ChecksumAlgorithm="SHA256",
            **extra,
        )
        return str(self._call(lambda: fact(ask(), "UploadId")))

    def has(self, number: int, body: bytes) -> bool:
        # the ETag of a part is its MD5 nearly everywhere; where it is not, the part is sent again
        size, etag = self._stored.get(number, (-1, ""))
        if size != len(body) or etag != (digest := md5(body)).hex():
            return False
        self._checksums[number], self._md5s[number] = _checksum(body), digest
        return True

    def part(self, number: int, body: bytes) -> None:
        checksum = _checksum(body)
        ask = partial(
            self._client.upload_part,
            **self._where,
            UploadId=self._id,
            PartNumber=number,
            Body=body,
            ChecksumSHA256=checksum,
        )
        self._stored[number] = (len(body), self._call(lambda: etag(ask())))
        self._checksums[number], self._md5s[number] = checksum, md5(body)

    @property
    def sent_etag(self) -> str:
        return etag_of_parts(self._md5s[number] for number in sorted(self._checksums))

    def complete(self) -> ObjectInfo:
        parts = [
            {"PartNumber": number, "ETag": self._stored[number][1], "ChecksumSHA256": checksum}
            for number, checksum in sorted(self._checksums.items())
        ]
        ask = partial(
            self._client.complete_multipart_upload,
            **self._where,
            UploadId=self._id,
            MultipartUpload={"Parts": parts},
        )
        size = sum(self._stored[number][0] for number in self._checksums)
        try:
            arrived_etag, version = self._call(lambda: _etag_and_version(ask()))
        except (ObjectMissing, SiteUnavailable):  # the answer to an earlier try may be lost, and the upload over
            if (arrived := self._arrived(size)) is None:
                raise
            arrived_etag, version = arrived
        return replace(self._like, size=size, etag=arrived_etag, version_id=version, modified=datetime.now(UTC))

    def _arrived(self, size: int) -> tuple[str, str | None] | None:
        """Return ETag and version of the object if it consists of these parts."""
        try:
            answer = self._call(partial(self._client.head_object, **self._where))
            arrived_etag, version = self._call(lambda: _etag_and_version(answer))
        except SiteError:
            return None
        return (
            (arrived_etag, version) if (answer.get("ContentLength"), arrived_etag) == (size, self.sent_etag) else None
        )

    def abort(self) -> None:
        self._call(partial(self._client.abort_multipart_upload, **self._where, UploadId=self._id))


def _etag_and_version(answer: Mapping[str, Any]) -> tuple[str, str | None]:
    return etag(answer), answer.get("VersionId")


def _checksum(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
