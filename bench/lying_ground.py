"""Part of the proof against lies: a small real platform, created once, and reset for each cell.

PostgreSQL and two SeaweedFS sites run as `rempart up` starts them. A restore point of this platform holds only the
ledger's database, and the keys of its repositories are opened at once, so that a cell takes seconds. Everything else
is as on the platform of a team. The ledger and the leases of the flows are in memory.
"""

from __future__ import annotations

import copyreg
import dataclasses
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from rempart.backup.databases import restic
from rempart.backup.databases.postgresql import drop_database
from rempart.deployment.embedded import lifecycle
from rempart.deployment.servers import object_sites
from rempart.deployment.setup import credentials
from rempart.errors import RempartError as RempartError
from rempart.flows.backup import back_up
from rempart.flows.governance import evidence
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from rempart.replication import transfer
from rempart.replication.continuity import MemoryContinuity
from rempart.settings import config, pipelines
from rempart.settings.config import Connection
from rempart.sites.probes.run import run
from rempart.sites.s3.client import open_client
from tests.erasable import ROWS, Lake, id_of
from tests.integration import own_servers
from tests.integration.own_servers import Servers
from tests.levels import wait_until
from tests.quick_repositories import quick_repositories

SITES = ("primary", "haven")
DATABASES = ("ledger",)
ASIDE = "proof"
MOST_LISTED = 100_000
"""The `most_listed` of each site: the shipped maximum takes hours to reach."""
PIPELINE = "hotel_bookings"
PERSON = id_of(ROWS[3])


class Noticed(Exception):
    """The doctor finds a capability that differs from the honest site."""


class Pending(Exception):
    """An operation reports openly that it has not ended."""


copyreg.pickle(type(threading.Lock()), lambda lock: (threading.Lock, ()))


@dataclass
class Made:
    """The parts of the created platform: the ledger's records, the leases and catalogues, and the capabilities of
    each site.
    """

    ledger: dict[str, Any]
    continuity: MemoryContinuity
    capabilities: dict[str, dict[str, Any]]
    point: str
    held: dict[str, bytes]


