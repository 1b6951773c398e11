"""S7: an attacker with only the password of the ledger's role writes promotions and keys past the platform.

The records exist in the table, but no operation acts on them. Appends and exports name the first of them, and `rempart
ledger remove-forged` removes them.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rempart.backup.databases import postgresql as dumps
from rempart.errors import LedgerBroken
from rempart.flows.governance import evidence
from rempart.flows.governance.forged import remove_forged
from rempart.flows.shared.platform import Platform
from rempart.flows.training.champions import decisions_on, intended
from rempart.ledger import keys
from rempart.ledger.canonical import canonical
from rempart.ledger.chain import Entry, Head, extend, introduce
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.settings.config import Connection
from rempart.web.facts import gather
from rempart.web.metrics import exposition
from tests.integration.own_servers import Servers, own_servers

THIEF = keys.signer(bytes(range(32)))
"""A key that the thief made himself."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with own_servers(
        tmp_path_factory.mktemp("forged") / "var", ("postgresql", "site-primary", "site-haven")
    ) as running:
        yield running


@pytest.fixture
def platform(servers: Servers, tmp_path: Path) -> Iterator[Platform]:
    """A ledger of two promotions; what a test forged is gone afterwards."""
    made = Platform(servers.stack.config, servers.connections)
    if not made.ledger.find("promotion", "prices"):
        evidence.prove_sites(made)
        made.ledger.append("promotion", "prices", {"version": "1", "replaces": None})
        made.ledger.append("promotion", "prices", {"version": "2", "replaces": "1"})
    yield made
    remove_forged(made.ledger, servers.superuser, tmp_path / "end", made.clock(), dry_run=False)


@pytest.fixture
def role(servers: Servers) -> Connection:
    return servers.connections("pg_ledger")


def head(role: Connection, key: str) -> Head:
    with psycopg.connect(role.postgresql_url()) as session:
        row = session.execute("SELECT seq, hash FROM evidence ORDER BY seq DESC LIMIT 1").fetchone()
    assert row
    return Head(row[0], row[1], key)


def insert(role: Connection, *entries: Entry) -> None:
    with psycopg.connect(role.postgresql_url()) as session:
        for entry in entries:
            values = [entry.text, entry.hash, entry.sig]
            session.execute("INSERT INTO evidence (record, hash, sig) VALUES (%s, %s, %s)", values)


def forged(role: Connection, true_key: str, kind: str, subject: str, body: Mapping[str, Any]) -> Entry:
    """A record that names the true key and carries the thief's signature."""
    at = head(role, true_key)
    text = canonical(
        {"v": 1, "seq": at.seq + 1, "at": "2026-01-06T00:00:00.000000Z", "kind": kind, "subject": subject}
        | {"body": body, "prev": at.hash, "key": true_key}
    )
    signature = base64.b64encode(THIEF.sign(text.encode())).decode()
    return Entry(at.seq + 1, text, hashlib.sha256(text.encode()).hexdigest(), signature)


