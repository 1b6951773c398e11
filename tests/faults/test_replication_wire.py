"""Replication between real sites over a network that alters data, and on a disk that decays."""

from __future__ import annotations

import dataclasses
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rempart.deployment.setup.paths import Stack
from rempart.errors import SiteError, SiteUnavailable
from rempart.flows.replication.replicate import replicate
from rempart.flows.replication.verify_replicas import verify
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication import transfer
from rempart.replication.continuity import Continuity
from rempart.settings import sections
from rempart.sites.port import Site
from tests.lying import FAULTS, Answer, Fault, LyingSite, Request, Upstream, custom, error, lying_site
from tests.lying.platforms import reached_through

pytestmark = pytest.mark.stores


@pytest.fixture
def pair(platform: Platform, proven_ledger: MemoryLedger, own_continuity: Continuity) -> Iterator[Platform]:
    """The stack's two sites, with empty buckets of its own."""
    mark = f"wire-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    settings = platform.config.model_copy(update={"buckets": buckets})
    own = dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity, sites={})
    names = (buckets.lake, buckets.artifacts, buckets.backups)
    sites = [own.site("primary", "personal"), own.site("haven", "personal")]
    for site in sites:
        for bucket in names:
            site.ensure_bucket(bucket, versioned=True)
    yield own
    for site in sites:
        for bucket in names:
            site.drop_bucket(bucket)


@contextmanager
def lying(pair: Platform, name: str, fault: Fault | str, **chosen: str) -> Iterator[tuple[Platform, LyingSite]]:
    """The same pair, where everything that goes to and from one of its sites passes a proxy that lies."""
    with lying_site(pair.sites[name].endpoint) as found:
        found.switch_on(fault, **chosen)  # type: ignore[arg-type]
        yield reached_through(pair, name, found.url), found


def filled(pair: Platform, count: int = 6, size: int = 1000) -> tuple[list[str], str, Site, Site]:
    primary, haven, bucket = pair.sites["primary"], pair.sites["haven"], pair.config.buckets.lake
    keys = [f"snapshots/{n:02d}" for n in range(count)]
    for key in keys:
        primary.write(bucket, key, os.urandom(size))
    return keys, bucket, primary, haven


def same(bucket: str, primary: Site, haven: Site) -> bool:
    return {info.key: primary.read(bucket, info.key) for info in primary.list(bucket)} == {
        info.key: haven.read(bucket, info.key) for info in haven.list(bucket)
    }


def test_i3_a_body_altered_on_its_way_to_the_target_is_refused_by_its_checksum(pair: Platform) -> None:
    keys, bucket, primary, haven = filled(pair)

    with lying(pair, "haven", "I3-put", key=keys[2]) as (bad, _), pytest.raises(SiteError, match=f"{bucket}/{keys[2]}"):
        replicate(bad, "primary", "haven")
    assert {info.key for info in haven.list(bucket)} == {*keys} - {keys[2]}
    assert replicate(pair, "primary", "haven").copied == 1 and same(bucket, primary, haven)


def test_i3_a_body_altered_on_its_way_from_the_source_is_never_put(pair: Platform) -> None:
    keys, bucket, primary, haven = filled(pair)
    primary._client.put_object(Bucket=bucket, Key="foreign", Body=b"no hash of ours")  # type: ignore[attr-defined]
    with (
        lying(pair, "primary", "I3-get", key=f"{keys[1]}|foreign") as (bad, _),
        pytest.raises(SiteError, match="2 of 7") as caught,
    ):
        replicate(bad, "primary", "haven")
    assert "the writer recorded" in str(caught.value) and "the bytes have the ETag" in str(caught.value)
    assert {info.key for info in haven.list(bucket)} == {*keys} - {keys[1]}
    assert replicate(pair, "primary", "haven").copied == 2 and same(bucket, primary, haven)


