"""L7: every operation that lists a site whose listing never ends stops with an error, and has changed nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from rempart.backup.points import points
from rempart.errors import ListingRefused
from rempart.flows.doctor import doctor_site
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config
from tests.memory_site import MemorySite
from tests.scripted_site import Answer, ScriptedRequest, refusal, scripted_site

ROOT = Path(__file__).parents[3]
KEYS: dict[str, Callable[[int, int], int]] = {
    "fresh tokens, new keys": lambda page, entry: page * 50 + entry,
    "repeated pages": lambda page, entry: page % 7 * 50 + entry,
    "keys that fall": lambda page, entry: 10**9 - page * 50 - entry,
}


def endless(key_of: Callable[[int, int], int]) -> Callable[[ScriptedRequest], Answer]:
    """A server of which every bucket is there, and every listing goes on."""
    served = count()

    def answer(asked: ScriptedRequest) -> Answer:
        if asked.method == "HEAD" and asked.path.strip("/").count("/") == 0:
            return Answer()
        if "versioning" in asked.query:
            return Answer(body=b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
        if asked.method != "GET" or not {"list-type", "versions"} & asked.query.keys():
            return refusal("NoSuchKey", 404) if asked.method == "GET" else Answer(404)
        number = next(served)
        kind, root = (
            ("Version", "ListVersionsResult") if "versions" in asked.query else ("Contents", "ListBucketResult")
        )
        entries = "".join(
            f"<{kind}><Key>{asked.query.get('prefix', '')}{key_of(number, offset):012}/manifest.json</Key>"
            f"<LastModified>2026-11-01T00:00:00Z</LastModified><ETag>0</ETag><Size>1</Size></{kind}>"
            for offset in range(50)
        )
        tokens = "".join(
            f"<{name}>{number}</{name}>" for name in ("NextContinuationToken", "NextKeyMarker", "NextVersionIdMarker")
        )
        return Answer(body=f"<{root}><IsTruncated>true</IsTruncated>{tokens}{entries}</{root}>".encode())

    return answer


@pytest.fixture(params=KEYS)
def house(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """A platform whose site `primary` never ends its listings; `haven` is sound, and holds one object."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    settings = config.load(ROOT / "rempart.yaml")
    haven, ledger = MemorySite("haven"), MemoryLedger()
    for bucket in (settings.buckets.lake, settings.buckets.artifacts, settings.buckets.backups):
        haven.ensure_bucket(bucket, versioned=True)
    haven.write(settings.buckets.lake, "kept", b"kept")
    with scripted_site(endless(KEYS[request.param])) as site:
        yield Platform(
            settings,
            config.environment_connections,
            sites={"primary": site, "haven": haven},
            ledger_=ledger,
            continuity_=MemoryContinuity(),
        )


@pytest.mark.parametrize("order", ["proven", "absent"])
@pytest.mark.parametrize(("source", "target"), [("primary", "haven"), ("haven", "primary")])
def test_l7_replication_makes_no_plan_of_a_listing_that_does_not_end(
    house: Platform, source: str, target: str, order: str
) -> None:
    record = MemorySite("primary").probe("doctor", datetime.now(UTC)).as_json()
    proofs = [
        proof | {"outcome": order} if proof["capability"] == "listing order" else proof for proof in record["proofs"]
    ]
    house.ledger.append(
        "capabilities", "primary", record | {"endpoint": house.sites["primary"].endpoint, "proofs": proofs}
    )
    pair = house.config.replication[0].model_copy(update={"source": source, "target": target})
    swapped = dataclasses.replace(
        house, config=house.config.model_copy(update={"replication": [pair], "active_site": source})
    )
    with pytest.raises(ListingRefused, match="primary"):
        replicate(swapped, source, target)
    assert [info.key for info in house.sites["haven"].list(house.config.buckets.lake)] == ["kept"]
    assert not house.ledger.find("replication")


def test_l7_a_restore_that_looks_for_points_stops(house: Platform) -> None:
    with pytest.raises(ListingRefused, match="points/"):
        points.list(house.sites["primary"], house.config.buckets.backups)


def test_l7_the_doctor_ends(house: Platform) -> None:
    """What it finds depends on the rest of the server; here it is that nothing can be kept."""
    record = doctor_site.probe(house, house.sites["primary"])
    assert record.outcome("listing pages") != "proven"