def test_a_forged_promotion_is_not_acted_on_and_is_named(
    platform: Platform, role: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    false = forged(role, platform.signer().id, "promotion", "prices", {"version": "666", "replaces": "2"})
    insert(role, false)
    with caplog.at_level(logging.ERROR):
        assert intended(decisions_on(platform.ledger, "prices")) == "2"
        assert [record.body["version"] for record in platform.ledger.find("promotion", "prices", limit=1)] == ["2"]
    assert f"Record {false.seq} of the ledger (kind 'promotion') is not signed with the key of the chain" in caplog.text
    assert [entry.seq for entry in platform.ledger.forged()] == [false.seq]
    with pytest.raises(LedgerBroken, match=f"record {false.seq} is not signed with the current key"):
        platform.ledger.append("promotion", "prices", {"version": "3"})
    with pytest.raises(LedgerBroken, match=f"record {false.seq} is not signed"):
        evidence.export(platform)


def test_the_cockpit_counts_forged_records_and_shows_none(platform: Platform, role: Connection) -> None:
    def seen() -> str:
        return exposition(gather(lambda: platform, platform.clock), platform.clock())

    assert "rempart_ledger_forged_records 0" in seen()
    insert(role, forged(role, platform.signer().id, "promotion", "prices", {"version": "666", "replaces": "2"}))
    found = gather(lambda: platform, platform.clock)
    assert [record.body["version"] for record in found.of("promotion")] == ["2", "1"]
    assert "rempart_ledger_forged_records 1" in seen()


def test_a_forged_key_signs_nothing_that_counts(platform: Platform, role: Connection) -> None:
    """He introduces a key of his own, signed with itself, and goes on writing with it: perfectly, by that key."""
    true = platform.signer()
    at = head(role, true.id)
    introduced = introduce(at, platform.clock(), THIEF, THIEF)
    follows = Head(introduced.seq, introduced.hash, THIEF.id)
    promotion = extend(follows, platform.clock(), "promotion", "prices", {"version": "666", "replaces": "2"}, THIEF)
    insert(role, introduced, promotion)
    assert [record.subject for record in platform.ledger.find("key")] == [true.id]
    assert set(platform.trusted_keys()) == {true.id}
    assert intended(decisions_on(platform.ledger, "prices")) == "2"
    stolen = PostgresqlLedger(role, lambda: THIEF)  # even our own program does not go on with his key
    for ledger in (stolen, platform.ledger):
        with pytest.raises(LedgerBroken, match=f"record {promotion.seq} is not signed"):
            ledger.append("promotion", "prices", {"version": "667"})
    with pytest.raises(LedgerBroken, match=f"record {promotion.seq} is not signed"):
        evidence.export(platform)


def test_a_key_record_alone_at_the_end_stops_no_reader_and_its_key_is_not_taken(
    platform: Platform, role: Connection
) -> None:
    true = platform.signer()
    insert(role, introduce(head(role, true.id), platform.clock(), THIEF, THIEF))
    stolen = PostgresqlLedger(role, lambda: THIEF)
    with pytest.raises(LedgerBroken):
        stolen.append("promotion", "prices", {"version": "666"})
    assert set(platform.trusted_keys()) == {true.id}


def test_a_flood_of_forged_records_hides_no_true_one(platform: Platform, role: Connection) -> None:
    true, made = platform.signer(), []
    at = head(role, true.id)
    for number in range(2500):
        made.append(extend(at, platform.clock(), "promotion", "prices", {"version": str(number)}, THIEF))
        at = Head(made[-1].seq, made[-1].hash, true.id)
    insert(role, *made)
    assert [record.body["version"] for record in platform.ledger.find("promotion", "prices", limit=1)] == ["2"]
    assert [record.body["version"] for record in platform.ledger.find("promotion", "prices", limit=5000)] == ["2", "1"]


def test_a_backup_reads_no_forged_record_from_its_snapshot(platform: Platform, role: Connection) -> None:
    backup = platform.database("backup")  # its permission is a record, and none is appended to a forged one
    true = head(role, platform.signer().id)
    insert(role, forged(role, platform.signer().id, "candidate", "prices", {"version": "666"}))
    with dumps.frozen(dumps.for_database(backup, "ledger")) as (session, _):
        assert dumps.evidence(session, "candidate") == []
        assert [body["version"] for _, body in dumps.evidence(session, "promotion")] == ["1", "2"]
        assert dumps.ledger_head(session) == (true.seq, true.hash)


def test_forged_records_are_removed_with_a_copy_and_the_ledger_goes_on(
    platform: Platform, role: Connection, servers: Servers, tmp_path: Path
) -> None:
    first = forged(role, platform.signer().id, "promotion", "prices", {"version": "666"})
    insert(role, first)
    second = forged(role, platform.signer().id, "erasure", "prices", {"state": "registered"})
    insert(role, second)
    shown = remove_forged(platform.ledger, servers.superuser, tmp_path / "copies", platform.clock())
    assert shown.dry_run and [entry.seq for entry in shown.entries] == [second.seq, first.seq] and shown.copy is None
    done = remove_forged(platform.ledger, servers.superuser, tmp_path / "copies", platform.clock(), dry_run=False)
    assert done.copy and done.copy.read_text(encoding="utf-8").splitlines() == [first.line, second.line]
    assert done.copy.stat().st_mode & 0o077 == 0
    record = platform.ledger.find("repair", "ledger", limit=1)[0]
    assert record.seq == first.seq and record.body["forged"] == 2 and first.hash in record.body["hashes"]
    assert platform.ledger.forged() == []
    assert (
        remove_forged(platform.ledger, servers.superuser, tmp_path / "copies", platform.clock(), dry_run=False).entries
        == ()
    )
    assert evidence.export(platform).last >= record.seq
