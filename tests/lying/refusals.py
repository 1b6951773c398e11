"""Faults of a provider: limits, refusals, storms, lost answers, and clocks that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from tests.lying.bodies import PUT, READ, WRITES
from tests.lying.listings import LISTS
from tests.lying.messages import Answer, Request, error
from tests.lying.server import Fault, Lie, Upstream

DELETES = frozenset({"DeleteObject", "DeleteObjects"})
OBJECTS = frozenset({"GetObject", "HeadObject", "PutObject", "UploadPart", "CompleteMultipartUpload", "DeleteObject"})
EVERYTHING = (
    OBJECTS | LISTS | DELETES | {"CreateMultipartUpload", "HeadBucket", "PutObjectRetention", "GetObjectRetention"}
)
MOST_PARTS = 1000
STORM = 2
SKEW = timedelta(minutes=20)


def _unless(allowed: Callable[[Request], bool], refusal: Answer) -> Lie:
    """A refusal of requests that are not allowed."""
    return lambda request, site: site.ask(request) if allowed(request) else refusal


def always(refusal: Answer) -> Lie:
    return lambda request, site: replace(refusal, body=b"") if request.method == "HEAD" else refusal


def storm(request: Request, site: Upstream) -> Answer:
    """Each request is answered by SlowDown twice, and then as it should be."""
    busy = site.count((request.method, request.path)) <= STORM
    return error(503, "SlowDown") if busy else site.ask(request)


def condition_ignored(request: Request, site: Upstream) -> Answer:
    """A put that must not replace anything replaces what is there."""
    answer = site.ask(request)
    if answer.status != 412 or "if-none-match" not in request.headers:
        return answer
    made = site.client.put_object(Bucket=request.bucket, Key=request.key, Body=request.payload, **request.stored_as)
    version = {"x-amz-version-id": made["VersionId"]} if made.get("VersionId") else {}
    return Answer(200, {"ETag": made["ETag"], **version})


def conflict(request: Request, site: Upstream) -> Answer:
    """The first conditional put of a key meets a conflict with a writer who does not win: nothing is there."""
    if request.conditional and site.count((request.bucket, request.key)) == 1:
        return error(409, "ConditionalRequestConflict")
    return site.ask(request)


def answer_lost(request: Request, site: Upstream) -> Answer:
    """The first time, the request is carried out and the connection is closed without an answer."""
    first = site.count((request.method, request.path)) == 1
    answer = site.ask(request)
    if first:
        raise ConnectionAbortedError
    return answer


def skewed_date(request: Request, site: Upstream) -> Answer:
    answer = site.ask(request)
    return replace(answer, headers={**answer.headers, "Date": format_datetime(datetime.now(UTC) + SKEW, usegmt=True)})


def faults() -> list[Fault]:
    """Every fault of this module."""
    part_number: Callable[[Request], bool] = lambda request: int(request.query["partNumber"]) <= MOST_PARTS  # noqa: E731
    with_md5: Callable[[Request], bool] = lambda request: "content-md5" in request.headers  # noqa: E731
    unconditional: Callable[[Request], bool] = lambda request: not request.conditional  # noqa: E731
    return [
        Fault(
            "P1-parts",
            f"a part with a number above {MOST_PARTS} is refused",
            frozenset({"UploadPart"}),
            _unless(part_number, error(400, "InvalidArgument")),
        ),
        Fault(
            "P2-md5",
            "deletes of many without Content-MD5 are refused",
            frozenset({"DeleteObjects"}),
            _unless(with_md5, error(400, "MissingContentMD5")),
        ),
        Fault("P3-ignored", "a put that must not replace anything does", PUT, condition_ignored),
        Fault("P3-refused", "conditional puts are refused", PUT, _unless(unconditional, error(501, "NotImplemented"))),
        Fault("P4-storm", "each request meets SlowDown twice", EVERYTHING, storm),
        Fault("P5-read", "reads fail for ever", READ, always(error(500, "InternalError"))),
        Fault("P5-write", "writes fail for ever", WRITES, always(error(500, "InternalError"))),
        Fault("P6-conflict", "a conditional put meets a conflict, and nothing is there", PUT, conflict),
        Fault("P8-put", "the answer to a put is lost", PUT, answer_lost),
        Fault(
            "P8-complete",
            "the answer to the end of a multipart upload is lost",
            frozenset({"CompleteMultipartUpload"}),
            answer_lost,
        ),
        Fault("P8-delete", "the answer to a delete is lost", DELETES, answer_lost),
        Fault("P9-busy", "SlowDown for ever", OBJECTS, always(error(503, "SlowDown"))),
        Fault(
            "P10-skew",
            "every request is refused because of the clock",
            EVERYTHING,
            always(error(403, "RequestTimeTooSkewed")),
        ),
        Fault("P10-date", "the site's clock is 20 minutes ahead", EVERYTHING, skewed_date),
        Fault("P10-digest", "puts are refused because of their digest", WRITES, always(error(400, "BadDigest"))),
        Fault("P10-argument", "puts are refused because of an argument", WRITES, always(error(400, "InvalidArgument"))),
    ]
