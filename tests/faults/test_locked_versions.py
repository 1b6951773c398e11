"""I11: a locked object was stored with a flipped bit under its true SHA-256: another version gets the right bytes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from rempart.backup.points import chain
from rempart.errors import IntegrityError
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from rempart.sites.once import put_again, read_named, store_once
from rempart.sites.s3.client import open_client
from tests.integration.own_servers import Servers, own_servers
from tests.lying import LyingSite, lying_site
from tests.lying.platforms import reached_through

UNTIL = datetime.now(UTC) + timedelta(hours=6)
SIGNER = signer(bytes(32))
KEYS = {SIGNER.id: SIGNER.public}
KIND = "application/json"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(tmp_path_factory.mktemp("locked"), ["site-haven"]) as found:
        yield found


@pytest.fixture
def through_lying_site(servers: Servers) -> Iterator[tuple[Platform, LyingSite]]:
    platform = Platform(
        config.load(), servers.connections, ledger_=MemoryLedger(), continuity_=MemoryContinuity(), sites={}
    )
    connection = servers.connections("s3_haven")
    with lying_site(connection.extra["endpoint_url"], client=open_client("haven", connection, "local-2")) as site:
        yield reached_through(platform, "haven", site.url), site


def test_i11_a_damaged_version_does_not_hide_the_right_one(through_lying_site: tuple[Platform, LyingSite]) -> None:
    platform, proxy = through_lying_site
    site, bucket, key, body = platform.sites["haven"], platform.config.buckets.backups, "ledger/1.jsonl", b"evidence\n"
    proxy.switch_on("I10-single")
    with pytest.raises(IntegrityError, match="in 3 tries it returned other bytes than were written"):
        store_once(site, bucket, key, body, content_type=KIND, retain_until=UNTIL)
    proxy.switch_off()
    with pytest.raises(IntegrityError):
        read_named(site, bucket, key, sha256(body).hexdigest())
    put_again(site, bucket, key, body, content_type=KIND, retain_until=UNTIL)
    assert read_named(site, bucket, key, sha256(body).hexdigest()) == body
    proxy.switch_on("I10-single")  # a worse version on top of the right one
    with pytest.raises(IntegrityError):
        put_again(site, bucket, key, body, content_type=KIND)
    proxy.switch_off()
    assert read_named(site, bucket, key, sha256(body).hexdigest()) == body
    assert store_once(site, bucket, key, body, content_type=KIND, retain_until=UNTIL) is not None


def test_i11_a_chain_is_read_past_a_damaged_version_of_a_link(
    through_lying_site: tuple[Platform, LyingSite],
) -> None:
    platform, proxy = through_lying_site
    site, bucket = platform.sites["haven"], platform.config.buckets.backups
    at, digest = datetime.now(UTC), "0" * 64
    chain.append(site, bucket, "20990101T000000Z-aaaaaaaa", at, digest, SIGNER, consistent=True, retain_until=UNTIL)
    proxy.switch_on("I11-link-altered")
    with pytest.raises(IntegrityError, match="returned other bytes than were written"):
        chain.append(site, bucket, "20990101T000100Z-bbbbbbbb", at, digest, SIGNER, consistent=True, retain_until=UNTIL)
    proxy.switch_off()
    stored = chain.read(site, bucket, KEYS)
    assert [why for _, _, why in chain.faults(stored, KEYS)] == ["", "it is not a link"]
    link = chain.Link(2, "20990101T000100Z-bbbbbbbb", at, digest, True, stored[0].hash, SIGNER.id)
    put_again(site, bucket, chain.key_of(2), chain.encode(link, SIGNER), content_type=KIND, retain_until=UNTIL)
    assert [judged.point for judged in chain.verify(chain.read(site, bucket, KEYS), KEYS)] == [
        "20990101T000000Z-aaaaaaaa",
        "20990101T000100Z-bbbbbbbb",
    ]
