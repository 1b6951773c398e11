"""Faults of the catalogue that replication must survive, on sites in memory and on the stack's real ones."""

import dataclasses
import os
import secrets
from pathlib import Path

import pytest

from rempart.errors import SiteError, SiteUnavailable
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config, sections
from tests.memory_site import MemorySite

ROOT = Path(__file__).parents[2]
LAKE = "lake"


class Faulty:
    """A site with some operations replaced; each replacement gets the real site first."""

    def __init__(self, site, **faults):
        self._site, self._faults = site, faults

    def __getattr__(self, name):
        if name in self._faults:
            return lambda *args, **kwargs: self._faults[name](self._site, *args, **kwargs)
        return getattr(self._site, name)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.stores)])
def pair(request, monkeypatch):
    """A platform of two sites with empty buckets of its own and a ledger in memory."""
    if request.param == "memory":
        monkeypatch.setenv("REMPART_HOME", str(ROOT))
        settings = config.load(ROOT / "rempart.yaml")
        found = Platform(
            settings,
            config.environment_connections,
            sites={n: MemorySite(n) for n in settings.sites},
            ledger_=MemoryLedger(),
            continuity_=MemoryContinuity(),
        )
    else:
        found = dataclasses.replace(
            request.getfixturevalue("platform"), ledger_=request.getfixturevalue("proven_ledger")
        )
    mark = f"fault-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    settings = found.config.model_copy(update={"buckets": buckets})
    sites = {name: found.site(name, "personal") for name in ("primary", "haven")}
    for site in sites.values():
        for bucket in (buckets.lake, buckets.artifacts, buckets.backups):
            site.ensure_bucket(bucket, versioned=True)
    continuity = found.continuity if request.param == "memory" else request.getfixturevalue("own_continuity")
    yield dataclasses.replace(found, config=settings, sites=dict(sites), continuity_=continuity)
    for site in sites.values():
        for bucket in (buckets.lake, buckets.artifacts, buckets.backups):
            site.drop_bucket(bucket)


def broken(platform, name, **faults):
    """The same platform with a faulty site."""
    return dataclasses.replace(platform, sites={**platform.sites, name: Faulty(platform.sites[name], **faults)})


def listing_as(found):
    """However a bucket is listed."""
    return {"list": found, "versions": found}


def filled(platform, count=12):
    """`count` objects in the source's lake: their keys, the bucket, source and target."""
    primary, haven, bucket = platform.sites["primary"], platform.sites["haven"], platform.config.buckets.lake
    keys = [f"snapshots/{i:02d}" for i in range(count)]
    for key in keys:
        primary.write(bucket, key, os.urandom(100))
    return keys, bucket, primary, haven


def test_i1_a_replica_that_differs_in_one_bit_is_found_and_repaired(pair):
    keys, bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    body = bytearray(primary.read(bucket, keys[0]))
    body[50] ^= 1
    haven.write(bucket, keys[0], bytes(body))
    result = replicate(pair, "primary", "haven")
    assert (result.copied, result.verified) == (1, len(keys))
    assert haven.read(bucket, keys[0]) == primary.read(bucket, keys[0])


@pytest.mark.stores
@pytest.mark.parametrize("pair", ["s3"], indirect=True)
def test_i1_part_sizes_make_no_difference_and_one_bit_does(pair):
    bucket, primary, haven = pair.config.buckets.lake, pair.sites["primary"], pair.sites["haven"]
    body = os.urandom(6 << 20)
    flipped = bytes([*body[:9], body[9] ^ 1]) + body[10:]
    for key, content in (("same", body), ("flipped", flipped)):
        primary.write(bucket, key, body)
        client = haven._client
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        parts = [
            {
                "PartNumber": n + 1,
                "ETag": client.upload_part(
                    Bucket=bucket,
                    Key=key,
                    UploadId=upload,
                    PartNumber=n + 1,
                    Body=content[n * (5 << 20) : (n + 1) * (5 << 20)],
                )["ETag"],
            }
            for n in range(2)
        ]
        client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    result = replicate(pair, "primary", "haven")
    assert (result.copied, result.verified) == (1, 2)
    assert haven.read(bucket, "flipped") == body


def test_i1_one_bit_changes_at_the_source(pair):
    keys, bucket, primary, haven = filled(pair)
    replicate(pair, "primary", "haven")
    body = bytearray(primary.read(bucket, keys[3]))
    body[7] ^= 128
    primary.write(bucket, keys[3], bytes(body))
    assert replicate(pair, "primary", "haven").copied == 1
    assert haven.read(bucket, keys[3]) == bytes(body)


@pytest.mark.parametrize("after", [0, 5])
def test_l1_a_source_listing_that_fails_makes_no_plan(pair, after):
    keys, bucket, _, haven = filled(pair)

    def listing(site, *args):
        for i, info in enumerate(site.versions(*args)):
            if i == after:
                raise SiteError("list: refused (AccessDenied)", "Check the rights.")
            yield info

    with pytest.raises(SiteError, match="AccessDenied"):
        replicate(broken(pair, "primary", **listing_as(listing)), "primary", "haven")
    assert not list(haven.list(bucket))
    assert pair.ledger.find("replication") == []
    assert replicate(pair, "primary", "haven").verified == len(keys)


