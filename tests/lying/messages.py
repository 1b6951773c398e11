"""Requests and answers of S3 as the lying site sees them, named by the operations of S3's API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_OF_BUCKETS = {
    "GET": (
        ("list-type", "ListObjectsV2"),
        ("versions", "ListObjectVersions"),
        ("uploads", "ListMultipartUploads"),
        ("versioning", "GetBucketVersioning"),
        ("object-lock", "GetObjectLockConfiguration"),
        ("", "ListObjects"),
    ),
    "PUT": (("versioning", "PutBucketVersioning"), ("object-lock", "PutObjectLockConfiguration"), ("", "CreateBucket")),
    "POST": (("delete", "DeleteObjects"),),
    "HEAD": (("", "HeadBucket"),),
    "DELETE": (("", "DeleteBucket"),),
}
_OF_OBJECTS = {
    "GET": (
        ("tagging", "GetObjectTagging"),
        ("retention", "GetObjectRetention"),
        ("uploadId", "ListParts"),
        ("attributes", "GetObjectAttributes"),
        ("", "GetObject"),
    ),
    "PUT": (
        ("partNumber", "UploadPart"),
        ("retention", "PutObjectRetention"),
        ("tagging", "PutObjectTagging"),
        ("", "PutObject"),
    ),
    "POST": (("uploads", "CreateMultipartUpload"), ("uploadId", "CompleteMultipartUpload")),
    "HEAD": (("", "HeadObject"),),
    "DELETE": (("uploadId", "AbortMultipartUpload"), ("", "DeleteObject")),
}
_NOT_RELAYED = ("content-length", "transfer-encoding", "connection", "date", "server")


@dataclass(frozen=True)
class Request:
    """One request. `key` is the object's key, or the prefix of a listing; `headers` have lower-case names."""

    method: str
    path: str
    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    sent: tuple[tuple[str, str], ...] = ()

    def with_body(self, body: bytes) -> Request:
        """The same request with another body under the same signature."""
        return replace(self, body=body)

    @property
    def payload(self) -> bytes:
        """The object's bytes, without the framing of a chunked upload."""
        streaming = self.headers.get("x-amz-content-sha256", "").startswith("STREAMING")
        if not streaming and "aws-chunked" not in self.headers.get("content-encoding", ""):
            return self.body
        found, rest = b"", self.body
        while True:
            head, _, rest = rest.partition(b"\r\n")
            size = int(head.split(b";")[0] or b"0", 16)
            if not size:
                return found
            found, rest = found + rest[:size], rest[size + 2 :]

    @property
    def conditional(self) -> bool:
        return "if-none-match" in self.headers or "if-match" in self.headers

    @property
    def stored_as(self) -> dict[str, Any]:
        """The parameters of boto3's put_object that store what this request asks to store, lock included."""
        metadata = {
            name.removeprefix("x-amz-meta-"): value
            for name, value in self.headers.items()
            if name.startswith("x-amz-meta-")
        }
        wanted: dict[str, Any] = {"Metadata": metadata}
        names = {
            "content-type": "ContentType",
            "x-amz-tagging": "Tagging",
            "x-amz-object-lock-mode": "ObjectLockMode",
            "x-amz-object-lock-retain-until-date": "ObjectLockRetainUntilDate",
        }
        return wanted | {to: self.headers[name] for name, to in names.items() if name in self.headers}


@dataclass(frozen=True)
class Answer:
    """One answer. `length` is the announced Content-Length; by default that of the body. `cut`: bytes that are sent."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    cut: int | None = None

    def with_body(self, body: bytes) -> Answer:
        return replace(self, body=body, length=None)

    def without(self, *names: str) -> Answer:
        """The same answer without the headers whose names begin so."""
        kept = {header: value for header, value in self.headers.items() if not header.lower().startswith(names)}
        return replace(self, headers=kept)

    def header(self, name: str) -> str:
        return next((value for header, value in self.headers.items() if header.lower() == name.lower()), "")


def read_request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Request:
    """The request, with the operation that its method and query name."""
    parts = urlsplit(path)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    lower = {name.lower(): value for name, value in headers.items()}
    known = (_OF_OBJECTS if key else _OF_BUCKETS).get(method, ())
    operation = next((name for word, name in known if not word or word in query), method)
    if operation == "PutObject" and "x-amz-copy-source" in lower:
        operation = "CopyObject"
    return Request(
        method, path, operation, bucket, key or query.get("prefix", ""), query, lower, body, tuple(headers.items())
    )


def relay(upstream: str, request: Request) -> Answer:
    """Ask the real site. The header Host passes as it came, because it is signed."""
    there = HTTPConnection(urlsplit(upstream).netloc, timeout=60)
    try:
        there.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.sent:
            if name.lower() != "content-length":
                there.putheader(name, value)
        if request.body or "content-length" in request.headers:
            there.putheader("Content-Length", str(len(request.body)))
        there.endheaders(request.body)
        answered = there.getresponse()
        body = answered.read()
        headers = {name: value for name, value in answered.getheaders() if name.lower() not in _NOT_RELAYED}
        announced = answered.getheader("Content-Length") if request.method == "HEAD" else None
        return Answer(answered.status, headers, body, int(announced) if announced else None)
    finally:
        there.close()


def error(status: int, code: str, message: str = "Refused.") -> Answer:
    """An error as S3 words it."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, {"Content-Type": "application/xml"}, text.encode())


_ENTRY = re.compile(rb"<(Contents|Version|DeleteMarker)>.*?</\1>", re.DOTALL)


def entries(body: bytes) -> list[bytes]:
    """The entries of a page of a listing, as they stand in the XML."""
    return [match[0] for match in _ENTRY.finditer(body)]


def fact(entry: bytes, name: str) -> str:
    """The text of an element of an entry or a page; empty if there is none."""
    found = re.search(rf"<{name}>(.*?)</{name}>".encode(), entry, re.DOTALL)
    return found[1].decode() if found else ""


def page(like: bytes, shown: list[bytes], follows: Mapping[str, str] | None = None) -> bytes:
    """A page like another one, with these entries; `follows` names the tokens of the next page, if there is one."""
    body = _ENTRY.sub(b"", like)
    for name in ("IsTruncated", "NextContinuationToken", "NextKeyMarker", "NextVersionIdMarker", "KeyCount"):
        body = re.sub(rf"<{name}>.*?</{name}>|<{name}/>".encode(), b"", body, flags=re.DOTALL)
    tokens = "".join(f"<{name}>{value}</{name}>" for name, value in (follows or {}).items())
    facts = f"<IsTruncated>{'true' if follows else 'false'}</IsTruncated><KeyCount>{len(shown)}</KeyCount>{tokens}"
    head, end, tail = body.rpartition(b"</List")
    return head + facts.encode() + b"".join(shown) + end + tail
