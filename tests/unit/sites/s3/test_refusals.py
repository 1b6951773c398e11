"""P10, I12: each refusal of a site has its own cause and remedy; an incomplete answer is reported as such."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rempart.errors import (
    AnswerInvalid,
    BodyAltered,
    ClockSkewed,
    ObjectMissing,
    RequestInvalid,
    SiteError,
    SiteUnavailable,
)
from rempart.sites.port import ObjectInfo
from rempart.sites.refusals import translate
from rempart.sites.s3.site import S3Site
from tests.scripted_site import Answer, ScriptedRequest, refusal, scripted_site

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
WHERE = "put lake/a at site 'primary'"


def told(code: str, status: int = 400, message: str = "", ahead: timedelta = timedelta()) -> SiteError:
    headers = {"date": format_datetime(NOW + ahead, usegmt=True)}
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers, "RequestId": "R1"},
    }
    return translate(WHERE, response, site="primary", connection="s3_primary", now=NOW)


CASES: list[tuple[str, int, type[SiteError], str, str]] = [
    ("RequestTimeTooSkewed", 403, ClockSkewed, "clock", "Synchronize this machine's clock"),
    ("BadDigest", 400, BodyAltered, "other bytes than were sent", "proxy or network device"),
    ("XAmzContentSHA256Mismatch", 400, BodyAltered, "other bytes than were sent", "proxy or network device"),
    ("InvalidDigest", 400, BodyAltered, "other bytes than were sent", "proxy or network device"),
    ("InvalidArgument", 400, RequestInvalid, "does not accept the request in this form", "rempart site doctor primary"),
    ("MalformedXML", 400, RequestInvalid, "does not accept the request in this form", "rempart site doctor primary"),
    ("SlowDown", 503, SiteUnavailable, "SlowDown", "Retry"),
    ("TooManyRequests", 429, SiteUnavailable, "TooManyRequests", "Retry"),
    ("NoSuchBucket", 404, ObjectMissing, "the bucket does not exist", "`buckets` in rempart.yaml"),
    ("NoSuchKey", 404, ObjectMissing, "not there", "bucket and key"),
    ("InvalidAccessKeyId", 403, SiteError, "does not know the access key", "login of connection 's3_primary'"),
    ("SignatureDoesNotMatch", 403, SiteError, "the signature is wrong", "secret key (password) of connection"),
    ("AccessDenied", 403, SiteError, "access is denied", "Check the rights of connection 's3_primary'"),
    ("AuthorizationHeaderMalformed", 400, SiteError, "another region", "region_name"),
    ("EntityTooLarge", 400, SiteError, "larger than the site accepts", "limit"),
    ("QuotaExceeded", 403, SiteError, "a quota of the site", "Raise the quota"),
    ("NotImplemented", 501, SiteError, "does not implement this operation", "declare another site"),
    ("NobodyKnows", 418, SiteError, "refused", "operator's documentation"),
]


@pytest.mark.parametrize(("code", "status", "kind", "cause", "remedy"), CASES)
def test_p10_each_refusal_has_its_own_cause_and_remedy(
    code: str, status: int, kind: type[SiteError], cause: str, remedy: str
) -> None:
    error = told(code, status)
    assert type(error) is kind and cause in error.what and remedy in error.hint
    assert code in error.what and WHERE in error.what
    assert ("rights" in error.hint) == (code == "AccessDenied"), "rights are no remedy for anything else"


def test_p10_the_causes_differ() -> None:
    hints = {told(code, status).hint for code, status, *_ in CASES}
    assert len(hints) >= len(CASES) - 5


@pytest.mark.parametrize("code", ["AccessDenied", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "403", ""])
def test_p10_a_refusal_by_a_site_whose_clock_is_far_away_names_the_clock_and_by_how_much(code: str) -> None:
    error = told(code, 403, ahead=timedelta(minutes=-20))
    assert isinstance(error, ClockSkewed) and "by 1200 s" in error.what
    assert (
        not isinstance(told(code or "AccessDenied", 403, ahead=timedelta(minutes=2)), ClockSkewed) or "Skewed" in code
    )


def test_the_servers_own_words_are_told_where_only_they_say_what_is_wrong_and_cannot_forge_a_line() -> None:
    error = told("InvalidArgument", message="x-amz-tagging\nINFO all is well" + "z" * 500)
    assert "x-amz-taggingINFO all is well" in error.what and "\n" not in error.what and len(error.what) < 400
    assert "request R1" in error.what


def test_something_else_that_is_missing_is_no_missing_object() -> None:
    assert not isinstance(told("NoSuchLifecycleConfiguration", 404), ObjectMissing)


# --- over the wire ----------------------------------------------------------------------------------------------------

MOMENT = "Sun, 01 Nov 2026 00:00:00 GMT"
WHOLE: dict[str, str | None] = {"ETag": '"0"', "Last-Modified": MOMENT}
LIKE = ObjectInfo("big", 1, NOW)


def without_etag(asked: ScriptedRequest) -> Answer:
    if asked.method == "GET" and "uploads" in asked.query:
        return Answer(body=b"<ListMultipartUploadsResult/>")
    if asked.method == "POST" and "uploads" in asked.query:
        return Answer(body=b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
    if asked.method == "POST":
        return Answer(body=b"<CompleteMultipartUploadResult><Key>big</Key></CompleteMultipartUploadResult>")
    if asked.method == "PUT" and "partNumber" in asked.query:
        return Answer(headers={"ETag": None if asked.query["partNumber"] == "2" else '"0"'})
    return Answer(body=b"" if asked.method == "PUT" else b"body", headers=WHOLE | {"ETag": None})


@pytest.mark.parametrize(
    "act",
    [
        lambda site: site.head("lake", "a"),
        lambda site: site.fetch("lake", "a"),
        lambda site: site.write("lake", "a", b"body"),
        lambda site: site.write_new("lake", "a", b"body"),
        lambda site: site.upload("lake", LIKE).part(2, b"body"),
        lambda site: complete(site),
    ],
)
def test_i12_a_missing_etag_is_an_error_that_names_it_and_the_object(act: Callable[[S3Site], object]) -> None:
    with scripted_site(without_etag) as site, pytest.raises(AnswerInvalid, match="ETag") as error:
        act(site)
    assert "lake/" in error.value.what and "primary" in error.value.what and "doctor site" in error.value.hint


def complete(site: S3Site) -> object:
    upload = site.upload("lake", LIKE)
    upload.part(1, b"body")
    return upload.complete()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>Sign in</html>", "not a listing"),
        (b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>", "lacks LastModified"),
        (
            b"<ListBucketResult><Contents><Key>a</Key><LastModified>soon</LastModified></Contents></ListBucketResult>",
            "invalid size or time",
        ),
    ],
)
def test_a_listing_that_cannot_be_understood_is_an_error_of_the_site(body: bytes, why: str) -> None:
    with scripted_site(lambda asked: Answer(body=body)) as site, pytest.raises(AnswerInvalid, match=why):
        tuple(site.list("lake"))


@pytest.mark.parametrize(
    "body", [b"<Error><Code>InternalError</Code><Message>Failed.</Message></Error>", b"<ListBucketResult><Contents>"]
)
def test_i8_an_error_or_half_a_page_under_status_200_is_no_empty_listing(body: bytes) -> None:
    with scripted_site(lambda asked: Answer(body=body)) as site, pytest.raises(SiteUnavailable, match="list lake/"):
        tuple(site.list("lake"))


def test_an_error_that_is_no_xml_is_an_error_of_the_site() -> None:
    page = Answer(418, b"<html><body>teapot", {"Content-Type": "text/html"})
    with scripted_site(lambda asked: page) as site, pytest.raises(SiteError, match="primary"):
        tuple(site.list("lake"))


def test_p10_a_refused_put_names_the_altered_body_and_never_the_secret() -> None:
    with scripted_site(lambda asked: refusal("BadDigest", 400)) as site, pytest.raises(BodyAltered) as error:
        site.write("lake", "a", b"body")
    assert error.value.transient and "secret-word" not in str(error.value)


def test_p10_skew_over_the_wire() -> None:
    late = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    with (
        scripted_site(lambda asked: refusal("AccessDenied", Date=late)) as site,
        pytest.raises(ClockSkewed, match=r"by 3[56]\d\d s"),
    ):
        site.read("lake", "a")
