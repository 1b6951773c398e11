"""A ledger that is exported under lock to two sites in memory."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rempart.errors import SiteUnavailable
from rempart.flows.governance import evidence
from rempart.flows.governance.evidence import export
from rempart.flows.shared.platform import Platform
from rempart.ledger.files import verify_files
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.settings import config
from rempart.settings.config import Connection
from tests.memory_site import MemorySite
from tests.restorable import flip

ROOT = Path(__file__).resolve().parents[4]
NOW = datetime.now(UTC)
SEED = bytes(31) + b"1"
KEY = signer(SEED)


class Site(MemorySite):
    """A site that can be told to store wrong, or not to answer, so many times."""

    wrong = 0
    mute = 0

    def write(self, bucket: str, key: str, body: bytes, **how: Any) -> Any:
        info = super().write(bucket, key, body, **how)
        if self.wrong:
            self.wrong -= 1
            flip(self, bucket, key, which=-1)
        return info

    def write_new(self, bucket: str, key: str, body: bytes, **how: Any) -> bool:
        done = super().write_new(bucket, key, body, **how)
        if self.mute:
            self.mute -= 1
            raise SiteUnavailable(f"put {bucket}/{key}: ReadTimeoutError", "Retry.")
        return done


def new_platform() -> Platform:
    ticks: Iterator[int] = iter(range(1_000_000))

    def clock() -> datetime:
        return NOW + timedelta(seconds=next(ticks))

    sites = {name: Site(name) for name in ("primary", "haven")}
    sites["primary"].ensure_bucket("evidence", versioned=True, locked=True)
    sites["haven"].ensure_bucket("checkpoints", versioned=True, locked=True)
    held: dict[str, Any] = {**sites, config.witness("haven"): sites["haven"]}

    def connections(name: str) -> Connection:
        return Connection(name, "ledger", password=base64.b64encode(SEED).decode())

    made = Platform(config.load(ROOT / "rempart.yaml"), connections, clock, held, MemoryLedger(KEY, clock))
    evidence.prove_sites(made)
    return made


def exported(platform: Platform, times: int = 3) -> None:
    for number in range(times):
        platform.ledger.append("snapshot", "bookings", {"rows": number})
        export(platform)


def site(platform: Platform, name: str) -> Site:
    found = platform.sites[name]
    assert isinstance(found, Site)
    return found


def keys(platform: Platform, name: str, bucket: str, prefix: str = "") -> list[str]:
    return [info.key for info in platform.sites[name].list(bucket, prefix)]


def judged(platform: Platform, tmp_path: Path) -> bool:
    """Whether what a reader finds in the two buckets verifies."""
    folder = tmp_path / f"audit-{next(iter(range(1)))}-{platform.clock().timestamp()}"
    for name, bucket in (("primary", "evidence"), ("haven", "checkpoints")):
        for key in keys(platform, name, bucket):
            file = folder / name / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(platform.sites[name].read(bucket, key))
    return verify_files(folder, [KEY.public.hex()], folder).ok


PLACES = [("primary", "evidence", "ledger/"), ("primary", "evidence", "checkpoints/"), ("haven", "checkpoints", "")]