@dataclass
class Ground:
    """The servers, and the state to which each cell returns."""

    servers: Servers
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        made = credentials.ensure(self.servers.stack)
        for site in SITES:
            self.running[site] = own_servers.start(self.servers.stack, made, f"site-{site}")
        for site in SITES:
            wait_until(partial(object_sites.check, self.servers.stack, site, self.servers.connections), 60)

    def stop(self, *, gently: bool = False) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
        for site, process in self.running.items():
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:  # the process has flushed long before it ends
                process.kill()
                process.wait(30)
            object_sites.clear_sockets(lifecycle.ports_of(self.servers.stack, f"site-{site}"))
        self.running.clear()

    def _data(self, site: str) -> Path:
        return self.servers.stack.var / "sites" / site / "data"

    def save(self) -> None:
        """Save the current content of the sites: each cell begins with it."""
        self.stop(gently=True)
        for site in SITES:
            shutil.copytree(self._data(site), self._data(site).with_name("saved"))
        self.start()

    def reset(self) -> None:
        """Return to the saved state."""
        self.stop()
        for site in SITES:
            shutil.rmtree(self._data(site))
            shutil.copytree(self._data(site).with_name("saved"), self._data(site))
        with psycopg.connect(self.servers.superuser.postgresql_url(), autocommit=True) as session:
            session.execute(  # sessions of a killed cell still hold locks
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            for (name,) in session.execute("SELECT datname FROM pg_database").fetchall():
                if name.endswith(f"_{ASIDE}") or name.startswith("drill"):
                    drop_database(session, name)
        for left in self.servers.stack.var.glob("restore*.json"):
            left.unlink()
        self.start()

    def endpoint(self, site: str) -> str:
        return str(self.servers.connections(f"s3_{site}").extra["endpoint_url"])

    def client(self, site: str) -> Any:
        """Return boto3's client of the real site, past every proxy."""
        return open_client(site, self.servers.connections(f"s3_{site}"), "local-1")

    def platform(
        self, ledger: MemoryLedger, continuity: MemoryContinuity, urls: Mapping[str, str] | None = None
    ) -> Platform:
        """Return the platform, with its sites at these addresses (default: the real ones)."""
        through = {self.endpoint(site): url for site, url in (urls or {}).items()}

        def connections(name: str) -> Connection:
            found = self.servers.connections(name)
            url = str(found.extra.get("endpoint_url"))
            if url not in through:
                return found
            return dataclasses.replace(found, extra={**found.extra, "endpoint_url": through[url]})

        loaded = config.load()
        sites = {name: site.model_copy(update={"most_listed": MOST_LISTED}) for name, site in loaded.sites.items()}
        return Platform(loaded.model_copy(update={"sites": sites}), connections, ledger_=ledger, continuity_=continuity)

    def made_again(self, made: Made, urls: Mapping[str, str]) -> Platform:
        """Return the platform as it was created, through proxies at these addresses; the proofs of the sites count
        there.
        """
        ledger = MemoryLedger(self.platform(MemoryLedger(), MemoryContinuity()).signer())
        ledger.__dict__.update(made.ledger)
        for site, record in made.capabilities.items():
            ledger.append("capabilities", site, {**record, "endpoint": urls[site]})
        return self.platform(ledger, made.continuity, urls)


def load() -> None:
    """Import what the operations need: cells are forked from this process, and none imports it again."""
    import boto3.session  # noqa: F401
    import duckdb  # noqa: F401
    import great_expectations  # noqa: F401
    import numpy  # noqa: F401
    import obstore.store  # noqa: F401
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401
    import pyrage  # noqa: F401

    there = {"endpoint_url": "http://127.0.0.1:9"}
    nowhere = Connection("nowhere", "aws", login="-", password="-", extra=there)  # noqa: S106 - nobody's
    open_client("nowhere", nowhere, "local-1")  # boto3 reads its model of S3 here


@contextmanager
def ground(var: Path) -> Iterator[Ground]:
    """Start the servers, without content. The environment names their place for programs that read it."""
    with own_servers.own_servers(var, ("postgresql",)) as servers:
        os.environ |= {
            "REMPART_HOME": str(servers.stack.root),
            "REMPART_VAR": str(var),
            "REMPART_PORT_OFFSET": str(servers.stack.offset),
        }
        made = Ground(servers)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def small_parts() -> None:
    """Send objects of more than 1 MiB in parts of 5 MiB, back up one database, and end restic after a minute without
    progress.

    With these limits a cell takes seconds.
    """
    transfer.IN_MEMORY, transfer.PART = 1 << 20, 5 << 20
    restic.STALL_SECONDS = restic.ANSWER_SECONDS = 60.0
    back_up.DATABASES = DATABASES  # type: ignore[assignment] # one database, for a test


def make(ground: Ground) -> Made:
    """Fill the platform: an ingested week, artifacts, replicas, a restore point, an export, and newer changes."""
    from rempart.flows.replication.replicate import replicate

    small_parts()
    ledger = MemoryLedger(ground.platform(MemoryLedger(), MemoryContinuity()).signer())
    platform = ground.platform(ledger, MemoryContinuity())
    for site in SITES:
        record = run(ground.client(site), site, platform.config.buckets.doctor, platform.clock())
        ledger.append("capabilities", site, record.as_json())
    lake = Lake(platform, pipelines.named(PIPELINE))
    lake.take_in("first", ROWS[:40])
    primary, artifacts = platform.site("primary", "personal"), platform.config.buckets.artifacts
    for number in range(3):
        primary.write(artifacts, f"mlflow/1/{number}/model.onnx", b"model %d" % number * 50)
    client = ground.client("primary")
    client.put_object(Bucket=artifacts, Key="mlflow/2/metrics.json", Body=b'{"mae": 23.3}')  # no checksum of ours
    primary.write(platform.config.buckets.lake, "training/1/large", os.urandom(6 << 20))
    replicate(platform, "primary", "haven")
    with quick_repositories():  # a key as restic makes it takes half a second of each of the cells' commands
        point = back_up.back_up(platform)
    held = current(ground, platform, "primary")
    evidence.export(platform)
    lake.take_in("second", ROWS[40:60])
    primary.write(artifacts, "mlflow/3/model.onnx", b"new model " * 50)
    client.put_object(Bucket=artifacts, Key="mlflow/3/metrics.json", Body=b'{"mae": 22.9}')
    primary.write(platform.config.buckets.lake, "training/2/large", os.urandom(6 << 20))
    facts = {name: value for name, value in ledger.__dict__.items() if name in ("records", "chain")}
    known = {entry.subject: dict(entry.body) for entry in ledger.find("capabilities")}
    return Made(facts, platform.continuity, known, point.id, held)  # type: ignore[arg-type] # in memory here


def current(ground: Ground, platform: Platform, site: str) -> dict[str, bytes]:
    """Return every body that a site lists in the shared buckets, read from the real site."""
    client, found = ground.client(site), {}
    for bucket in (platform.config.buckets.lake, platform.config.buckets.artifacts):
        for key in keys(client, bucket):
            found[f"{bucket}/{key}"] = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return found


def keys(client: Any, bucket: str, prefix: str = "") -> list[str]:
    """Return the keys of a bucket of the real site; they fit on one page."""
    return [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())]
