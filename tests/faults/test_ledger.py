"""Attacks on evidence: on an export on its way to the auditor, and by an insider on the running servers.

The insider is PostgreSQL's superuser, holds the signing key and the witness's credentials, and owns the site of the
export. He does not own the second operator's site.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from rempart.cli import app
from rempart.deployment.servers import postgresql
from rempart.errors import LedgerBroken
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export, export_to
from rempart.flows.shared.platform import Platform
from rempart.ledger import keys
from rempart.ledger.canonical import canonical
from rempart.ledger.chain import Head, checkpoint
from rempart.settings.config import Connection
from tests.integration.own_servers import Servers, own_servers

STRANGER = keys.signer(bytes(32))
NOW = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    names = ("postgresql", "site-primary", "site-haven")
    with own_servers(tmp_path_factory.mktemp("ledger") / "var", names) as running:
        yield running


@pytest.fixture(scope="module")
def platform(servers: Servers) -> Platform:
    return Platform(servers.stack.config, servers.connections)


@pytest.fixture(scope="module")
def key(servers: Servers) -> keys.Signer:
    return keys.from_connection(servers.connections("ledger_key"))


@pytest.fixture(scope="module")
def honest(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An auditor's folder: 28 records, with checkpoints at 15 and 27."""
    folder = tmp_path_factory.mktemp("audit") / "honest"
    evidence.prove_sites(platform)
    for i in range(8):
        platform.ledger.append("decision", "site 'primary'", {"i": i, "allowed": True})
    assert export(platform).last == 15
    for i in range(10):
        platform.ledger.append("decision", "site 'haven'", {"i": i, "allowed": False})
    platform.ledger.append("drill", "20260105T000000Z-abcdef", {"ok": False})
    assert export(platform).last == 27
    export_to(platform, folder)
    return folder


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "audit"))


