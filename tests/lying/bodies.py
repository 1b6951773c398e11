"""Faults of bodies: objects that are read, put or completed differ from the stored, sent or announced ones."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.lying.messages import Answer, Request, error
from tests.lying.server import Fault, Lie, Upstream

READ, PUT = frozenset({"GetObject"}), frozenset({"PutObject"})
PARTS = frozenset({"UploadPart", "CompleteMultipartUpload"})
WRITES = frozenset({"PutObject", "UploadPart", "CompleteMultipartUpload"})
LINK, CHECKPOINT, SEGMENT, MANIFEST = r"(^|/)chain/", r"(^|/)checkpoints/", r"(^|/)ledger/", r"/manifest\.json$"
_CHECKSUMS = ("x-amz-meta-sha256", "x-amz-checksum")
_MADE_UP = {"x-amz-version-id": "0123456789abcdef0123456789abcdef"}


def md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def flipped(body: bytes) -> bytes:
    """The body with its first bit flipped; an empty one gets a byte."""
    return bytes([body[0] ^ 1]) + body[1:] if body else b"\x01"


def _claimed(request: Request, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
    """The answer of a put that went well."""
    etag = {"ETag": f'"{md5(request.payload if body is None else body)}"'}
    echoed = {name: value for name, value in request.headers.items() if name.startswith("x-amz-checksum-sha")}
    return Answer(200, {**etag, **echoed, **(headers or {})})


def _good(answer: Answer) -> bool:
    return answer.status in (200, 206)


def altered_each_time(request: Request, site: Upstream) -> Answer:
    answer = site.ask(request)
    if not _good(answer) or not answer.body:
        return answer
    number = (site.count(request.key) - 1) % 255 + 1
    return answer.with_body(answer.body[:-1] + bytes([answer.body[-1] ^ number]))


def altered_on_arrival(request: Request, site: Upstream) -> Answer:
    return site.ask(request.with_body(flipped(request.body)))


def cut_short(request: Request, site: Upstream) -> Answer:
    answer = site.ask(request)
    return replace(answer, cut=len(answer.body) // 2) if _good(answer) else answer


def short_and_consistent(request: Request, site: Upstream) -> Answer:
    answer = site.ask(request)
    return answer.with_body(answer.body[: len(answer.body) // 2]) if _good(answer) else answer


def altered_the_same(*, recorded: bool) -> Lie:
    """The same bit of the object is wrong in every read; `recorded`: its writer's SHA-256 is still told."""

    def lie(request: Request, site: Upstream) -> Answer:
        answer = site.ask(request)
        if not recorded:
            answer = answer.without(*_CHECKSUMS)
        if request.method == "HEAD" or not _good(answer):
            return answer
        starts = re.match(r"bytes (\d+)-", answer.header("Content-Range"))
        return answer if starts and starts[1] != "0" else answer.with_body(flipped(answer.body))

    return lie


def error_instead_of_body(*, bare: bool) -> Lie:
    """Status 200 and an error document, with the headers of the object unless it is `bare`."""

    def lie(request: Request, site: Upstream) -> Answer:
        answer = site.ask(request)
        if not _good(answer):
            return answer
        document = error(200, "InternalError", "We encountered an internal error. Please try again.")
        return document if bare else replace(answer.with_body(document.body), status=200).without("content-range")

    return lie


def error_under_200(request: Request, site: Upstream) -> Answer:
    return error(200, "InternalError", "We encountered an internal error. Please try again.")


def framed(request: Request, site: Upstream) -> Answer:
    """The transfer's framing is stored as if it were content."""
    payload = request.payload
    plain = payload == request.body
    return _stored(request, site, b"%x\r\n%s\r\n0\r\n\r\n" % (len(payload), payload) if plain else request.body)


def digest_ignored(request: Request, site: Upstream) -> Answer:
    """What the site refuses because its checksum is wrong is stored all the same."""
    answer = site.ask(request)
    return answer if answer.status != 400 else _stored(request, site, request.payload)


def part_digest_ignored(request: Request, site: Upstream) -> Answer:
    return first_part_wrong(request, site) if request.operation != "UploadPart" else digest_ignored(request, site)


