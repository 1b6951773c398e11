"""The session of a job at a real site: what it allows, what it denies, and when it ends."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from rempart.errors import ObjectMissing, PlacementDenied, SessionExpired, SiteError
from rempart.flows.shared.platform import Platform
from rempart.flows.training import job_credentials
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.settings.sections import JobCredentials
from rempart.sites.port import Site
from rempart.sites.s3 import sessions
from rempart.sites.s3.client import SESSION_TOKEN, SESSION_UNTIL
from rempart.sites.s3.site import S3Site
from rempart.sovereignty.places import decide_site
from rempart.training import data_rights, datasets
from rempart.training.attempts.checkpoints import Checkpoints
from rempart.training.job import JobSpec
from tests.integration.own_servers import Servers, own_servers
from tests.sessions import altered, claims, ending, signing_key
from tests.unit.training.test_job import spec

HOUR = timedelta(hours=1)
OTHER = "0" * 16
BODY = b"the training set"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(tmp_path_factory.mktemp("sessions") / "var", ("site-primary",)) as running:
        yield running


@pytest.fixture(scope="module")
def platform(servers: Servers) -> Platform:
    def resolve(name: str) -> Connection:
        return Connection("mlflow", "http", "127.0.0.1", 9, "u", "p") if name == "mlflow" else servers.connections(name)

    # no MLflow runs beside this site
    settings = servers.stack.config
    training = settings.training.model_copy(update={"tracking_user": "platform"})
    return Platform(settings.model_copy(update={"training": training}), resolve, ledger_=MemoryLedger())


@pytest.fixture(scope="module")
def own(platform: Platform) -> Site:
    """The site with the platform's key."""
    return platform.site("primary", "personal")


@pytest.fixture(scope="module")
def job(own: Site) -> JobSpec:
    """A job that was ordered, beside other jobs and other data."""
    made = spec()
    made = made.model_copy(
        update={"dataset": made.dataset.model_copy(update={"sha256": hashlib.sha256(BODY).hexdigest()})}
    )
    made = JobSpec.model_validate(made.model_dump() | {"job_id": ""})
    own.write("lake", made.dataset.key, BODY)
    own.write("lake", "training/other.parquet", b"somebody else's")
    own.write("lake", held_out(made), b"rows on which the model is judged")
    own.write("artifacts", made.key("order.json"), made.to_json())
    own.write("artifacts", f"jobs/{OTHER}/model.onnx", b"another job's")
    own.write("artifacts", "mlflow/1/model.onnx", b"a champion")
    own.write("backups", "restore-point", b"everything")
    return made


def held_out(job: JobSpec) -> str:
    return datasets.held_out_key(job.pipeline, job.dataset.held_out)


def connection_of(variables: dict[str, str]) -> Connection:
    return config.parse_connection("s3_primary", variables["AIRFLOW_CONN_S3_PRIMARY"])


def grant(platform: Platform, job: JobSpec, attempt: int, timeout: timedelta) -> job_credentials.Granted:
    return job_credentials.grant(
        platform.config, platform.connections, platform.record, job, attempt, timeout, platform.clock().date()
    )


@pytest.fixture(scope="module")
def granted(platform: Platform, job: JobSpec) -> job_credentials.Granted:
    return grant(platform, job, 1, HOUR)


@pytest.fixture(scope="module")
def session(granted: job_credentials.Granted) -> Connection:
    return connection_of(granted.variables)


def opened(platform: Platform, connection: Connection) -> S3Site:
    endpoint = connection.extra["endpoint_url"]
    allowed = decide_site(
        platform.config, "personal", "data", "primary", on=datetime.now(UTC).date(), endpoint=endpoint
    )
    return S3Site("primary", connection, "local-1", allowed)


def client(connection: Connection, service: str = "s3") -> Any:
    return boto3.session.Session().client(
        service,
        endpoint_url=connection.extra["endpoint_url"],
        aws_access_key_id=connection.login,
        aws_secret_access_key=connection.password,
        aws_session_token=connection.extra.get(SESSION_TOKEN),
        region_name="local-1",
    )


def status(call: Callable[[], Any]) -> int:
    """How the server answered: 200, or the status of its refusal."""
    try:
        answer = call()
    except ClientError as refusal:
        return int(refusal.response["ResponseMetadata"]["HTTPStatusCode"])
    return 207 if answer.get("Errors") and not answer.get("Deleted") else 200