def lines_of(folder: Path) -> list[str]:
    return (folder / "ledger" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()


def put(folder: Path, lines: list[str]) -> None:
    (folder / "ledger" / "ledger.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def judged(folder: Path, key: keys.Signer) -> tuple[int, str]:
    """What `rempart ledger verify` says, with the first public key alone."""
    done = CliRunner().invoke(app, ["ledger", "verify", str(folder), "--key", key.public.hex()])
    return done.exit_code, done.output


def resigned(line: str, signing: keys.Signer, /, **changes: object) -> str:
    text = canonical(json.loads(line)["record"] | changes)
    signature = base64.b64encode(signing.sign(text.encode())).decode()
    return f'{{"hash":"{hashlib.sha256(text.encode()).hexdigest()}","record":{text},"sig":"{signature}"}}'


def rewritten(lines: list[str], seq: int, signing: keys.Signer, **changes: object) -> list[str]:
    """The chain with one record changed and all that follow it made to fit, with the true key."""
    found = [*lines[: seq - 1], resigned(lines[seq - 1], signing, **changes)]
    for line in lines[seq:]:
        found.append(resigned(line, signing, prev=json.loads(found[-1])["hash"]))
    return found


def cut_with_forged_checkpoint(folder: Path) -> None:
    lines = lines_of(folder)[:20]
    put(folder, lines)
    for file in (folder / "checkpoints").rglob("000000000027*"):
        file.unlink()
    forged = checkpoint(Head(20, json.loads(lines[-1])["hash"]), NOW, STRANGER)
    (folder / "checkpoints" / "000000000020-forged.json").write_text(forged, encoding="utf-8")


def swapped(lines: list[str]) -> list[str]:
    return [*lines[:11], lines[12], lines[11], *lines[13:]]


def stranger_resigns(lines: list[str]) -> list[str]:
    public = {"public": keys.to_base64(STRANGER.public), "replaces": None}
    first = resigned(lines[0], STRANGER, key=STRANGER.id, subject=STRANGER.id, body=public)
    found = [first]
    for line in lines[1:]:
        found.append(resigned(line, STRANGER, key=STRANGER.id, prev=json.loads(found[-1])["hash"]))
    return found


ATTACKS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "a changed field": (
        lambda f: put(f, [line.replace('"ok":false', '"ok":true') for line in lines_of(f)]),
        27,
        "its SHA-256 differs from the stored one",
    ),
    "a changed field under a new hash": (
        lambda f: put(f, [*lines_of(f)[:11], resigned(lines_of(f)[11], STRANGER, subject="x"), *lines_of(f)[12:]]),
        12,
        "its signature does not match key",
    ),
    "a deleted record": (lambda f: put(f, lines_of(f)[:11] + lines_of(f)[12:]), 12, "record 13 is in its place"),
    "reordered records": (lambda f: put(f, swapped(lines_of(f))), 12, "record 13 is in its place"),
    "a cut tail": (lambda f: put(f, lines_of(f)[:20]), 21, "its end was removed"),
    "a cut tail with a forged checkpoint": (cut_with_forged_checkpoint, 20, "is forged"),
    "one record signed with another key": (
        lambda f: put(f, [*lines_of(f)[:11], resigned(lines_of(f)[11], STRANGER, key=STRANGER.id), *lines_of(f)[12:]]),
        12,
        "no record introduces another key",
    ),
    "everything signed with another key": (
        lambda f: put(f, stranger_resigns(lines_of(f))),
        1,
        "which you do not trust",
    ),
}


def test_the_honest_export_verifies(honest: Path, key: keys.Signer) -> None:
    code, printed = judged(honest, key)
    assert code == 0, printed
    assert "records      28" in printed and "checkpoints  2" in printed
    assert "covers record 27, records after it: 1" in printed


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_export_is_found_at_the_first_broken_record(
    folder: Path, key: keys.Signer, attack: str
) -> None:
    act, seq, printed = ATTACKS[attack]
    act(folder)
    code, text = judged(folder, key)
    assert code == 1
    assert f"BROKEN: Record {seq} of the ledger: " in text and printed in " ".join(text.split()), text


@pytest.fixture
def database(servers: Servers) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The ledger's database as its superuser; what it held comes back at the end."""
    with postgresql.connect(dataclasses.replace(servers.superuser, schema="ledger")) as session:
        session.execute("CREATE TABLE kept AS SELECT record, hash, sig FROM evidence ORDER BY seq")
        yield session
        replace_evidence(
            session, [tuple(row) for row in session.execute("SELECT * FROM kept ORDER BY record::jsonb->'seq'")]
        )
        session.execute("DROP TABLE kept")


def replace_evidence(session: psycopg.Connection[tuple[object, ...]], rows: list[tuple[object, ...]]) -> None:
    """Put other records in place of all: a superuser may, with the constraints in force or not."""
    with session.transaction():
        session.execute("TRUNCATE evidence")
        for row in rows:
            session.execute("INSERT INTO evidence (record, hash, sig) VALUES (%s, %s, %s)", row)


def as_rows(lines: list[str]) -> list[tuple[object, ...]]:
    found = [json.loads(line) for line in lines]
    return [(canonical(row["record"]), row["hash"], row["sig"]) for row in found]


def test_an_insider_with_superuser_and_signing_key_is_found_against_the_locked_checkpoints(
    platform: Platform,
    database: psycopg.Connection[tuple[object, ...]],
    honest: Path,
    key: keys.Signer,
    tmp_path: Path,
) -> None:
    forged = rewritten(lines_of(honest), 20, key, body={"i": 4, "allowed": True})
    replace_evidence(database, as_rows(forged))
    # alone, the rewritten chain is perfect
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "ledger.jsonl").write_text("\n".join(forged) + "\n", encoding="utf-8")
    assert judged(tmp_path / "alone", key)[0] == 0
    # against the checkpoints at the second operator it is not
    export_to(platform, tmp_path / "audit")
    code, printed = judged(tmp_path / "audit", key)
    assert code == 1 and "Record 27 of the ledger: it differs from the record that checkpoint" in printed, printed
    # and the next export stops by itself
    with pytest.raises(LedgerBroken, match="Record 27 of the ledger differs from the one in evidence/ledger/"):
        export(platform)


def test_his_own_checkpoint_over_the_true_one_does_not_help_and_the_true_one_stays(
    platform: Platform,
    database: psycopg.Connection[tuple[object, ...]],
    honest: Path,
    key: keys.Signer,
    tmp_path: Path,
) -> None:
    bucket = platform.config.buckets.checkpoints
    owner, witness = platform.evidence_site("haven")[0], platform.evidence_site("haven", write_only=True)[0]
    true = max(info.key for info in owner.list(bucket, "checkpoints/"))
    first = owner.head(bucket, true)
    forged = rewritten(lines_of(honest), 12, key, subject="site 'elsewhere'")
    replace_evidence(database, as_rows(forged))
    head = json.loads(forged[-1])
    witness.write(bucket, true, checkpoint(Head(27, head["hash"]), datetime.now(UTC), key).encode())
    export_to(platform, tmp_path / "audit")
    code, printed = judged(tmp_path / "audit", key)
    assert code == 1 and "Record 15 of the ledger: it differs from the record that checkpoint" in printed, printed
    locked = owner.read(bucket, true, version_id=first.version_id)
    assert locked == (honest / "checkpoints" / Path(true).name).read_bytes()
    witness.write(bucket, true, locked)