def _stored(request: Request, site: Upstream, body: bytes, *, locked: bool = True) -> Answer:
    """Store a body in place of the request's, and claim that it was the request's."""
    if request.operation == "UploadPart":
        return _stored_part(request, site, body)
    wanted = {name: value for name, value in request.stored_as.items() if locked or not name.startswith("ObjectLock")}
    condition = (
        {} if request.headers.get("if-none-match") is None else {"IfNoneMatch": request.headers["if-none-match"]}
    )
    try:
        made = site.client.put_object(Bucket=request.bucket, Key=request.key, Body=body, **wanted, **condition)
    except site.client.exceptions.ClientError as refused:
        facts = refused.response
        return error(facts["ResponseMetadata"]["HTTPStatusCode"], facts["Error"]["Code"])
    return _claimed(request, {"x-amz-version-id": made["VersionId"]} if made.get("VersionId") else {})


def stored_wrong(request: Request, site: Upstream) -> Answer:
    return _stored(request, site, flipped(request.payload))


def stored_without_lock(request: Request, site: Upstream) -> Answer:
    if "x-amz-object-lock-mode" not in request.headers:
        return site.ask(request)
    return _stored(request, site, request.payload, locked=False)


def lost(request: Request, site: Upstream) -> Answer:
    """The put is reported as done, and nothing is stored. A conditional one is still refused where the key exists."""
    if request.headers.get("if-none-match") is not None:
        there = site.client.list_objects_v2(Bucket=request.bucket, Prefix=request.key, MaxKeys=1).get("Contents", ())
        if request.key in [entry["Key"] for entry in there]:
            return error(412, "PreconditionFailed")
    return _claimed(request, _MADE_UP)


def _stored_part(request: Request, site: Upstream, body: bytes) -> Answer:
    number, upload = int(request.query["partNumber"]), request.query["uploadId"]
    part = _upload_part(request, site, number, body)
    with site.lock:
        site.memory.setdefault(upload, {})[number] = (part, request.payload)
    return _claimed(request)


def _upload_part(request: Request, site: Upstream, number: int, body: bytes) -> dict[str, Any]:
    """Store a part past the proxy; what the end of the upload says of it."""
    where = {"Bucket": request.bucket, "Key": request.key, "UploadId": request.query["uploadId"]}
    checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
    made = site.client.upload_part(**where, PartNumber=number, Body=body, ChecksumSHA256=checksum)
    return {"PartNumber": number, "ETag": made["ETag"], "ChecksumSHA256": checksum}


def _finished(request: Request, site: Upstream, parts: list[dict[str, Any]]) -> Answer:
    """Complete an upload of these parts, and claim that it was of those that were named."""
    named = re.findall(rb"<ETag>(?:&quot;|&#34;|\")?([0-9a-f]{32})", request.body)
    made = site.client.complete_multipart_upload(
        Bucket=request.bucket,
        Key=request.key,
        UploadId=request.query["uploadId"],
        MultipartUpload={"Parts": parts},
    )
    etag = f"{md5(b''.join(bytes.fromhex(digest.decode()) for digest in named))}-{len(named)}"
    version = {"x-amz-version-id": made["VersionId"]} if made.get("VersionId") else {}
    text = (
        f"<CompleteMultipartUploadResult><Bucket>{request.bucket}</Bucket><Key>{request.key}</Key>"
        f"<ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>"
    )
    return Answer(200, {"Content-Type": "application/xml", **version}, text.encode())


def first_part_wrong(request: Request, site: Upstream) -> Answer:
    """The first part is stored with a flipped bit, and the object is made of what was stored."""
    if request.operation == "CompleteMultipartUpload":
        with site.lock:
            known = site.memory.get(request.query["uploadId"], {})
        return (
            _finished(request, site, [part for _, (part, _) in sorted(known.items())]) if known else site.ask(request)
        )
    body = request.payload
    return _stored_part(request, site, flipped(body) if request.query["partNumber"] == "1" else body)


def completed_wrong(request: Request, site: Upstream) -> Answer:
    """Each part is stored as it was sent, and the object is made of other bytes."""
    if request.operation == "UploadPart":
        return _stored_part(request, site, request.payload)
    with site.lock:
        known = sorted(site.memory.get(request.query["uploadId"], {}).items())
    if not known:
        return site.ask(request)
    number, (_, body) = known[0]
    other = _upload_part(request, site, number, flipped(body))
    return _finished(request, site, [other, *(part for _, (part, _) in known[1:])])


def complete_lost(request: Request, site: Upstream) -> Answer:
    """The object is reported as made of its parts, and is not there."""
    etag = f"&quot;{md5(b'')}-1&quot;"
    text = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
    return Answer(200, {"Content-Type": "application/xml", **_MADE_UP}, text.encode())


