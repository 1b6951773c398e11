"""Translate an S3 server's refusals: each cause has its own error and its own remedy. Pure.

The codes are those of the S3 API reference ("Error responses"), and those that compatible servers send instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from rempart.errors import BodyAltered, ClockSkewed, ObjectMissing, RequestInvalid, SiteError, SiteUnavailable

MOST_SKEW = timedelta(minutes=5)
"""Two clocks may differ by this: S3 refuses a signature from 15 minutes on, some servers earlier."""
BUSY = {
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded", "ReducedRequestRate",
    "BandwidthLimitExceeded", "OperationAborted", "429", "500", "502", "503", "504",
}  # fmt: skip
"""The server asks to come back later, or failed on its side: that says nothing about what it can do."""
_RETRY = "Retry. If it fails again, ask the site's operator."


@dataclass(frozen=True)
class _Cause:
    """The error of some codes: its text, and its remedy, in which {site} and {connection} are replaced."""

    codes: tuple[str, ...]
    error: type[SiteError]
    text: str
    remedy: str


_CAUSES = (
    _Cause(
        ("NoSuchBucket",),
        ObjectMissing,
        "the bucket does not exist",
        "Compare `buckets` in rempart.yaml with the buckets at the operator. `rempart up` creates the platform's "
"buckets.",
    ),
    _Cause(
        ("NoSuchKey", "NoSuchVersion", "NotFound", "404"),
        ObjectMissing,
        "not there",
        "Check the bucket and key. `rempart up` creates the platform's buckets.",
    ),
    _Cause(
        ("NoSuchUpload", "InvalidPart", "InvalidPartOrder"),
        SiteUnavailable,
        "the site lost parts of the upload",
        "Run again: the object is sent from the start. If it fails again, ask the operator whether a rule "
"removes unfinished uploads.",
    ),
    _Cause(
        ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture", "RequestHasExpired"),
        ClockSkewed,
        "the clocks of this machine and of the site differ too much",
        "Synchronize this machine's clock (`timedatectl`, chrony). `rempart site doctor {site}` shows the "
"difference. If this machine's clock is right, inform the operator.",
    ),
    _Cause(
        ("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "ChecksumMismatch", "InvalidDigest",
         "IncompleteBody"),
        BodyAltered,
        "the site received other bytes than were sent, and did not store them",
        "Retry. If it fails again, a proxy or network device between this machine and the site alters bodies: "
"bypass it.",
    ),
    _Cause(
        ("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken"),
        SiteError,
        "the site does not know the access key",
        "Correct the login of connection '{connection}': the key was mistyped or revoked, or belongs to another "
"site.",
    ),
    _Cause(
        ("SignatureDoesNotMatch",),
        SiteError,
        "the signature is wrong",
        "Correct the secret key (password) of connection '{connection}'. If it is right, check that region_name "
"and endpoint_url are the operator's and that no proxy changes host or path.",
    ),
    _Cause(
        ("AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"),
        SiteError,
        "access is denied",
        "Check the rights of connection '{connection}' and the bucket's policy.",
    ),
    _Cause(
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "Redirect", "301", "307",
         "IllegalLocationConstraintException", "InvalidLocationConstraint"),
        SiteError,
        "the bucket belongs to another region or endpoint",
        "Correct region_name and endpoint_url in the extra of connection '{connection}'.",
    ),
    _Cause(
        ("EntityTooLarge", "MaxMessageLengthExceeded", "413"),
        SiteError,
        "the object is larger than the site accepts in one request",
        "Ask the operator for its limit. `rempart site doctor {site}` shows whether it accepts multipart uploads.",
    ),
    _Cause(
        ("QuotaExceeded", "BucketQuotaExceeded", "StorageQuotaExceeded", "XMinioStorageFull", "InsufficientStorage",
         "507", "TooManyBuckets"),
        SiteError,
        "a quota of the site is used up",
        "Raise the quota at the operator, or free space (`rempart backup prune`).",
    ),
    _Cause(
        ("KeyTooLongError", "InvalidObjectName", "XMinioInvalidObjectName", "InvalidURI"),
        SiteError,
        "the site does not accept this key",
        "Rename the object at its source; `rempart site doctor {site}` lists the kinds of keys that the site accepts.",
    ),
    _Cause(
        ("InvalidBucketName", "BucketAlreadyExists", "BucketAlreadyOwnedByYou"),
        SiteError,
        "the bucket's name is taken or not allowed",
        "Choose another name under `buckets` in rempart.yaml.",
    ),
    _Cause(
        ("NotImplemented", "MethodNotAllowed", "405", "501"),
        SiteError,
        "the site does not implement this operation",
        "Run `rempart site doctor {site}` to see which operations it has, and declare another site for what "
"needs this one.",
    ),
    _Cause(
        ("PreconditionFailed", "ConditionalRequestConflict", "409", "412"),
        SiteError,
        "the object changed meanwhile, or a condition of the request is not met",
        "Run again: it starts from the current state.",
    ),
    _Cause(
        ("InvalidArgument", "InvalidRequest", "MalformedXML", "InvalidRange", "EntityTooSmall", "MissingContentLength",
         "MissingContentMD5", "MissingSecurityHeader", "MissingRequestBodyError", "InvalidTag", "UnexpectedContent",
         "BadRequest", "400", "411", "416"),
        RequestInvalid,
        "the site does not accept the request in this form",
        "Run `rempart site doctor {site}` to see what the site accepts. If every capability there is proven, "
"report the code and the request's id to the operator.",
    ),
)  # fmt: skip
_BY_CODE = {code: cause for cause in _CAUSES for code in cause.codes}
_UNKNOWN = _Cause(
    (), SiteError, "refused", "Look up the code in the operator's documentation, or ask the operator for the reason."
)


def translate(where: str, response: Mapping[str, Any], *, site: str, connection: str, now: datetime) -> SiteError:
    """Return the error for a response that refuses a request; `where` names operation, object and site.

    A refusal that may come from a wrong clock says so if the Date of the response is far from `now`.
    """
    code, facts = str(response.get("Error", {}).get("Code", "")), response.get("ResponseMetadata", {})
    status, skew = facts.get("HTTPStatusCode"), skew_of(facts.get("HTTPHeaders", {}), now)
    # an unknown code under 404 names something else that is missing, such as a configuration, and no object
    cause = _BY_CODE.get(code) or (_BY_CODE.get(str(status)) if not code or status != 404 else None) or _UNKNOWN
    if code in BUSY or (code not in _BY_CODE and str(status) in BUSY):
        return SiteUnavailable(f"{where}: {code or status}", _RETRY)
    if status in (400, 401, 403) and skew is not None and abs(skew) > MOST_SKEW and cause.error is not BodyAltered:
        cause = _BY_CODE["RequestTimeTooSkewed"]
    text = cause.text if cause is _UNKNOWN else f"refused, {cause.text}"
    if cause.error is ObjectMissing:
        text = cause.text
    if cause.error is ClockSkewed and skew is not None:
        text += f": by {abs(skew).total_seconds():.0f} s"
    told = ", ".join(part for part in (code or str(status), _message(response, cause), _request(facts)) if part)
    return cause.error(f"{where}: {text} ({told})", cause.remedy.format(site=site, connection=connection))


def skew_of(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return how far a server's clock is ahead of ours, by the Date of its answer, or None."""
    try:
        told = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return told.replace(tzinfo=UTC) - now  # HTTP dates are in UTC


def _message(response: Mapping[str, Any], cause: _Cause) -> str:
    """Return the server's own message if nothing else names what it refused."""
    if cause.error is not RequestInvalid and cause is not _UNKNOWN:
        return ""
    words = str(response.get("Error", {}).get("Message", ""))
    return "".join(letter for letter in words if letter.isprintable())[:160]


def _request(facts: Mapping[str, Any]) -> str:
    found = str(facts.get("RequestId") or "")
    return f"request {found[:64]}" if found.isprintable() and found else ""
