"""A lake with bookings at two sites, and a search through every version of every object, as a stranger would search."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from rempart.backup.keys import age
from rempart.errors import ConnectionMissing
from rempart.flows.ingestion.ingest import IngestResult, ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import sample
from rempart.ledger.keys import signer
from rempart.settings import pipelines
from rempart.settings.config import Connection, project_root
from rempart.settings.pipeline import Pipeline
from rempart.sites.port import Site
from tests.switchovers import in_memory

WEEKS = [body for _, body in sample.deliveries(project_root() / "data" / "hotel_bookings.csv.gz")][:2]
HEADER = WEEKS[0].decode().splitlines()[0]
ROWS = [line for week in WEEKS for line in week.decode().splitlines()[1:]]
NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)  # the site in memory has the real clock: these locks hold
OWN = age.new_identity()
SEED = bytes(range(32))


def id_of(row: str) -> int:
    return int(row.split(",")[HEADER.split(",").index("booking_id")])


def secrets_in_memory(name: str) -> Connection:
    """The keys of a platform, and nothing else."""
    import base64

    if name == "backup_key":
        return Connection(name, "generic", login=OWN.recipient, password=OWN.secret)
    if name == "ledger_key":
        made = signer(SEED)
        return Connection(name, "generic", login=made.id, password=base64.b64encode(SEED).decode())
    raise ConnectionMissing(f"a test in memory asked for connection {name}", "It has none.")


@dataclass
class Lake:
    """The shipped pipeline on a platform whose buckets are the test's own."""

    platform: Platform
    pipeline: Pipeline = field(
        default_factory=lambda: pipelines.load(
            project_root() / "include" / "pipelines" / "hotel_bookings.yaml"
        ).model_copy(update={"max_quarantined": 1.0})
    )

    @property
    def bucket(self) -> str:
        return self.platform.config.buckets.lake

    def take_in(self, name: str, rows: list[str] | bytes) -> IngestResult:
        """Deliver (a list of rows gets the header) and ingest."""
        body = rows if isinstance(rows, bytes) else "\n".join([HEADER, *rows, ""]).encode()
        home = self.site(self.platform.active().site)
        home.write(self.platform.config.buckets.landing, f"hotel_bookings/{name}.csv", body)
        return ingest(self.platform, self.pipeline)

    def site(self, name: str) -> Site:
        return self.platform.site(name, "personal")

    def replicate(self) -> None:
        """What stands at the home also stands at the other site."""
        home, other = self.site("primary"), self.site("haven")
        for info in list(home.list(self.bucket)):
            found, body = home.fetch(self.bucket, info.key)
            kept = {name: value for name, value in found.metadata.items() if name != "sha256"}
            other.write(self.bucket, info.key, body, metadata=kept)

    def holders(self, booking: int, *names: str) -> list[str]:
        """Every version of every object that holds a booking, at these sites or at both: site and key."""
        (row,) = {line for line in ROWS if id_of(line) == booking}
        found = []
        for name in names or ("primary", "haven"):
            site = self.site(name)
            for info in list(site.versions(self.bucket)):
                body = b"" if info.marker else site.read(self.bucket, info.key, version_id=info.version_id)
                if holds(body, row, booking):
                    found.append(f"{name}/{info.key}")
        return found


def holds(body: bytes, row: str, booking: int) -> bool:
    if body.startswith(b"\x1f\x8b"):
        body = gzip.decompress(body)
    if not body.startswith(b"PAR1"):
        return row.encode() in body or f"\n{booking},".encode() in body
    table = pq.read_table(io.BytesIO(body))
    if "booking_id" in table.column_names:
        return booking in table["booking_id"].to_pylist()
    if "add" in table.column_names:  # a checkpoint of the Delta log names files, and has no rows
        return False
    return any(str(booking) in (text or "").split(",") for text in table["raw"].to_pylist())


def in_two_memories(**more: Any) -> Lake:
    """The lake on two sites in memory, and a first delivery that is also at the other site."""
    platform = replace(in_memory(clock=lambda: NOW, **more), connections=secrets_in_memory)
    for site in platform.sites.values():
        site.drop_bucket(platform.config.buckets.backups)
        site.ensure_bucket(platform.config.buckets.backups, versioned=True, locked=True)
    return Lake(platform)