def test_a_stolen_password_of_the_role_alone_adds_nothing_that_verifies(
    servers: Servers, database: psycopg.Connection[tuple[object, ...]], key: keys.Signer, tmp_path: Path
) -> None:
    """Without the signing key, one who may insert can stop the ledger, not bend it: the next writer says so."""
    thief = servers.connections("pg_ledger")
    with psycopg.connect(thief.postgresql_url()) as session:
        row = session.execute("SELECT seq, hash FROM evidence ORDER BY seq DESC LIMIT 1").fetchone()
        assert row
        record = {"v": 1, "seq": row[0] + 1, "at": "2026-01-06T00:00:00.000000Z", "kind": "promotion", "subject": "x"}
        text = canonical(record | {"body": {}, "prev": row[1], "key": key.id})
        digest = hashlib.sha256(text.encode()).hexdigest()
        values = [text, digest, base64.b64encode(STRANGER.sign(text.encode())).decode()]
        session.execute("INSERT INTO evidence (record, hash, sig) VALUES (%s, %s, %s)", values)
    platform = Platform(servers.stack.config, servers.connections)
    for writer in (lambda: platform.ledger.append("drill", "x", {}), lambda: export(platform)):
        with pytest.raises(LedgerBroken, match=f"record {row[0] + 1} is not signed with the current key {key.id}"):
            writer()
    export_to(platform, tmp_path)
    assert f"Record {row[0] + 1} of the ledger: its signature" in judged(tmp_path, key)[1]


def test_no_seed_and_no_secret_reaches_an_export(platform: Platform, servers: Servers, honest: Path) -> None:
    held = [platform.connections(name) for name in ("ledger_key", "s3_witness_haven", "s3_primary", "pg_ledger")]
    assert all(isinstance(connection, Connection) and len(connection.password) > 20 for connection in held)
    for file in honest.rglob("*"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            assert not [connection.name for connection in held if connection.password in text], file


def test_i11_what_was_hidden_at_either_site_is_put_again_by_the_next_export(
    platform: Platform, honest: Path, key: keys.Signer, tmp_path: Path
) -> None:
    held, own = platform.evidence_site("primary")[0], platform.evidence_site("haven")[0]
    places = [(held, platform.config.buckets.evidence), (own, platform.config.buckets.checkpoints)]
    hidden = {}
    for site, bucket in places:
        found = sorted(info.key for info in site.list(bucket))[0]
        hidden[bucket] = (site, found, site.read(bucket, found))
        site.delete(bucket, found)
    platform.ledger.append("drill", "20260105T010000Z-abcdef", {"ok": True})
    export(platform)
    for bucket, (site, name, body) in hidden.items():
        assert site.read(bucket, name) == body
        assert site.retained_until(bucket, name, str(site.head(bucket, name).version_id))
    assert platform.ledger.find("repair", "evidence")[0].body["count"] == 2
    assert evidence.repair(platform).healed == {}
    export_to(platform, tmp_path / "audit")
    assert judged(tmp_path / "audit", key)[0] == 0


def test_what_he_does_within_the_window_is_not_found_and_the_window_is_stated(
    platform: Platform, database: psycopg.Connection[tuple[object, ...]], key: keys.Signer, tmp_path: Path
) -> None:
    """The last test here: what it exports is locked, and stays."""
    appended = platform.ledger.append("drill", "20260106T000000Z-abcdef", {"ok": False})
    lines = [entry.line for entry in platform.ledger.entries()]
    replace_evidence(database, as_rows(rewritten(lines, appended.seq, key, body={"ok": True})))
    later = dataclasses.replace(platform, clock=lambda: appended.at + timedelta(minutes=15))
    result = export(later)
    assert result.window_seconds == 900.0
    export_to(platform, tmp_path / "audit")
    assert judged(tmp_path / "audit", key)[0] == 0
