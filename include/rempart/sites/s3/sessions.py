"""Sessions at a site: credentials that end by themselves and may do what a policy says, from the site's STS.

AssumeRole of AWS STS, at the site's own endpoint. A session may do what both the role's policy and its own allow. A
service that takes the session's policy and does not hold to it would give a job all rights of the role, so each session
is proven before it is used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from rempart.errors import SiteError, SiteUnavailable
from rempart.settings.config import Connection
from rempart.settings.sections import SHORTEST_SESSION, JobCredentials
from rempart.sites.refusals import BUSY
from rempart.sites.s3.client import SESSION_TOKEN, SESSION_UNTIL, SILENT_SECONDS, leave_silent, open_client
from rempart.sovereignty.policy import Decision

_DIGEST = "X-Amz-Content-SHA256"


@dataclass(frozen=True)
class Request:
    """A request to a site for a session named `name`, with a policy and a duration in seconds.

    `must` is an object (bucket, key) that the session can read, `must_not` a bucket that it cannot list.
    """

    name: str
    policy: str
    seconds: int
    must: tuple[str, str]
    must_not: str


def seconds_of(wanted: float, offered: JobCredentials) -> int:
    """Return the length of a session for that many seconds, within the service's limits."""
    return int(min(max(wanted, SHORTEST_SESSION.total_seconds()), offered.longest.total_seconds()))


def assume(
    site: str, connection: Connection, region: str, offered: JobCredentials, request: Request, permission: Decision
) -> tuple[Connection, datetime]:
    """Return the site's connection with a session's credentials, and the session's end.

    Raises PlacementDenied, SiteUnavailable; SiteError if the role is refused or the policy is not enforced.
    """
    if not permission.allowed:
        raise permission.refusal()
    endpoint = connection.extra.get("endpoint_url")
    where = f"session for {request.name} at site '{site}' ({endpoint})"
    client = _sts(connection, region)
    client.meta.events.register("before-sign.sts.AssumeRole", _with_digest)
    answer = _called(
        where,
        offered,
        lambda: client.assume_role(
            RoleArn=offered.role,
            RoleSessionName=request.name,
            DurationSeconds=seconds_of(request.seconds, offered),
            Policy=request.policy,
        ),
    )
    given = answer["Credentials"]
    until: datetime = given["Expiration"]
    extra = {**connection.extra, SESSION_TOKEN: given["SessionToken"], SESSION_UNTIL: until.isoformat()}
    made = replace(connection, login=given["AccessKeyId"], password=given["SecretAccessKey"], extra=extra)
    _prove(where, open_client(site, made, region), offered, request)
    return made, until


def _prove(where: str, client: Any, offered: JobCredentials, request: Request) -> None:
    """Check one thing that the session must be able to do and one thing that it must not do.

    Raises SiteError, SiteUnavailable.
    """
    bucket, key = request.must

    def look() -> None:
        try:
            client.head_object(Bucket=bucket, Key=key)
        except client.exceptions.ClientError as refusal:
            if refusal.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:  # the job says that better
                raise

    _called(where, offered, look)
    try:
        client.list_objects_v2(Bucket=request.must_not, MaxKeys=1)
    except client.exceptions.ClientError as refusal:
        if refusal.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403:
            return
        raise SiteUnavailable(
            f"{where}: the test of its policy had no result ({_code(refusal)})",
            "Retry. If it fails again, ask the site's operator.",
        ) from refusal
    raise SiteError(
        f"{where}: the session can list all of {request.must_not}, which its policy does not allow",
        "The site does not enforce session policies. Create a key at the operator that can use only the two "
        "buckets, and set job_credentials: {kind: connection, ...} (docs/how-to/gpu-pools.md).",
    )


def _called(where: str, offered: JobCredentials, call: Any) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    hint = (
        f"Check four things: the site has the role {offered.role}; the site's key may assume it; the role allows "
        f"sessions of {offered.longest} (job_credentials.longest); it may read and write the two buckets."
    )
    try:
        return call()
    except ClientError as cause:
        if _code(cause) in BUSY:
            raise SiteUnavailable(
                f"{where}: {_code(cause)}", "Retry. If it fails again, ask the site's operator."
            ) from cause
        message = cause.response.get("Error", {}).get("Message", "")[:200]
        raise SiteError(f"{where}: refused ({_code(cause)}: {message})", hint) from cause
    except ResponseParserError as cause:  # no STS answers there
        raise SiteError(f"{where}: the answer is not that of an STS", hint) from cause
    except BotoCoreError as cause:
        raise SiteUnavailable(
            f"{where}: {type(cause).__name__}", "Check that the site answers (`rempart status`), then retry."
        ) from cause


def _code(cause: Any) -> str:
    error, metadata = cause.response.get("Error", {}), cause.response.get("ResponseMetadata", {})
    return str(error.get("Code") or metadata.get("HTTPStatusCode"))


def _sts(connection: Connection, region: str) -> Any:
    import boto3
    from botocore.config import Config as BotoConfig

    client = boto3.session.Session().client(
        "sts",
        endpoint_url=connection.extra.get("endpoint_url"),
        aws_access_key_id=connection.login,
        aws_secret_access_key=connection.password,
        aws_session_token=connection.extra.get(SESSION_TOKEN),
        region_name=connection.extra.get("region_name", region),
        config=BotoConfig(
            retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=5, read_timeout=SILENT_SECONDS
        ),
    )
    client.meta.events.register_first("needs-retry.sts", leave_silent)
    return client


def _with_digest(request: Any, **_: Any) -> None:
    """Name the body's SHA-256 in a header, as for S3.

    SeaweedFS 4.48 has read the body of an STS request before it checks the signature, and without the header takes the
    digest of nothing, so that every signature is wrong (unless its IAM API is on too).
    """
    body = request.body.encode() if isinstance(request.body, str) else request.body
    del request.headers[_DIGEST]  # of an earlier try: setting it would add a second one
    request.headers[_DIGEST] = hashlib.sha256(body).hexdigest()