def delete_ignored(request: Request, site: Upstream) -> Answer:
    """A delete is reported as done, and nothing is deleted."""
    if request.operation == "DeleteObjects":
        return Answer(200, {"Content-Type": "application/xml"}, b"<DeleteResult></DeleteResult>")
    return Answer(204, {} if "versionId" in request.query else {**_MADE_UP, "x-amz-delete-marker": "true"})


def lock_ignored(request: Request, site: Upstream) -> Answer:
    """A longer lock is reported as set, and is not."""
    return Answer(200)


def without_etag(request: Request, site: Upstream) -> Answer:
    answer = site.ask(request).without("etag")
    return answer.with_body(re.sub(rb"<ETag>.*?</ETag>", b"", answer.body)) if _is_document(request) else answer


def without_version(request: Request, site: Upstream) -> Answer:
    answer = site.ask(request).without("x-amz-version-id")
    return (
        answer.with_body(re.sub(rb"<VersionId>.*?</VersionId>", b"", answer.body)) if _is_document(request) else answer
    )


def _is_document(request: Request) -> bool:
    return request.operation.startswith("List") or request.operation == "CompleteMultipartUpload"


_FACTS = frozenset({"PutObject", "GetObject", "HeadObject", "ListObjectsV2", "ListObjectVersions", *PARTS})


def _locked(kind: str, keys: str) -> list[Fault]:
    return [
        Fault(f"I11-{kind}-lost", f"a put of a {kind} is reported as done, and nothing is stored", PUT, lost, keys),
        Fault(f"I11-{kind}-altered", f"a {kind} is stored with a flipped bit", PUT, stored_wrong, keys),
    ]


def faults() -> list[Fault]:
    """Every fault of this module."""
    reads = [
        Fault("I3-get", "a body is altered in flight, differently at each read", READ, altered_each_time),
        Fault("I4-get", "a body is cut short under its full length", READ, cut_short),
        Fault(
            "I8-get", "a GET is answered by an error document under status 200", READ, error_instead_of_body(bare=False)
        ),
        Fault("I8-get-bare", "the same, without the object's headers", READ, error_instead_of_body(bare=True)),
        Fault("I9-recorded", "the same wrong bytes at every read", READ, altered_the_same(recorded=True)),
        Fault(
            "I9-unrecorded",
            "the same wrong bytes at every read, and no checksum on record",
            READ | {"HeadObject"},
            altered_the_same(recorded=False),
        ),
        Fault("I13-get", "half of a body comes, under the length of that half", READ, short_and_consistent),
    ]
    writes = [
        Fault("I3-put", "a body is altered on its way to the site", PUT | {"UploadPart"}, altered_on_arrival),
        Fault("I5-put", "the framing of the transfer is stored as content", PUT, framed),
        Fault("I6-put", "a body that is not of its checksum is stored", PUT, digest_ignored),
        Fault("I6-part", "the same for a part", PARTS, part_digest_ignored),
        Fault("I8-put", "a put is answered by an error document under status 200", PUT, error_under_200),
        Fault("I8-part", "the same for a part", frozenset({"UploadPart"}), error_under_200),
        Fault("I8-complete", "the same for the end of a multipart upload", PARTS - {"UploadPart"}, error_under_200),
        Fault("I10-single", "a put is stored with a flipped bit", PUT, stored_wrong),
        Fault("I10-part", "the first part is stored with a flipped bit", PARTS, first_part_wrong),
        Fault("I10-complete", "an object is made of other bytes than its parts", PARTS, completed_wrong),
        Fault("P7-put", "a put is reported as done, and nothing is stored", PUT, lost),
        Fault(
            "P7-complete",
            "a multipart upload is reported as done, and nothing is there",
            PARTS - {"UploadPart"},
            complete_lost,
        ),
        Fault(
            "P7-delete",
            "a delete is reported as done, and nothing is deleted",
            frozenset({"DeleteObject", "DeleteObjects"}),
            delete_ignored,
        ),
        Fault("K2-unlocked", "a locked object is stored without its lock", PUT, stored_without_lock),
        Fault(
            "K2-extend", "a longer lock is reported as set, and is not", frozenset({"PutObjectRetention"}), lock_ignored
        ),
        *_locked("link", LINK),
        *_locked("checkpoint", CHECKPOINT),
        *_locked("segment", SEGMENT),
        *_locked("manifest", MANIFEST),
    ]
    facts = [
        Fault("I12-etag", "no answer tells an ETag", _FACTS, without_etag),
        Fault("I12-version", "no answer tells a version id", _FACTS, without_version),
    ]
    return [*reads, *writes, *facts]
