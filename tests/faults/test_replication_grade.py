"""Replication claims no more success than its evidence supports: lying sites in front of real S3 servers.

No stack: two S3 servers of this module's own; catalogue, leases and ledger are in memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from rempart.deployment.servers import mlflow_server
from rempart.deployment.setup import environment
from rempart.errors import RempartError, SiteError
from rempart.flows.replication.reconcile import carry
from rempart.flows.replication.replicate import ReplicationResult, lines, replicate
from rempart.flows.replication.verify_replicas import verify
from rempart.flows.shared.platform import Platform
from rempart.replication import transfer
from tests.faults.graded_pairs import (
    KEYS,
    LARGE,
    digests,
    filled,
    foreign,
    in_parts,
    lying,
    new_pair,
    two_servers,
    versions,
)
from tests.lying import Answer, Request, Upstream, custom


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    yield from two_servers(tmp_path_factory)


@pytest.fixture
def pair(servers: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    yield from new_pair(servers, monkeypatch)


def test_a_green_names_its_grade_and_new_puts_are_read_back_within_a_day(pair: Platform) -> None:
    _bucket, _primary, _haven = filled(pair)
    began = pair.clock()
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.read_back, result.accepted, result.unvouched) == (6, 0, 6, 0)
    assert result.grade.startswith("accepted by checksum, read back due ") and result.read_back_due
    due = began.fromisoformat(result.read_back_due)
    assert began + timedelta(hours=23, minutes=59) < due <= pair.clock() + timedelta(hours=24)
    assert any(result.grade in line for line in lines(result))
    body = pair.ledger.find("replication", "primary->haven", limit=1)[0].body
    assert (body["grade"], body["accepted"], body["read_back_due"]) == (result.grade, 6, result.read_back_due)

    assert verify(pair, "primary", "haven").read == 6  # all new ones, though few are due by age
    again = replicate(pair, "primary", "haven")
    assert (again.grade, again.read_back, again.accepted, again.read_back_due) == ("read back", 6, 0, None)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("I8-get", "ours"),
        ("I13-get", "foreign"),
        pytest.param("I8-get-bare", "foreign", marks=pytest.mark.full),
        pytest.param("I13-get", "ours", marks=pytest.mark.full),
        pytest.param("I8-get", "large", marks=pytest.mark.full),
        pytest.param("I13-get", "foreign and large", marks=pytest.mark.full),
    ],
)
def test_i8_i13_what_is_not_the_listed_object_is_never_put(pair: Platform, fault: str, kind: str) -> None:
    bucket, primary, haven = filled(pair)
    body, key = os.urandom((11 << 20) if "large" in kind else 5000), "spoilt"
    if kind == "foreign":
        foreign(primary, bucket, key, body)
    elif kind == "foreign and large":
        in_parts(primary, bucket, key, body, 8 << 20)
    else:
        primary.write(bucket, key, body)
    with (
        lying(pair, "primary", fault, key=f"^{key}$") as (bad, site),
        pytest.raises(SiteError, match=rf"(?s)1 of 7 .*{key}"),
    ):
        replicate(bad, "primary", "haven")
    assert site.hits(fault)
    assert {info.key for info in haven.list(bucket)} == set(KEYS)
    told = pair.ledger.find("replication", "primary->haven", limit=1)[0].body
    assert (told["verified"], told["failures"]) == (6, 1)
    assert replicate(pair, "primary", "haven").copied == 1 and digests(haven, bucket) == digests(primary, bucket)


@pytest.mark.parametrize("fault", ["I8-get", "I8-get-bare"])
def test_i8_no_reader_takes_an_error_for_a_body(pair: Platform, fault: str) -> None:
    bucket, primary, _ = filled(pair)
    foreign(primary, bucket, "foreign", b"no hash of ours")
    with lying(pair, "primary", fault) as (bad, _):
        site = bad.sites["primary"]
        for key in (KEYS[0], "foreign"):
            for read in (
                partial(site.read, bucket, key),
                partial(site.fetch, bucket, key),
                partial(transfer.stored_sha256, site, bucket, key),
                partial(site.read_part, bucket, key, 0, 10),
            ):
                with pytest.raises(RempartError, match=f"{bucket}/{key}"):
                    read()


def test_i8_an_object_that_is_such_a_document_is_read_as_it_is(pair: Platform) -> None:
    bucket, primary, haven = filled(pair)
    body = b'<?xml version="1.0"?><Error><Code>InternalError</Code></Error>'
    foreign(primary, bucket, "a report", body)
    primary.write(bucket, "another report", body)
    assert replicate(pair, "primary", "haven").verified == 8
    assert haven.read(bucket, "a report") == haven.fetch(bucket, "another report")[1] == body


@pytest.mark.parametrize(
    "fault",
    ["I8-put", "I8-list", *(pytest.param(fault, marks=pytest.mark.full) for fault in ("I8-part", "I8-complete"))],
)
def test_i8_an_error_under_200_is_no_success_of_a_put_or_a_listing(pair: Platform, fault: str) -> None:
    bucket, primary, haven = filled(pair)
    primary.write(bucket, LARGE, os.urandom(11 << 20))
    with lying(pair, "haven", fault) as (bad, site), pytest.raises(RempartError):
        replicate(bad, "primary", "haven")
    assert site.hits(fault)
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.failures) == (7, 0) and digests(haven, bucket) == digests(primary, bucket)


@pytest.mark.parametrize("size", [5000, pytest.param(11 << 20, marks=pytest.mark.full)])
def test_i9_the_same_wrong_bytes_at_every_read_are_refused_by_the_sites_etag(pair: Platform, size: int) -> None:
    bucket, primary, haven = filled(pair)
    foreign(primary, bucket, "foreign", os.urandom(size))
    if size > 5000:
        in_parts(primary, bucket, "foreign", os.urandom(size), 8 << 20)
    with lying(pair, "primary", "I9-unrecorded", key="foreign") as (bad, site), pytest.raises(SiteError, match="ETag"):
        replicate(bad, "primary", "haven")
    assert site.hits() and {info.key for info in haven.list(bucket)} == set(KEYS)
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.unvouched) == (7, 1)
    assert "without a writer's digest: 1" in result.grade and digests(haven, bucket) == digests(primary, bucket)


def test_i9_a_checksum_that_the_writer_sent_along_vouches(pair: Platform) -> None:
    bucket, primary, _haven = filled(pair)
    foreign(primary, bucket, "with checksum", os.urandom(5000), ChecksumAlgorithm="SHA256")
    in_parts(primary, bucket, "in parts", os.urandom(11 << 20), 5 << 20, ChecksumAlgorithm="SHA256")
    foreign(primary, bucket, "without", os.urandom(5000))
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.unvouched) == (9, 1)
    found = {row.key: row.vouched for row in pair.continuity.catalogue("primary", "haven").rows(bucket)}
    assert {key: found[key] for key in (KEYS[0], "with checksum", "in parts", "without")} == {
        KEYS[0]: "writer",
        "with checksum": "checksum",
        "in parts": "checksum of parts",
        "without": "none",
    }
    assert replicate(pair, "primary", "haven").unvouched == 1  # told as long as it is so


def test_i9_what_its_writer_sent_in_parts_is_compared_part_by_part_though_it_is_copied_whole(
    pair: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "IN_MEMORY", 16 << 20)
    bucket, primary, haven = filled(pair)
    in_parts(primary, bucket, "with checksums", os.urandom(8 << 20), 5 << 20, ChecksumAlgorithm="SHA256")
    in_parts(primary, bucket, "without", os.urandom(8 << 20), 5 << 20)
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.unvouched) == (8, 1)
    found = {row.key: row.vouched for row in pair.continuity.catalogue("primary", "haven").rows(bucket)}
    assert (found["with checksums"], found["without"]) == ("checksum of parts", "none")
    assert digests(haven, bucket) == digests(primary, bucket)


def test_i9_uploads_of_mlflow_carry_a_checksum_where_the_site_keeps_it(
    pair: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket, primary, _ = filled(pair)
    connection = pair.connections(pair.config.sites["primary"].connection)
    variables = environment.s3_client(connection)
    found = mlflow_server.upload_checksums(variables, bucket)
    assert found and mlflow_server.upload_checksums(variables, bucket) == found
    for name, value in (variables | found).items():
        monkeypatch.setenv(name, value)
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    for name, size in (("small", 5000), ("large", 20 << 20)):
        (tmp_path / name).write_bytes(os.urandom(size))
        S3ArtifactRepository(f"s3://{bucket}/mlflow").log_artifact(str(tmp_path / name))
    assert replicate(pair, "primary", "haven").unvouched == 0
    rows = {row.key: row.vouched for row in pair.continuity.catalogue("primary", "haven").rows(bucket)}
    assert (rows["mlflow/small"], rows["mlflow/large"]) == ("checksum", "checksum of parts")

    def forgets(request: Request, site: Upstream) -> Answer:
        return site.ask(request).without("x-amz-checksum")

    with lying(pair, "primary", custom(forgets, "HeadObject")) as (_, site):
        assert mlflow_server.upload_checksums(variables | {"MLFLOW_S3_ENDPOINT_URL": site.url}, bucket) == {}
    assert primary.read(bucket, "mlflow/.rempart-checksum")


@pytest.mark.parametrize("fault", ["I8-get", "I13-get", "I9-unrecorded"])
def test_i8_i13_what_failover_takes_over_is_what_its_site_lists(pair: Platform, fault: str) -> None:
    bucket, primary, haven = filled(pair)
    foreign(haven, bucket, "theirs", os.urandom(5000))
    with lying(pair, "haven", fault, key="theirs") as (bad, site), pytest.raises(SiteError):
        carry(bad.sites["haven"], primary, bucket, "theirs", md5_etags=True)
    assert site.hits(fault) and "theirs" not in {info.key for info in primary.list(bucket)}
    assert carry(haven, primary, bucket, "theirs", md5_etags=True)
    assert primary.read(bucket, "theirs") == haven.read(bucket, "theirs")


@pytest.mark.parametrize(
    "fault",
    [
        "I10-single",
        "P7-put",
        *(pytest.param(fault, marks=pytest.mark.full) for fault in ("I10-part", "I10-complete", "P7-complete")),
    ],
)
def test_i10_a_put_that_is_stored_wrong_is_found_before_it_counts(pair: Platform, fault: str) -> None:
    bucket, primary, haven = filled(pair)
    primary.write(bucket, LARGE, os.urandom(11 << 20))
    wrong = 6 if fault in ("I10-single", "P7-put") else 1
    with lying(pair, "haven", fault) as (bad, site), pytest.raises(SiteError, match=f"{wrong} of 7 objects did not"):
        replicate(bad, "primary", "haven")
    assert site.hits(fault)
    told = pair.ledger.find("replication", "primary->haven", limit=1)[0].body
    assert (told["verified"], told["accepted"], told["read_back"]) == (7 - wrong, 7 - wrong, 0)
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.copied) == (7, wrong) and digests(haven, bucket) == digests(primary, bucket)


@pytest.mark.parametrize(
    "fault", ["I10-single", *(pytest.param(fault, marks=pytest.mark.full) for fault in ("I5-put", "P7-put"))]
)
def test_i10_a_replica_that_is_healed_wrong_is_not_healed(pair: Platform, fault: str) -> None:
    bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    (version,) = [info.version_id for info in haven.versions(bucket, KEYS[0]) if info.key == KEYS[0]]
    haven.delete(bucket, KEYS[0], version_id=version)
    with lying(pair, "haven", fault) as (bad, site), pytest.raises(SiteError, match=rf"(?s)1 of 1 .*{KEYS[0]}"):
        verify(bad, "primary", "haven", whole=True)
    assert site.hits(fault)
    told = pair.ledger.find("replication", "verify primary->haven", limit=1)[0].body
    assert told["unhealed"] == [f"{bucket}/{KEYS[0]}"]
    replicate(pair, "primary", "haven")
    assert digests(haven, bucket) == digests(primary, bucket)


@pytest.mark.parametrize("side", ["primary", pytest.param("haven", marks=pytest.mark.full)])
@pytest.mark.parametrize("fault", ["I12-etag", "I12-version"])
def test_i12_a_missing_etag_or_version_has_its_own_cause_and_stops_no_other(
    pair: Platform, fault: str, side: str
) -> None:
    bucket, primary, haven = filled(pair)
    with lying(pair, side, fault, key=KEYS[2]) as (bad, site):
        try:
            result: ReplicationResult | None = replicate(bad, "primary", "haven")
        except SiteError as error:
            assert "ETag is missing" in str(error) or "names a version" in str(error)
            assert {info.key for info in haven.list(bucket)} >= {*KEYS} - {KEYS[2]}
            result = None
    assert site.hits(fault)
    assert result is None or (result.verified, result.failures) == (6, 0)
    before = versions(haven, bucket)
    assert replicate(pair, "primary", "haven").verified == 6 and digests(haven, bucket) == digests(primary, bucket)
    assert replicate(pair, "primary", "haven").copied == 0 and versions(haven, bucket) <= before + 1


@pytest.mark.parametrize("fault", ["P8-put", pytest.param("P8-complete", marks=pytest.mark.full)])
def test_p8_a_put_whose_answer_was_lost_counts_if_the_object_is_there(pair: Platform, fault: str) -> None:
    bucket, primary, haven = filled(pair)
    primary.write(bucket, LARGE, os.urandom(11 << 20))
    with lying(pair, "haven", fault) as (bad, site):
        result = replicate(bad, "primary", "haven")
    assert site.hits(fault) and (result.verified, result.failures) == (7, 0)
    assert digests(haven, bucket) == digests(primary, bucket)
    assert versions(haven, bucket) == 7  # none was stored twice
    assert replicate(pair, "primary", "haven").copied == 0


@pytest.mark.parametrize(
    ("fault", "thorough"),
    [
        ("L1-empty", True),
        ("L8-stale", False),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (("L1-empty", False), ("L1-partial", True), ("L8-stale", True))
        ),
    ],
)
def test_l8_a_listing_of_the_target_that_lacks_what_is_there_copies_nothing_again(
    pair: Platform, fault: str, thorough: bool
) -> None:
    bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    settings = pair.config.replication[0].model_copy(update={"compare": timedelta()})
    own = dataclasses.replace(pair, config=pair.config.model_copy(update={"replication": [settings]}))
    for key in KEYS[:2]:
        primary.write(bucket, key, os.urandom(900))
    replicate(own if thorough else pair, "primary", "haven")
    before = versions(haven, bucket)
    for _ in range(2):
        with lying(own if thorough else pair, "haven", fault) as (bad, site):
            try:
                replicate(bad, "primary", "haven")
            except SiteError as error:
                assert "the listing lacks" in str(error)
        assert site.hits(fault)
        assert versions(haven, bucket) == before
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.copied) == (6, 0)


@pytest.mark.parametrize("thorough", [True, pytest.param(False, marks=pytest.mark.full)])
@pytest.mark.parametrize("fault", ["L1-empty", "L1-partial"])
def test_l1_a_listing_of_the_source_that_lacks_what_is_there_is_no_green(
    pair: Platform, fault: str, thorough: bool
) -> None:
    bucket, _, haven = filled(pair)
    settings = pair.config.replication[0].model_copy(update={"compare": timedelta()} if thorough else {})
    own = dataclasses.replace(pair, config=pair.config.model_copy(update={"replication": [settings]}))
    replicate(own, "primary", "haven")
    before = versions(haven, bucket)
    with lying(own, "primary", fault) as (bad, site), pytest.raises(SiteError, match=r"it has no object|listing lacks"):
        replicate(bad, "primary", "haven")
    assert site.hits(fault) and versions(haven, bucket) == before
    result = replicate(own, "primary", "haven")
    assert (result.verified, result.copied, result.hidden) == (6, 0, 0)


def test_what_is_really_deleted_at_the_source_is_hidden_and_no_doubt_stops_that(pair: Platform) -> None:
    bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    gone = next(version for version in primary.versions(bucket) if version.key == KEYS[0])
    primary.delete(bucket, KEYS[0], version_id=gone.version_id)  # the version itself, as a lifecycle rule does
    primary.delete(bucket, KEYS[1])
    assert replicate(pair, "primary", "haven").failures == 0
    assert KEYS[1] not in {info.key for info in haven.list(bucket)}


def test_l8_what_is_really_gone_at_the_target_is_copied_again(pair: Platform) -> None:
    bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    haven.drop_bucket(bucket)
    haven.ensure_bucket(bucket, versioned=True)
    assert replicate(pair, "primary", "haven").copied == 6
    assert digests(haven, bucket) == digests(primary, bucket)


def test_a7_hidden_is_counted_only_after_a_look(pair: Platform) -> None:
    bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    primary.delete(bucket, KEYS[0])
    with lying(pair, "haven", "P7-delete") as (bad, site), pytest.raises(SiteError, match="still returns the object"):
        replicate(bad, "primary", "haven")
    assert site.hits("P7-delete")
    assert pair.ledger.find("replication", "primary->haven", limit=1)[0].body["hidden"] == 0
    assert replicate(pair, "primary", "haven").hidden == 1
    assert {info.key for info in haven.list(bucket)} == {*KEYS[1:]}
