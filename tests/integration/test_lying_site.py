"""The lying site of the tests: a client of a real site sees each fault while it is on, and not after."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import pytest

from tests.integration.own_servers import Servers, own_servers
from tests.lying import FAULTS, lying_site

pytestmark = pytest.mark.full

IDS = "I3 I4 I5 I6 I8 I9 I10 I11 I12 I13 K2 L1 L2 L7 L8 L9 P1 P2 P3 P4 P5 P6 P7 P8 P9 P10"
PART = 5 << 20
WRONG = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
MULTIPART = {"UploadPart", "CompleteMultipartUpload"}
LATE = timedelta(minutes=5)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(tmp_path_factory.mktemp("lies"), ["site-primary"]) as found:
        yield found


def client_of(servers: Servers, url: str = "") -> Any:
    """A client that sends each request once."""
    import boto3
    from botocore.config import Config

    connection = servers.connections("s3_primary")
    return boto3.client(
        "s3",
        endpoint_url=url or connection.extra["endpoint_url"],
        aws_access_key_id=connection.login,
        aws_secret_access_key=connection.password,
        region_name="local-1",
        config=Config(
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def told(call: Callable[[], Any]) -> Any:
    """What a client is told: the facts of an answer, or its error."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = call()
    except ClientError as error:
        return error.response["Error"]["Code"]
    except (BotoCoreError, OSError) as error:
        return type(error).__name__
    facts: dict[str, Any] = {"ETag": answer.get("ETag"), "version": "VersionId" in answer}
    if "Body" in answer:
        facts["body"] = told_body(answer["Body"])
    for kind in ("Contents", "Versions", "DeleteMarkers"):
        facts[kind] = [(entry["Key"].partition("/")[2], entry.get("ETag")) for entry in answer.get(kind, ())]
    facts["more"] = answer.get("IsTruncated", False)
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    facts["clock"] = abs(parsedate_to_datetime(date) - datetime.now(UTC)) < LATE
    return facts


def told_body(stream: Any) -> str:
    from botocore.exceptions import BotoCoreError

    try:
        return hashlib.sha256(stream.read()).hexdigest()
    except BotoCoreError as error:
        return type(error).__name__


def small(client: Any, bucket: str, prefix: str) -> list[Any]:
    found = []
    for number in range(2):
        where = at(bucket, f"{prefix}/{number}")
        found.append(told(partial(client.put_object, **where, Body=b"%d" % number)))
        found.append(told(partial(client.get_object, **where)))
    for _ in range(2):
        found.append(told(lambda: client.put_object(**at(bucket, f"{prefix}/new"), IfNoneMatch="*", Body=b"once")))
    found.append(told(lambda: client.put_object(**at(bucket, f"{prefix}/altered"), Body=b"x", ChecksumSHA256=WRONG)))
    found.append(told(lambda: client.head_object(**at(bucket, f"{prefix}/0"))))
    return found


def locked(client: Any, bucket: str, prefix: str) -> list[Any]:
    until = datetime.now(UTC) + timedelta(minutes=2)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    found = []
    for key in ("chain/1.json", "checkpoints/1.json", "ledger/1.jsonl", "points/1/manifest.json"):
        where = at(bucket, f"{prefix}/{key}")
        found.append(told(partial(client.put_object, **where, Body=b"evidence", **lock)))
        found.append(told(partial(client.get_object, **where)))
        found.append(isinstance(told_or(partial(client.get_object_retention, **where)), str))
    retention = {"Mode": "COMPLIANCE", "RetainUntilDate": until + timedelta(minutes=1)}
    found.append(told(lambda: client.put_object_retention(**at(bucket, f"{prefix}/chain/1.json"), Retention=retention)))
    found.append(str(retained(client, bucket, f"{prefix}/chain/1.json", until)))
    return found


def deletes(client: Any, bucket: str, prefix: str) -> list[Any]:
    many = {"Objects": [{"Key": f"{prefix}/2"}, {"Key": f"{prefix}/3"}]}
    for number in range(5):
        told(partial(client.put_object, **at(bucket, f"{prefix}/{number}"), Body=b"%d" % number))
    return [
        told(lambda: client.delete_object(**at(bucket, f"{prefix}/1"))),
        told(lambda: client.delete_objects(Bucket=bucket, Delete=many)),
        told(lambda: client.head_object(**at(bucket, f"{prefix}/1"))),
    ]