def test_i4_a_body_cut_short_is_asked_for_again_and_never_put(pair: Platform) -> None:
    keys, bucket, primary, haven = filled(pair)

    with lying(pair, "primary", "I4-get", key=keys[3]) as (bad, _), pytest.raises(SiteUnavailable, match=keys[3]):
        replicate(bad, "primary", "haven")
    assert {info.key for info in haven.list(bucket)} == {*keys} - {keys[3]}
    assert replicate(pair, "primary", "haven").copied == 1 and same(bucket, primary, haven)


@pytest.mark.full
def test_p4_a_storm_of_slow_down_is_waited_out(pair: Platform) -> None:
    _, bucket, primary, haven = filled(pair, 20)
    with lying(pair, "haven", dataclasses.replace(FAULTS["P4-storm"], operations=frozenset({"PutObject"}))) as (
        bad,
        found,
    ):
        assert replicate(bad, "primary", "haven").copied == 20
    assert sum(line.operation == "PutObject" for line in found.log) == 60
    assert same(bucket, primary, haven)


def test_l5_versions_and_markers_arrive_in_the_order_in_which_they_were_made(pair: Platform) -> None:
    bucket, primary, haven = pair.config.buckets.lake, pair.sites["primary"], pair.sites["haven"]
    for n in range(4):
        primary.write(bucket, "back-and-forth", b"%d" % n)
        primary.delete(bucket, "back-and-forth")
        primary.write(bucket, "stays", b"%d" % n)
    primary.write(bucket, "back-and-forth", b"at last")

    def history(site: Site, key: str) -> list[bytes | None]:
        return [
            None if version.marker else site.read(bucket, key, version_id=version.version_id)
            for version in site.versions(bucket, key)
        ]

    assert history(primary, "back-and-forth") == [b"at last", *[None, b"3", None, b"2", None, b"1", None, b"0"]]
    assert replicate(pair, "primary", "haven").copied == 13
    for key in ("back-and-forth", "stays"):
        assert history(haven, key) == history(primary, key)
    primary.delete(bucket, "back-and-forth")
    assert replicate(pair, "primary", "haven").hidden == 1
    assert history(haven, "back-and-forth") == history(primary, "back-and-forth")
    assert replicate(pair, "primary", "haven").copied == 0


def test_tags_arrive(pair: Platform) -> None:
    bucket, primary, haven = pair.config.buckets.lake, pair.sites["primary"], pair.sites["haven"]
    primary.write(bucket, "tagged", b"x", tags={"owner": "data & co", "kind": "a+b"})
    replicate(pair, "primary", "haven")
    assert haven.head(bucket, "tagged", tags=True).tags == {"owner": "data & co", "kind": "a+b"}


def test_x1_a_large_object_goes_on_where_it_was_broken_off(pair: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "IN_MEMORY", 1 << 20)
    monkeypatch.setattr(transfer, "PART", 5 << 20)
    bucket, primary, haven = pair.config.buckets.lake, pair.sites["primary"], pair.sites["haven"]
    body = os.urandom(22 << 20)
    primary.write(bucket, "large", body, metadata={"k": "v"}, content_type="x/y")

    def refuse_the_fourth(request: Request, site: Upstream) -> Answer:
        return error(403, "SlowDown") if request.query["partNumber"] == "4" else site.ask(request)

    with lying(pair, "haven", custom(refuse_the_fourth, "UploadPart")) as (bad, found):
        with pytest.raises(SiteError, match="large"):
            replicate(bad, "primary", "haven")
        found.switch_off()
        found.log.clear()
        assert replicate(bad, "primary", "haven").copied == 1
    parts = [line for line in found.log if line.operation == "UploadPart"]
    assert 1 <= len(parts) <= 3  # of five; those that were there were not sent again
    there = haven.head(bucket, "large")
    assert haven.read(bucket, "large") == body and (there.content_type, there.metadata["k"]) == ("x/y", "v")


def volume_of(stack: Stack, needle: bytes) -> tuple[Path, int]:
    """The file of the site's server that holds these bytes, and where."""
    for file in sorted((stack.var / "sites" / "haven" / "data").rglob("*.dat")):
        if (at := file.read_bytes().find(needle)) >= 0:
            return file, at
    raise AssertionError("the body is in no volume")


