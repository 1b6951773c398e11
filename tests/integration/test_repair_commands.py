"""`backup repair`, `ledger repair` and `ledger remove-forged` on a PostgreSQL and two S3 sites of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rempart.backup.points import chain
from rempart.backup.points.chain import Link, StoredLink
from rempart.deployment.setup import environment
from rempart.flows.backup.mend_links import hashes, named_links
from rempart.flows.governance import evidence
from rempart.flows.shared.platform import Platform
from rempart.sites.port import Site
from tests.faults.test_ledger_forged import forged, insert
from tests.integration.own_servers import Servers, own_servers

NOW = datetime(2026, 1, 5, tzinfo=UTC)
BUCKET = "backups"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    names = ("postgresql", "site-primary", "site-haven")
    with own_servers(tmp_path_factory.mktemp("repair") / "var", names) as running:
        yield running


@pytest.fixture(scope="module")
def platform(servers: Servers) -> Platform:
    return Platform(servers.stack.config, servers.connections)


def rempart(servers: Servers, *words: str) -> str:
    """What a command says; it must end well."""
    stack = servers.stack
    command = [sys.executable, "-m", "rempart.cli", *words]
    done = subprocess.run(
        command, env=environment.base(stack, os.environ), cwd=stack.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def links(platform: Platform, site: Site) -> list[int]:
    keys, named = (
        platform.trusted_keys(),
        hashes(named_links(platform.ledger, site.name, platform.config.buckets.backups)),
    )
    return [link.seq for link in chain.verify(chain.read(site, BUCKET, keys, named=named), keys)]


@pytest.mark.full
def test_links_that_a_site_stored_wrong_are_put_back_or_marked_as_lost(servers: Servers, platform: Platform) -> None:
    """Of link 2 the ledger has the bytes, of link 3 nobody has."""
    site, signer = platform.site("haven", "personal", "restore-point", replica_of="primary"), platform.signer()
    first = chain.append(site, BUCKET, "20260105T000000Z-aaaaaa", NOW, "1" * 64, signer, consistent=True)
    before = StoredLink(1, chain.encode(first, signer))
    second = Link(2, "20260105T010000Z-bbbbbb", NOW, "2" * 64, True, before.hash, signer.id)
    right = chain.encode(second, signer)
    for seq in (2, 3):
        site.write(BUCKET, chain.key_of(seq), right[:60] + bytes([right[60] ^ 1]) + right[61:])
    body = {"site": "haven", "bucket": BUCKET, "manifest_sha256": "2" * 64, "link": 2}
    platform.ledger.append("restore-point", second.point, {**body, "link_file": right.decode()})

    output = rempart(servers, "backup", "repair")
    assert "link 2 can be restored: " in output
    assert (
        "link 3 is lost" in output
        and "links that can be put back: 1, lost: 1" in output
        and "Nothing was changed" in output
    )
    assert site.read(BUCKET, chain.key_of(2)) != right
    output = rempart(servers, "backup", "repair", "--yes")
    assert "warning: restored link 2 of the chain" in output and "--yes --mark-lost" in output
    assert site.read(BUCKET, chain.key_of(2)) == right
    held = site.retained_until(BUCKET, chain.key_of(2), str(site.head(BUCKET, chain.key_of(2)).version_id))
    assert held and held > platform.clock()
    output = rempart(servers, "backup", "repair", "--yes", "--mark-lost")
    assert "marked link 3 of the chain as lost" in output
    assert links(platform, site) == [1, 2]
    chain.append(site, BUCKET, "20260105T020000Z-cccccc", NOW, "4" * 64, signer, consistent=True)
    assert links(platform, site) == [1, 2, 4]
    assert "links that can be put back: 0, lost: 0" in rempart(servers, "backup", "repair")


def test_what_was_exported_is_put_again(servers: Servers, platform: Platform) -> None:
    evidence.prove_sites(platform)
    evidence.export(platform)
    own = platform.evidence_site("haven")[0]
    bucket = platform.config.buckets.checkpoints
    key = next(info.key for info in own.list(bucket))
    body = own.read(bucket, key)
    own.delete(bucket, key)
    assert "can be restored: 1" in rempart(servers, "ledger", "repair")
    assert not list(own.list(bucket))
    assert "restored: 1" in rempart(servers, "ledger", "repair", "--yes")
    assert own.read(bucket, key) == body


def test_forged_records_are_shown_and_removed(servers: Servers, platform: Platform) -> None:
    role = servers.connections("pg_ledger")
    false = forged(role, platform.signer().id, "promotion", "prices", {"version": "666"})
    insert(role, false)
    output = rempart(servers, "ledger", "remove-forged")
    assert f"record {false.seq}: not signed with the key of the chain" in output and "Nothing was changed" in output
    output = rempart(servers, "ledger", "remove-forged", "--yes")
    assert "records at the end of the ledger that were removed: 1" in output and "A copy is in" in output
    (copy,) = servers.stack.var.glob("forged-*.jsonl")
    assert copy.read_text(encoding="utf-8") == f"{false.line}\n"
    assert replace(platform).ledger.append("drill", "x", {}).seq == false.seq + 1