def test_l1_a_source_that_lists_nothing_changes_nothing(pair):
    keys, bucket, _, haven = filled(pair)
    replicate(pair, "primary", "haven")
    with pytest.raises(SiteError, match="it has no object"):
        replicate(broken(pair, "primary", **listing_as(lambda site, *args: iter(()))), "primary", "haven")
    assert len(list(haven.list(bucket))) == len(keys)


def test_l2_a_target_that_cannot_be_listed_is_not_filled_again(pair):
    filled(pair)
    replicate(pair, "primary", "haven")
    writes = []

    def refuse(site, *args):
        raise SiteUnavailable("list: SlowDown", "Retry.")

    faulty = broken(pair, "haven", **listing_as(refuse), write=lambda site, *args, **kw: writes.append(args))
    with pytest.raises(SiteUnavailable):
        replicate(faulty, "primary", "haven")
    assert writes == []


def test_p5_one_key_that_fails_for_ever_stops_no_other(pair):
    keys, bucket, _, haven = filled(pair)

    def reading(site, name, key, **kwargs):
        if key == keys[4]:
            raise SiteUnavailable(f"get {name}/{key}: 500", "Retry. If it fails again, ask the site's operator.")
        return site.fetch(name, key, **kwargs)

    with pytest.raises(SiteUnavailable, match=f"1 of {len(keys)} objects") as caught:
        replicate(broken(pair, "primary", fetch=reading), "primary", "haven")
    assert keys[4] in str(caught.value) and caught.value.transient
    assert {info.key for info in haven.list(bucket)} == {*keys} - {keys[4]}
    record = pair.ledger.find("replication")[0].body
    assert (record["failed"], record["verified"]) == ([f"{bucket}/{keys[4]}"], len(keys) - 1)
    assert record["lag_seconds"] > 0
    assert replicate(pair, "primary", "haven").copied == 1


def test_p7_a_put_that_is_reported_and_absent_is_no_replica(pair):
    keys, bucket, _, _ = filled(pair)

    def writing(site, name, key, body, **kwargs):
        info = site.write(name, key, body, **kwargs)
        if key == keys[2]:
            site.delete(name, key, version_id=info.version_id)
        return info

    with pytest.raises(SiteError, match="missing or differs"):
        replicate(broken(pair, "haven", write=writing), "primary", "haven")
    assert pair.ledger.find("replication")[0].body["failed"] == [f"{bucket}/{keys[2]}"]
    assert pair.ledger.find("replication")[0].body["verified"] == len(keys) - 1
    assert replicate(pair, "primary", "haven").verified == len(keys)


def test_i3_a_body_that_is_altered_on_this_machine_is_no_replica(pair):
    keys, _, _, _ = filled(pair)

    def writing(site, name, key, body, **kwargs):
        return site.write(name, key, body[:-1] if key == keys[1] else body, **kwargs)

    with pytest.raises(SiteError, match=r"the sent bytes differ|is missing or differs|the source has"):
        replicate(broken(pair, "haven", write=writing), "primary", "haven")
    assert replicate(pair, "primary", "haven").copied == 1


def test_x1_a_run_that_is_killed_half_way_converges(pair):
    keys, bucket, primary, haven = filled(pair)
    left = iter(range(5))

    class Killed(BaseException):
        pass

    def writing(site, name, key, body, **kwargs):
        if next(left, None) is None:
            raise Killed
        return site.write(name, key, body, **kwargs)

    with pytest.raises(Killed):
        replicate(broken(pair, "haven", write=writing), "primary", "haven")
    result = replicate(pair, "primary", "haven")
    assert (result.verified, result.failed) == (len(keys), ())
    assert all(haven.read(bucket, key) == primary.read(bucket, key) for key in keys)


ODD = ("a//b", "trail/", "../x", "back\\slash", "dual", "dual/b")


def test_l6_keys_that_the_target_may_mix_up_are_reported_and_stop_no_other(pair):
    """The source keeps them apart; SeaweedFS, as a target, would take `a//b` for `a/b` and overwrite it."""
    memory = MemorySite("primary")
    buckets = pair.config.buckets
    for bucket in (buckets.lake, buckets.artifacts, buckets.backups):
        memory.ensure_bucket(bucket, versioned=True)
    plain = ("a/b", "x", "with space+plus%25 caf\N{LATIN SMALL LETTER E WITH ACUTE}", "n" * 900)
    for key in (*plain, *ODD):
        memory.write(buckets.lake, key, key.encode())
    mixed = dataclasses.replace(pair, sites={**pair.sites, "primary": memory})
    haven = pair.sites["haven"]
    if isinstance(haven, MemorySite):  # which keeps every key apart
        assert replicate(mixed, "primary", "haven").verified == len(plain) + len(ODD)
    else:
        with pytest.raises(SiteError, match="was not proven to keep path keys distinct") as caught:
            replicate(mixed, "primary", "haven")
        assert not caught.value.transient
        record = pair.ledger.find("replication")[0].body
        # `dual/b` has a plain name: only its folder is also a file
        assert set(record["failed"]) == {f"{buckets.lake}/{key}" for key in ODD if key != "dual/b"}
        assert record["lag_seconds"] > 0
    for key in plain:
        assert haven.read(buckets.lake, key) == key.encode()
