"""Large objects in parts, on boto3; an upload that was broken off goes on."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from rempart.sites.port import ObjectInfo


class S3Upload:
    """A multipart upload: the one that is under way for this key, or a new one."""

    def __init__(self, client: Any, call: Callable[[Callable[[], Any]], Any], bucket: str, like: ObjectInfo) -> None:
        self._client, self._call, self._like = client, call, like
        self._where = {"Bucket": bucket, "Key": like.key}
        self._stored: dict[int, tuple[int, str]] = {}
        self._checksums: dict[int, str] = {}
        self._id = self._found() or self._begun()

    def _found(self) -> str | None:
        """The newest upload of this key, and what it has; older ones are thrown away."""
        bucket, key = self._where["Bucket"], self._where["Key"]
        ask = partial(self._client.list_multipart_uploads, Bucket=bucket, Prefix=key)
        under_way = [one for one in self._call(ask).get("Uploads", ()) if one["Key"] == key]
        under_way.sort(key=lambda one: one["Initiated"])
        for older in under_way[:-1]:
            self._call(partial(self._client.abort_multipart_upload, **self._where, UploadId=older["UploadId"]))
        if not under_way:
            return None
        found = str(under_way[-1]["UploadId"])
        pages = self._client.get_paginator("list_parts").paginate(**self._where, UploadId=found)
        for page in self._call(lambda: list(pages)):
            for part in page.get("Parts", ()):
                self._stored[part["PartNumber"]] = (part["Size"], part["ETag"].strip('"'))
        return found

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
        return str(self._call(ask)["UploadId"])

    def has(self, number: int, body: bytes) -> bool:
        # the ETag of a part is its MD5 nearly everywhere; where it is not, the part is sent again
        size, etag = self._stored.get(number, (-1, ""))
        if size != len(body) or etag != hashlib.md5(body, usedforsecurity=False).hexdigest():
            return False
        self._checksums[number] = _checksum(body)
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
        self._stored[number] = (len(body), self._call(ask)["ETag"].strip('"'))
        self._checksums[number] = checksum

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
        answer = self._call(ask)
        size = sum(self._stored[number][0] for number in self._checksums)
        etag, version = str(answer["ETag"]).strip('"'), answer.get("VersionId")
        return replace(self._like, size=size, etag=etag, version_id=version, modified=datetime.now(UTC))

    def abort(self) -> None:
        self._call(partial(self._client.abort_multipart_upload, **self._where, UploadId=self._id))


def _checksum(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