def test_a_session_is_for_as_long_as_the_job_may_run_and_says_so(
    granted: job_credentials.Granted, session: Connection, servers: Servers
) -> None:
    until = datetime.fromisoformat(session.extra[SESSION_UNTIL])
    assert timedelta(minutes=70) < until - datetime.now(UTC) < timedelta(minutes=76)
    assert "session until" in granted.description and until.isoformat(timespec="seconds") in granted.description
    platforms = servers.connections("s3_primary")
    assert session.login != platforms.login and platforms.password not in str(granted.variables)
    for secret in (session.password, session.extra[SESSION_TOKEN], signing_key(servers.stack)):
        assert secret not in granted.description


def test_it_can_do_what_a_job_does(platform: Platform, session: Connection, job: JobSpec, own: Site) -> None:
    site = opened(platform, session)
    assert site.read("lake", job.dataset.key, sha256=job.dataset.sha256) == BODY
    with pytest.raises(ObjectMissing):
        site.read("artifacts", job.key("result.json"))
    checkpoints = Checkpoints(site, job, lambda *args, **facts: None)
    assert checkpoints.newest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"state": [float(step)]}, step)
    found = Checkpoints(site, job, lambda *args, **facts: None).newest()
    assert found is not None and found[0] == 3
    site.write("artifacts", job.key("model.onnx"), b"m")
    assert site.write_new("artifacts", job.key("result.json"), b"{}")
    lines: list[str] = []
    checkpoints.clear()
    assert not lines and not list(own.list("artifacts", job.key("checkpoint")))
    upload = client(session).create_multipart_upload(Bucket="artifacts", Key=job.key("big"))["UploadId"]
    client(session).abort_multipart_upload(Bucket="artifacts", Key=job.key("big"), UploadId=upload)


