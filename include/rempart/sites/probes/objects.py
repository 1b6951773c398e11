"""Probes of single objects: what is written is what is read, checks that refuse, conditions, ranges, parts, tags."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rempart.sites.answers import etag, fact
from rempart.sites.digests import etag_of_parts, md5
from rempart.sites.probes.scratch import Absent, FalseClaim, NotRun, Scratch, busy, code, proves, status, unknown

PART = 5 << 20
"""Smallest size of a part except the last (S3's own limit)."""
RACERS = 8


@proves("read-after-write")
def read_after_write(at: Scratch) -> str:
    """Probe bodies and absence, each right after the change."""
    for attempt in range(3):
        body = os.urandom(1000 + attempt)
        at.put("seen", body)
        if not at.is_there("seen"):
            raise FalseClaim("the site reported success for a write, and the object is missing")
        if at.get("seen") != body or at.head("seen")["ContentLength"] != len(body):
            raise FalseClaim(f"a read after write {attempt + 1} of one key returned another body")
        if at.names("seen") != ["seen"]:
            raise FalseClaim("a listing right after the write does not show the object")
    at.put("empty")
    if at.get("empty") != b"":
        raise FalseClaim("an empty object was returned with a body")
    at.delete("seen")
    if at.is_there("seen") or at.names("seen"):
        raise FalseClaim("a deleted object is still shown")
    return "3 writes and a delete of one key were visible at once; an empty object stays empty"


@proves("etags")
def etags(at: Scratch) -> str:
    """Probe whether every answer about one object has the same ETag."""
    first, second = etag(at.put("tagged-by-content", b"first")), etag(at.put("tagged-by-content", b"second"))
    if first == second:
        raise FalseClaim("two different bodies have the same ETag")
    answer = at.client.get_object(Bucket=at.bucket, Key=at.key("tagged-by-content"))
    answer["Body"].close()
    listed = at.client.list_objects_v2(Bucket=at.bucket, Prefix=at.key("tagged-by-content")).get("Contents", ({},))[0]
    etags_seen = {"HEAD": etag(at.head("tagged-by-content")), "GET": etag(answer), "a listing": etag(listed)}
    if differing := [where for where, found in etags_seen.items() if found != second]:
        raise FalseClaim(f"another ETag than the write returned is in: {', '.join(differing)}")
    return "write, HEAD, GET and listing return the same ETag for one body, and another for another body"


@proves("metadata")
def metadata(at: Scratch) -> str:
    wrote = {"sha256": "0" * 64, "by": "probe"}
    at.put("described", b"x", Metadata=wrote, ContentType="application/x-probe")
    head = at.head("described")
    if lost := wrote.items() - head.get("Metadata", {}).items():
        raise Absent(f"{len(lost)} of {len(wrote)} metadata entries were changed or lost")
    if head.get("ContentType") != "application/x-probe":
        raise Absent(f"the content type was returned as {str(head.get('ContentType'))[:40]}")
    return "metadata and content type were returned as written"


@proves("framing")
def framing(at: Scratch) -> str:
    """Probe a chunked body with a trailing checksum, as newer SDKs send it."""
    body = os.urandom(2000)
    checksum = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    framed = b"%x\r\n%s\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % (len(body), body, checksum.encode())
    headers = {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
        "X-Amz-Decoded-Content-Length": str(len(body)),
        "Content-Length": str(len(framed)),
    }
    answer = _send(at, "PUT", "framed", headers, framed, signed=True, chunked=True)
    _known("send a body in chunks", answer.status_code)
    if answer.status_code >= 300:
        raise Absent(f"bodies in chunks are refused ({answer.status_code})")
    received = at.get("framed")
    if received == framed:
        raise FalseClaim("the chunk framing is stored inside the object")
    if received != body:
        raise FalseClaim(
            f"other bytes were returned than were sent in chunks: {len(body)} bytes were sent, {len(received)} returned"
        )
    return "a body sent in chunks was returned intact"


@proves("private")
def private(at: Scratch) -> str:
    """Probe requests without a signature."""
    at.put("secret", b"not for everybody")
    answers = {
        what: _send(at, method, name, {}, body, signed=False).status_code
        for what, method, name, body in (
            ("read", "GET", "secret", b""),
            ("write", "PUT", "anonymous", b"from nobody"),
            ("list", "GET", None, b""),
        )
    }
    for what, answered in answers.items():
        _known(f"send an unsigned request ({what})", answered)
    if let := [what for what, answered in answers.items() if answered < 400]:
        raise FalseClaim(f"an unsigned request may {' and '.join(let)}")
    return f"unsigned requests are refused ({', '.join(sorted({str(answer) for answer in answers.values()}))})"


def _known(what: str, answered: int) -> None:
    if unknown("", answered):
        raise NotRun(f"the answer to {what} was {answered}")


def _send(
    at: Scratch,
    method: str,
    name: str | None,
    headers: dict[str, str],
    body: bytes,
    *,
    signed: bool,
    chunked: bool = False,
) -> Any:
    """Send one raw request to an object (or without `name` to the bucket), with botocore's own signer and transport."""
    from urllib.parse import quote

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.httpsession import URLLib3Session

    meta = at.client.meta
    path = f"{at.bucket}/{quote(at.key(name))}" if name else f"{at.bucket}?list-type=2"
    request = AWSRequest(method=method, url=f"{meta.endpoint_url}/{path}", data=body, headers=headers)
    if signed:
        if chunked:
            request.context["checksum"] = {"request_algorithm": {"in": "trailer", "algorithm": "crc32"}}
        request.context["payload_signing_enabled"] = False
        # botocore offers no public way to the credentials of a client
        signer = S3SigV4Auth(at.client._request_signer._credentials, "s3", meta.region_name)
        signer.add_auth(request)
    return URLLib3Session(timeout=20).send(request.prepare())


@proves("MD5 ETags")
def md5_etags(at: Scratch) -> str:
    """Probe whether the ETags of a body in one piece and of a multipart body are MD5s."""
    whole, first, last = b"of this body", os.urandom(PART), b"the rest"
    at.put("whole", whole)
    _upload(at, "in-parts", {1: first, 2: last})
    for name, wanted in (("whole", md5(whole).hex()), ("in-parts", etag_of_parts([md5(first), md5(last)]))):
        reported = str(at.head(name).get("ETag", "")).strip('"')
        if reported != wanted:
            raise Absent(f"the ETag of a body {'in parts' if '-' in wanted else 'sent whole'} is no MD5")
    return "the ETag is the MD5 of the body, or of the MD5s of its parts"


@proves("wrong digest refused")
def wrong_digest(at: Scratch) -> str:
    """Probe a body whose announced SHA-256 is wrong, as if it had been altered in transit."""
    from botocore.exceptions import ClientError

    announced = base64.b64encode(hashlib.sha256(b"what was meant").digest()).decode()
    try:
        at.put("altered", b"what came", ChecksumSHA256=announced)
    except ClientError as error:
        if busy(error):
            raise
        if at.is_there("altered"):
            raise FalseClaim(
                f"a body with a wrong SHA-256 was refused ({code(error)}), and stored all the same"
            ) from error
        return f"a body that does not match its SHA-256 is refused ({code(error)})"
    raise FalseClaim("a body that does not match its SHA-256 was accepted")


@proves("conditional put")
def conditional_put(at: Scratch) -> str:
    from botocore.exceptions import ClientError

    at.put("once", b"first")
    try:
        at.put("once", b"second", IfNoneMatch="*")
    except ClientError as error:
        if busy(error):
            raise
        if status(error) not in (409, 412):
            raise Absent(f"If-None-Match is refused ({code(error)})") from error
    else:
        raise FalseClaim(
            "If-None-Match: * was accepted, and " + ("replaced" if at.get("once") != b"first" else "ignored")
        )
    if at.get("once") != b"first":
        raise FalseClaim("a put was refused and still replaced the object")

    def race(number: int) -> int | None:
        try:
            at.put("race", b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            if status(error) in (409, 412):
                return None
            raise
        return number

    with ThreadPoolExecutor(RACERS) as threads:
        winners = [winner for winner in threads.map(race, range(RACERS)) if winner is not None]
    if len(winners) != 1:
        raise FalseClaim(f"{len(winners)} of {RACERS} concurrent puts were told that they created the object")
    if at.get("race") != b"%d" % winners[0]:
        raise FalseClaim("the body is not that of the put that was told that it created the object")
    return f"an existing object is not replaced; one of {RACERS} concurrent puts won"


@proves("range")
def byte_range(at: Scratch) -> str:
    body = os.urandom(10_000)
    at.put("range", body)
    for asked, wanted in (("bytes=10-19", body[10:20]), ("bytes=9990-", body[9990:]), ("bytes=-5", body[-5:])):
        answer = at.client.get_object(Bucket=at.bucket, Key=at.key("range"), Range=asked)
        received = answer["Body"].read()
        if received == body:
            raise Absent(f"Range: {asked} is ignored; the whole body is returned")
        if received != wanted:
            raise FalseClaim(f"Range: {asked} returns other bytes")
    return "ranges at the start, in the middle and at the end return the right bytes"


@proves("multipart")
def multipart(at: Scratch) -> str:
    first, last = os.urandom(PART), os.urandom(1000)
    _upload(at, "parts", {1: first, 2: last})
    if hashlib.sha256(at.get("parts")).digest() != hashlib.sha256(first + last).digest():
        raise FalseClaim("an object made of two parts does not equal those parts")
    begun = at.client.create_multipart_upload(Bucket=at.bucket, Key=at.key("aborted"))["UploadId"]
    where = {"Bucket": at.bucket, "Key": at.key("aborted"), "UploadId": begun}
    at.client.upload_part(**where, PartNumber=1, Body=b"never")
    at.client.abort_multipart_upload(**where)
    if at.is_there("aborted"):
        raise FalseClaim("an aborted upload left an object")
    left = at.client.list_multipart_uploads(Bucket=at.bucket, Prefix=at.key("")).get("Uploads", ())
    if begun in [upload["UploadId"] for upload in left]:
        raise FalseClaim("an upload continues after it was aborted")
    return f"parts of {PART >> 20} MiB and 1 kB were joined into one object; an aborted upload left nothing"


@proves("wrong part refused")
def wrong_part(at: Scratch) -> str:
    """Probe a part whose announced SHA-256 is wrong."""
    from botocore.exceptions import ClientError

    begun = at.client.create_multipart_upload(Bucket=at.bucket, Key=at.key("altered-part"), ChecksumAlgorithm="SHA256")[
        "UploadId"
    ]
    where = {"Bucket": at.bucket, "Key": at.key("altered-part"), "UploadId": begun}
    announced = base64.b64encode(hashlib.sha256(b"what was meant").digest()).decode()
    try:
        at.client.upload_part(**where, PartNumber=1, Body=b"what came", ChecksumSHA256=announced)
    except ClientError as error:
        if busy(error):
            raise
        return f"a part that does not match its SHA-256 is refused ({code(error)})"
    finally:
        at.client.abort_multipart_upload(**where)
    raise FalseClaim("a part that does not match its SHA-256 was accepted")


def _upload(at: Scratch, name: str, parts: dict[int, bytes]) -> None:
    where: dict[str, Any] = {"Bucket": at.bucket, "Key": at.key(name)}
    where["UploadId"] = fact(at.client.create_multipart_upload(**where), "UploadId")
    try:
        done = [
            {"PartNumber": number, "ETag": etag(at.client.upload_part(**where, PartNumber=number, Body=body))}
            for number, body in parts.items()
        ]
        etag(at.client.complete_multipart_upload(**where, MultipartUpload={"Parts": done}))
        at.stored.add(name)
    except BaseException:
        at.client.abort_multipart_upload(**where)
        raise


@proves("tags")
def tags(at: Scratch) -> str:
    at.put("tagged", b"x", Tagging="colour=blue&size=10")
    answer = at.client.get_object_tagging(Bucket=at.bucket, Key=at.key("tagged"))
    if (read_back := {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}) != {"colour": "blue", "size": "10"}:
        raise (
            FalseClaim(f"two tags were written, {len(read_back)} came back")
            if read_back
            else Absent("tags are dropped")
        )
    return "tags are returned as written"