def test_i2_a_byte_that_flips_on_the_targets_disk_is_found_by_reading_back_and_healed(
    pair: Platform, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    keys, bucket, primary, haven = filled(pair, 6, 4000)
    replicate(pair, "primary", "haven")
    body = primary.read(bucket, keys[4])
    file, at = volume_of(stack, body[:64])
    with file.open("r+b") as volume:
        volume.seek(at + 40)
        volume.write(bytes([body[40] ^ 1]))
    assert replicate(pair, "primary", "haven").copied == 0  # no listing tells
    found = verify(pair, "primary", "haven", whole=True)
    assert (found.read, found.damaged, found.unhealed) == (6, (f"{bucket}/{keys[4]}",), ())
    assert f"{bucket}/{keys[4]}" in caplog.text
    assert haven.read(bucket, keys[4]) == body
    again = verify(pair, "primary", "haven", whole=True)
    assert again.damaged == () and again.read == 6
    assert pair.ledger.find("replication", "verify primary->haven", limit=1)[0].body["damaged"] == []


def test_what_cannot_be_healed_is_red(pair: Platform) -> None:
    keys, bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    row = next(row for row in pair.continuity.catalogue("primary", "haven").rows(bucket) if row.key == keys[0])
    haven.delete(bucket, keys[0], version_id=row.target_version)
    for version in list(primary.versions(bucket, keys[0])):
        primary.delete(bucket, keys[0], version_id=version.version_id)
    with pytest.raises(SiteError, match="1 of 1 damaged replicas at site 'haven' could not be replaced"):
        verify(pair, "primary", "haven", whole=True)


def test_each_day_reads_its_part_and_all_are_read_in_the_pairs_time(pair: Platform) -> None:
    filled(pair, 12)
    replicate(pair, "primary", "haven")
    settings = pair.config.replication[0].model_copy(update={"read_back": timedelta(days=4)})
    own = dataclasses.replace(pair, config=pair.config.model_copy(update={"replication": [settings]}))
    bucket = pair.config.buckets.lake
    proven = {row.key: row.verified for row in own.continuity.catalogue("primary", "haven").rows(bucket)}
    assert verify(own, "primary", "haven").read == 12  # nobody had read them yet
    proven = {row.key: row.verified for row in own.continuity.catalogue("primary", "haven").rows(bucket)}
    for _ in range(6):  # two runs a day: 12 in four days are two in each
        assert verify(own, "primary", "haven").read == 2
    rows = list(own.continuity.catalogue("primary", "haven").rows(bucket))
    assert all(row.verified > proven[row.key] and row.basis == "read back" for row in rows)


KILLED = """
import sys
from rempart.flows.replication import replicate
from rempart.flows.shared.platform import open_platform
from rempart.replication.continuity import PostgresqlContinuity
from rempart.sites.s3.site import S3Site
import dataclasses, os, signal
from rempart.settings import sections
mark, left = sys.argv[1], int(sys.argv[2])
own = open_platform()
buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
class OwnContinuity(PostgresqlContinuity):
    def hold_lease(self, name, holder):
        return super().hold_lease(f"{mark} {name}", holder)
leases = OwnContinuity(own.database("continuity"))
own = dataclasses.replace(own, config=own.config.model_copy(update={"buckets": buckets}), continuity_=leases)
write = S3Site.write
def killing(self, *args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, *args, **kwargs)
S3Site.write = killing
replicate.replicate(own, "primary", "haven")
"""


@pytest.mark.parametrize("left", [0, 5])
def test_x1_a_run_that_is_killed_leaves_what_was_there_and_the_next_one_converges(
    pair: Platform, stack: Stack, left: int
) -> None:
    keys, bucket, primary, haven = filled(pair, 12)
    mark = bucket.removesuffix("-lake")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, mark, str(left)],
        env={**os.environ, "REMPART_VAR": str(stack.var), "REMPART_PORT_OFFSET": str(stack.offset)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert len(list(haven.list(bucket))) <= left
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.failed) == (len(keys), ()) and same(bucket, primary, haven)