def listings(client: Any, bucket: str, prefix: str) -> list[Any]:
    """Listings of what `deletes` left in the honest session."""
    found, follows = [], {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
    for size in (1000, 3):
        found += pages(
            client.list_objects_v2, {"ContinuationToken": "NextContinuationToken"}, bucket, "honest/deletes/", size
        )
        found += pages(client.list_object_versions, follows, bucket, "honest/deletes/", size)
    return found


SESSIONS = {
    small: {"PutObject", "GetObject", "HeadObject"},
    locked: {"PutObject", "GetObject", "PutObjectRetention"},
    deletes: {"DeleteObject", "DeleteObjects"},
    listings: {"ListObjectsV2", "ListObjectVersions"},
}


def transcript(client: Any, bucket: str, prefix: str, wanted: frozenset[str] = frozenset()) -> dict[str, list[Any]]:
    """A client's sessions with the operations that are wanted (none: all), and each answer."""
    found = {}
    for session, operations in (*SESSIONS.items(), (multipart, MULTIPART)):
        if not wanted or wanted & operations:
            found[session.__name__] = session(client, bucket, f"{prefix}/{session.__name__}")
    return found


def at(bucket: str, key: str) -> dict[str, str]:
    return {"Bucket": bucket, "Key": key}


def retained(client: Any, bucket: str, key: str, until: datetime) -> object:
    try:
        kept = client.get_object_retention(**at(bucket, key))["Retention"]["RetainUntilDate"]
    except client.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
    return kept > until + timedelta(seconds=30)


def multipart(client: Any, bucket: str, key: str) -> list[Any]:
    found: list[Any] = []
    begun = told_or(lambda: client.create_multipart_upload(**at(bucket, key), ChecksumAlgorithm="SHA256"))
    if isinstance(begun, str):
        return [begun]
    upload = {**at(bucket, key), "UploadId": begun["UploadId"]}
    parts = []
    for number, body in ((1, b"a" * PART), (1001, b"b")):
        checksum = {"ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode()}
        made = told_or(partial(client.upload_part, **upload, PartNumber=number, Body=body, **checksum))
        found.append(made if isinstance(made, str) else "ETag" in made)
        if isinstance(made, dict) and "ETag" in made:
            parts.append({"PartNumber": number, "ETag": made["ETag"], **checksum})
    found.append(told(lambda: client.upload_part(**upload, PartNumber=2, Body=b"c", ChecksumSHA256=WRONG)))
    found.append(told(lambda: client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})))
    found.append(told(lambda: client.get_object(**at(bucket, key))))
    return found


def told_or(call: Callable[[], Any]) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    except (BotoCoreError, OSError) as error:
        return type(error).__name__


def pages(ask: Callable[..., Any], follows: dict[str, str], bucket: str, prefix: str, size: int) -> list[Any]:
    """At most twelve pages of a listing."""
    found: list[Any] = []
    where: dict[str, str] = {}
    for _ in range(12):
        page = told_or(partial(ask, Bucket=bucket, Prefix=prefix, MaxKeys=size, **where))
        found.append(told(partial(dict, page)) if isinstance(page, dict) else page)
        if isinstance(page, str) or not page.get("IsTruncated"):
            break
        where = {name: page[told] for name, told in follows.items() if page.get(told)}
    return found


def test_the_faults_cover_the_ids_of_the_catalogue() -> None:
    assert {fault.id for fault in FAULTS.values()} == set(IDS.split())
    assert all(re.fullmatch(r"[A-Z]\d+(-[a-z0-9]+)+", name) for name in FAULTS)


def test_every_fault_shows_to_a_client_and_is_over_when_it_is_off(servers: Servers) -> None:
    real = client_of(servers)
    bucket = "lies"
    real.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    with lying_site(servers.connections("s3_primary").extra["endpoint_url"], client=real) as site:
        client = client_of(servers, site.url)
        honest = transcript(real, bucket, "honest")
        assert transcript(client, bucket, "through") == honest, "the proxy itself changes nothing"
        assert not site.hits()
        unseen, unmade = [], []
        for name, fault in FAULTS.items():
            site.switch_on(name)
            found = transcript(client, bucket, name, fault.operations)
            if all(found[session] == honest[session] for session in found):
                unseen.append(name)
            if not site.hits(name):
                unmade.append(name)
            site.switch_off()
        assert transcript(client, bucket, "over") == honest
    assert (unseen, unmade) == ([], [])