def test_it_can_do_nothing_else(session: Connection, job: JobSpec, own: Site) -> None:
    s3, mine, theirs = client(session), job.key("mine"), f"jobs/{OTHER}/model.onnx"
    everyone = {
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::artifacts/*"}]
    }
    source = {"Bucket": "artifacts", "Key": theirs}
    tries: dict[str, Callable[[], Any]] = {
        "read the held-out rows": lambda: s3.get_object(Bucket="lake", Key=held_out(job)),
        "read another job": lambda: s3.get_object(Bucket="artifacts", Key=theirs),
        "write to another job": lambda: s3.put_object(Bucket="artifacts", Key=theirs, Body=b"x"),
        "delete another job's object": lambda: s3.delete_object(Bucket="artifacts", Key=theirs),
        "delete it with others": lambda: s3.delete_objects(
            Bucket="artifacts", Delete={"Objects": [{"Key": theirs}], "Quiet": False}
        ),
        "climb out of the prefix": lambda: s3.get_object(Bucket="artifacts", Key=job.key(f"../{OTHER}/model.onnx")),
        "copy another job's object": lambda: s3.copy_object(Bucket="artifacts", Key=mine, CopySource=source),
        "read another data set": lambda: s3.get_object(Bucket="lake", Key="training/other.parquet"),
        "overwrite its data set": lambda: s3.put_object(Bucket="lake", Key=job.dataset.key, Body=b"x"),
        "delete its data set": lambda: s3.delete_object(Bucket="lake", Key=job.dataset.key),
        "read a champion": lambda: s3.get_object(Bucket="artifacts", Key="mlflow/1/model.onnx"),
        "read a restore point": lambda: s3.get_object(Bucket="backups", Key="restore-point"),
        "write outside": lambda: s3.put_object(Bucket="artifacts", Key="x", Body=b"x"),
        "write to another bucket": lambda: s3.put_object(Bucket="landing", Key=f"jobs/{job.job_id}/x", Body=b"x"),
        "make a bucket by a write": lambda: s3.put_object(Bucket="fresh", Key=f"jobs/{job.job_id}/x", Body=b"x"),
        "make a bucket": lambda: s3.create_bucket(Bucket="fresh"),
        "list the bucket": lambda: s3.list_objects_v2(Bucket="artifacts"),
        "list the jobs": lambda: s3.list_objects_v2(Bucket="artifacts", Prefix="jobs/"),
        "list without the slash": lambda: s3.list_objects_v2(Bucket="artifacts", Prefix=job.key("").rstrip("/")),
        "list the versions": lambda: s3.list_object_versions(Bucket="artifacts"),
        "list the lake": lambda: s3.list_objects_v2(Bucket="lake"),
        "rewrite its order": lambda: s3.put_object(Bucket="artifacts", Key=job.key("order.json"), Body=b"x"),
        "forge its end": lambda: s3.put_object(Bucket="artifacts", Key=job.key("attempts/000001.end.json"), Body=b"{}"),
        "delete its result": lambda: s3.delete_object(Bucket="artifacts", Key=job.key("result.json")),
        "open the bucket": lambda: s3.put_bucket_policy(Bucket="artifacts", Policy=json.dumps(everyone)),
        "stop the versions": lambda: s3.put_bucket_versioning(
            Bucket="artifacts", VersioningConfiguration={"Status": "Suspended"}
        ),
        "assume a role": lambda: client(session, "sts").assume_role(
            RoleArn=claims(session)["role"], RoleSessionName="wider"
        ),
        "take a federation token": lambda: client(session, "sts").get_federation_token(Name="wider"),
        "make a user": lambda: client(session, "iam").create_user(UserName="wider"),
    }
    allowed = {what: found for what, call in tries.items() if (found := status(call)) not in (207, 400, 403, 405)}
    assert not allowed
    assert own.read("artifacts", theirs) == b"another job's" and own.read("lake", job.dataset.key) == BODY
    assert s3.list_buckets()["Buckets"] == []


def test_a_token_that_was_touched_is_refused(session: Connection, job: JobSpec, servers: Servers) -> None:
    def read(connection: Connection, key: str = job.dataset.key) -> int:
        return status(lambda: client(connection).get_object(Bucket="lake", Key=key))

    wider = data_rights.text(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]}],
        }
    )
    assert read(session) == 200
    without = {key: value for key, value in session.extra.items() if key != SESSION_TOKEN}
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    body = session.extra[SESSION_TOKEN].split(".")[1]
    refused = {
        "no token": dataclasses.replace(session, extra=without),
        "a wider policy": altered(session, None, spol=wider),
        "a later end": altered(session, None, exp=claims(session)["exp"] + 999),
        "another key": altered(session, "x" * 86, spol=wider),
        "no signature": dataclasses.replace(session, extra=session.extra | {SESSION_TOKEN: f"{head}.{body}."}),
        "another secret": dataclasses.replace(session, password=session.password[::-1]),
        "the platform's name": dataclasses.replace(session, login=servers.connections("s3_primary").login),
    }
    assert {what: read(credentials) for what, credentials in refused.items()} == dict.fromkeys(refused, 403)
    # and were the site's own key stolen, the role is still the most that a session may do
    stolen = altered(session, signing_key(servers.stack), spol=wider)
    assert read(stolen, "training/other.parquet") == 200
    assert status(lambda: client(stolen).get_object(Bucket="backups", Key="restore-point")) == 403
    assert status(lambda: client(stolen).put_object(Bucket="lake", Key="training/x", Body=b"")) == 403


@pytest.mark.full
def test_a_session_that_is_over_is_told_apart_from_a_refusal(
    platform: Platform, session: Connection, job: JobSpec, servers: Servers
) -> None:
    with pytest.raises(SiteError) as told:
        opened(platform, session).read("lake", "training/other.parquet")
    assert type(told.value) is SiteError
    site = opened(platform, ending(session, signing_key(servers.stack), 60))
    assert site.read("lake", job.dataset.key) == BODY
    time.sleep(61)
    for use in (
        lambda: site.read("lake", job.dataset.key),
        lambda: site.head("lake", job.dataset.key),
        lambda: site.write("artifacts", job.key("late"), b"x"),
        lambda: site.write_new("artifacts", job.key("late"), b"x"),
        lambda: list(site.list("artifacts", job.key(""))),
        lambda: site.delete("artifacts", job.key("checkpoint.json")),
    ):
        with pytest.raises(SessionExpired) as over:
            use()
        assert over.value.transient


@pytest.mark.skipif(not os.environ.get("REMPART_TEST_SLOW"), reason="takes 15 minutes: the shortest session there is")
def test_the_shortest_session_ends_on_time(platform: Platform, job: JobSpec) -> None:
    short = connection_of(grant(platform, job, 2, timedelta(0)).variables)
    site, until = opened(platform, short), datetime.fromisoformat(short.extra[SESSION_UNTIL])
    assert until - datetime.now(UTC) <= timedelta(seconds=900)
    assert site.read("lake", job.dataset.key) == BODY
    time.sleep((until - datetime.now(UTC)).total_seconds() + 2)
    with pytest.raises(SessionExpired):
        site.read("lake", job.dataset.key)


def test_only_the_platforms_signed_request_gets_a_session(servers: Servers, session: Connection) -> None:
    platforms = servers.connections("s3_primary")
    role = servers.stack.job_role("primary")
    assert role is not None
    arn, url = role[0], platforms.extra["endpoint_url"] + "/"
    for form in (
        {"Action": "AssumeRole", "RoleArn": arn, "RoleSessionName": "nobody"},
        {"Action": "AssumeRoleWithWebIdentity", "RoleArn": arn, "RoleSessionName": "no", "WebIdentityToken": "a.b.c"},
        {"Action": "AssumeRoleWithLDAPIdentity", "RoleArn": arn, "RoleSessionName": "no", "LDAPUsername": "x"},
        {"Action": "GetFederationToken", "Name": "nobody"},
        {"Action": "GetSessionToken"},
        {"Action": "ListUsers", "Version": "2010-05-08"},
        {"Action": "CreateUser", "Version": "2010-05-08", "UserName": "x"},
    ):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(  # noqa: S310 - a server on this machine
                url, urllib.parse.urlencode({"Version": "2011-06-15", **form}).encode()
            )
        assert told.value.code in (400, 403, 405)
    for path in ("", "artifacts", "artifacts/jobs", "lake/training/x.parquet"):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(url + path)  # noqa: S310
        assert told.value.code == 403
    offered = JobCredentials(kind="session", role=arn)
    request = sessions.Request("job-x", '{"Version":"2012-10-17","Statement":[]}', 900, ("lake", "x"), "lake")
    allowed = decide_site(config.load(), "personal", "data", "primary", on=datetime.now(UTC).date(), endpoint=url)
    strangers = {
        "another secret": dataclasses.replace(platforms, password="x" * 40),
        "a key that is not known": dataclasses.replace(platforms, login="x" * 20),
        "a session": session,
    }
    for connection in strangers.values():
        with pytest.raises(SiteError, match="refused"):
            sessions.assume("primary", connection, "local-1", offered, request, allowed)


def test_a_role_that_is_not_there_and_a_policy_that_is_none_are_refused_with_a_remedy(
    platform: Platform, servers: Servers
) -> None:
    url = servers.connections("s3_primary").extra["endpoint_url"]
    allowed = decide_site(platform.config, "personal", "data", "primary", on=datetime.now(UTC).date(), endpoint=url)
    good = servers.stack.job_role("primary")
    assert good is not None
    for role, policy in (
        ("arn:aws:iam::000000000000:role/another", '{"Version":"2012-10-17","Statement":[]}'),
        (good[0], "{}"),
        (good[0], "not json"),
    ):
        request = sessions.Request("job-x", policy, 900, ("lake", "x"), "lake")
        with pytest.raises(SiteError, match=r"(?s)refused.*job_credentials\.longest"):
            sessions.assume(
                "primary",
                servers.connections("s3_primary"),
                "local-1",
                JobCredentials(kind="session", role=role),
                request,
                allowed,
            )


def test_a_service_that_does_not_hold_to_the_policy_is_found_out(platform: Platform, job: JobSpec) -> None:
    """As one would be that gives the role's rights whatever the session's policy says."""
    wide = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}]}
    connection = platform.connections("s3_primary")
    role = platform.config.sites["primary"].job_credentials
    assert role is not None
    allowed = decide_site(
        platform.config,
        "personal",
        "data",
        "primary",
        on=datetime.now(UTC).date(),
        endpoint=connection.extra["endpoint_url"],
    )
    request = sessions.Request("job-x", json.dumps(wide), 900, ("lake", job.dataset.key), "artifacts")
    with pytest.raises(SiteError, match="can list all of artifacts"):
        sessions.assume("primary", connection, "local-1", role, request, allowed)


def test_the_other_kinds_are_told_as_what_they_are_and_silence_is_a_refusal(platform: Platform, job: JobSpec) -> None:
    def with_(offered: JobCredentials | None) -> Platform:
        site = platform.config.sites["primary"].model_copy(update={"job_credentials": offered})
        return dataclasses.replace(
            platform,
            config=platform.config.model_copy(update={"sites": {**platform.config.sites, "primary": site}}),
            connections=lambda name: (
                dataclasses.replace(platform.connections("s3_primary"), login="limited")
                if name == "s3_jobs"
                else platform.connections(name)
            ),
        )

    whole = grant(with_(JobCredentials(kind="platform")), job, 1, HOUR)
    assert connection_of(whole.variables) == platform.connections("s3_primary")
    assert "site's own key" in whole.description
    limited = grant(with_(JobCredentials(kind="connection", connection="s3_jobs")), job, 1, HOUR)
    assert connection_of(limited.variables).login == "limited"
    assert "the key of connection s3_jobs" in limited.description
    with pytest.raises(PlacementDenied, match=r"sites\.primary\.job_credentials is not declared"):
        grant(with_(None), job, 1, HOUR)
