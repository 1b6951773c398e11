"""The platform's heartbeats, as the watch finds them at the backup site; no operation fails for lack of a heartbeat."""

from __future__ import annotations

import base64
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from rempart.backup.watch.heartbeat import decode, key_of, replication
from rempart.errors import ConnectionMissing, ObjectMissing, SiteUnavailable
from rempart.flows.replication import replicate_in_tasks
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.heartbeats import beat
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import signer
from rempart.settings.config import Connection, witness
from tests import switchovers
from tests.memory_site import MemorySite

ROOT = Path(__file__).parents[4]
SEED = bytes(31) + b"7"
KEY = signer(SEED)


def connections(name: str) -> Connection:
    if name == "ledger_key":
        return Connection(name, "ledger", password=base64.b64encode(SEED).decode())
    raise ConnectionMissing(f"Connection '{name}' is not defined", "Define it.")


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Two sites in memory; the backup site's own credentials stand for those that can only add, too."""
    monkeypatch.setenv("REMPART_HOME", str(ROOT))
    made = dataclasses.replace(switchovers.in_memory(), connections=connections)
    made.sites[witness("haven")] = made.sites["haven"]
    return made


def test_a_heartbeat_is_signed_by_the_ledgers_key_and_replaces_the_one_before(platform: Platform) -> None:
    for number in (1, 2):
        beat(platform, "backup", {"number": number})
    info, body = platform.sites["haven"].fetch("backups", "heartbeats/backup.json")
    found = decode("backup", body, [KEY.public])
    assert found.facts == {"number": 2} and info.content_type == "application/json"
    assert abs((platform.clock() - found.at).total_seconds()) < 60
    assert [record.subject for record in platform.ledger.find("decision")] == ["site 'haven'"]


def test_the_credentials_that_can_only_add_are_enough(platform: Platform) -> None:
    only_adds = MemorySite("haven")
    only_adds.ensure_bucket("backups", versioned=True)
    platform.sites[witness("haven")] = only_adds
    del platform.sites["haven"]
    beat(platform, "drill", {"ok": True})
    assert decode("drill", only_adds.read("backups", key_of("drill")), [KEY.public]).facts == {"ok": True}


def test_a_replication_tells_the_watch_how_far_the_replica_is(platform: Platform) -> None:
    platform.sites["primary"].write("lake", "a", b"a")
    kind = replication("primary", "haven")

    def told() -> dict[str, object]:
        return dict(decode(kind, platform.sites["haven"].read("backups", key_of(kind)), [KEY.public]).facts)

    replicate(platform, "primary", "haven")
    wanted = {"source": "primary", "target": "haven", "objects": 1, "verified": 1, "pending": 0, "lag_seconds": 0}
    assert told() == wanted
    platform.sites["primary"].write("lake", "b", b"b")
    made = replicate_in_tasks.prepare(platform, "primary", "haven")
    outcomes = [replicate_in_tasks.carry(platform, made, piece) for piece in made.pieces()]
    replicate_in_tasks.conclude(platform, made, outcomes)
    assert told() == wanted | {"objects": 2, "verified": 2}


def test_a_replication_that_did_not_end_well_is_silent(platform: Platform) -> None:
    class Refusing(MemorySite):
        def write(self, *_: Any, **__: Any) -> Any:
            raise SiteUnavailable("put: no answer", "Wait.")

    platform.sites["primary"].write("lake", "a", b"a")
    kept = platform.sites["haven"]
    refusing = Refusing("haven")
    for bucket in ("lake", "artifacts", "backups"):
        refusing.ensure_bucket(bucket, versioned=True)
    platform.sites["haven"] = refusing
    with pytest.raises(SiteUnavailable):
        replicate(platform, "primary", "haven")
    with pytest.raises(ObjectMissing):
        kept.read("backups", key_of(replication("primary", "haven")))


@pytest.mark.parametrize("error", [SiteUnavailable("put at 'haven': no answer", "Wait."), ValueError("secret-word")])
def test_what_ended_does_not_fail_for_a_heartbeat(
    platform: Platform, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class UnreachableSite(MemorySite):
        def write(self, *_: Any, **__: Any) -> Any:
            raise error

    platform.sites[witness("haven")] = UnreachableSite("haven")
    with caplog.at_level(logging.WARNING):
        beat(platform, "backup", {})
    assert "could not write heartbeat backup to site 'haven'" in caplog.text
    assert "secret-word" not in caplog.text
    assert ("no answer" in caplog.text) == isinstance(error, SiteUnavailable)


def test_without_a_key_or_with_facts_that_are_none_it_is_said_too(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(name: str) -> Connection:
        raise ConnectionMissing(f"Connection '{name}' is not defined", "Define it.")

    beat(dataclasses.replace(platform, connections=nothing), "backup", {})
    beat(platform, "drill", {"rto_seconds": float("nan")})
    assert "could not write heartbeat backup" in caplog.text and "could not write heartbeat drill" in caplog.text
