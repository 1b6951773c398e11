"""A restore point that has only objects, at a site in memory, sealed and attested as a backup does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from rempart.backup.keys import age, platform_secrets
from rempart.backup.keys.encryption_scopes import EncryptionScope
from rempart.backup.keys.keyring import KeyPlace, Keyring
from rempart.backup.points import chain, points
from rempart.backup.points.sealing import Original
from rempart.flows.backup.seal import seal_body, seal_objects
from rempart.flows.restore.restore_source import FoundPoints, OpenPoint, Wish, find, open_point
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import Signer, signer
from tests.memory_site import MemorySite
from tests.switchovers import in_memory

NOW = datetime(2099, 3, 1, 12, tzinfo=UTC)  # the site in memory has the real clock: these locks hold
UNTIL = NOW + timedelta(days=30)
OWN, ESCROW = age.new_identity(), age.new_identity()
SIGNER = signer(bytes(range(32)))
TRUSTED = {SIGNER.id: SIGNER.public}
SECRETS = {"REMPART_AIRFLOW_FERNET_KEY": "f", "AIRFLOW_CONN_S3_PRIMARY": '{"login": "a", "password": "b"}'}
BOOKINGS, PLATFORM = EncryptionScope("dataset", "bookings", "395d"), EncryptionScope("platform", "platform", "372d")
BODIES = {("lake", "raw/bookings/1/a.csv"): b"one" * 500, ("artifacts", "mlflow/1/model.onnx"): b"model"}


@dataclass
class House:
    """Two sites, of which `haven` has the points."""

    platform: Platform
    primary: MemorySite
    haven: MemorySite
    ring: Keyring
    clock: datetime = NOW
    bodies: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def point(
        self,
        bodies: Mapping[tuple[str, str], bytes] = BODIES,
        *,
        dangling: tuple[str, ...] = (),
        vouched: bool = True,
        recorded: bool = False,
        signed_by: Signer = SIGNER,
        kept: Mapping[str, str] = SECRETS,
    ) -> str:
        """Write a point; its id. Each is an hour younger than the one before. `recorded`: the ledger knows it, too."""
        self.clock += timedelta(hours=1)
        held = []
        for (bucket, key), body in bodies.items():
            self.bodies[bucket, key] = body
            stored = self.haven.write(bucket, key, body, metadata={"note": "kept"}, content_type="text/csv")
            scope = BOOKINGS if bucket == "lake" else PLATFORM
            digest = hashlib.sha256(body).hexdigest()
            original = Original(bucket, key, stored.version_id, digest, len(body), scope)
            (sealed,) = seal_objects(
                self.platform.ledger, self.platform.config, self.ring, self.haven, [original], self.haven, UNTIL
            )
            held.append(points.HeldObject(bucket, key, len(body), digest, stored.version_id, sealed))
        plain = platform_secrets.encode(kept)
        sealed_secrets = points.Secrets(
            seal_body(self.platform.ledger, self.platform.config, self.ring, plain, PLATFORM, self.haven, UNTIL),
            hashlib.sha256(plain).hexdigest(),
            len(plain),
        )
        point = points.new_id(self.clock, "abcdef")
        manifest = points.Manifest(
            point,
            self.clock,
            "primary",
            "0.1.0",
            "c" * 64,
            (),
            tuple(held),
            {},
            (0, None),
            dangling,
            0.0,
            sealed_secrets,
        )
        digest = hashlib.sha256(points.encode(manifest)).hexdigest()
        if vouched:
            link = chain.append(
                self.haven,
                "backups",
                point,
                self.clock,
                digest,
                signed_by,
                consistent=manifest.consistent,
                retain_until=UNTIL,
                keys=TRUSTED,
            )
            if recorded:
                file = chain.encode(link, signed_by).decode()
                body = {
                    "site": "haven",
                    "bucket": "backups",
                    "manifest_sha256": digest,
                    "link": link.seq,
                    "link_file": file,
                }
                self.platform.ledger.append("restore-point", point, body)
        points.write(self.haven, "backups", manifest)
        return point

    def find(self, trusted: Mapping[str, bytes] = TRUSTED, **wish: object) -> FoundPoints:
        return find(self.platform, Wish("haven", **wish), trusted)  # type: ignore[arg-type]

    def open(self, *, identity: age.Identity = ESCROW, **wish: object) -> OpenPoint:
        return open_point(self.find(**wish), Wish("haven", **wish), identity)  # type: ignore[arg-type]


def house() -> House:
    platform = in_memory()
    primary, haven = MemorySite("primary"), MemorySite("haven")
    for site in (primary, haven):
        for bucket in ("lake", "artifacts"):
            site.ensure_bucket(bucket, versioned=True)
    primary.ensure_bucket("backups", versioned=True)
    haven.ensure_bucket("backups", versioned=True, locked=True)
    platform = replace(platform, sites={"primary": primary, "haven": haven}, clock=lambda: NOW + timedelta(days=1))
    places = (KeyPlace(haven, "backups"), KeyPlace(primary, "backups"))
    return House(platform, primary, haven, Keyring(places, OWN, (ESCROW.recipient,), lambda: NOW))


def flip(
    site: MemorySite, bucket: str, key: str, change: Callable[[bytes], bytes] | None = None, which: int = 0
) -> None:
    """Alter a stored version where it lies, by one bit unless told otherwise: no lock speaks against it."""
    versions = site._buckets[bucket][key]
    info, body = versions[which]
    assert body
    changed = change(body) if change else body[:40] + bytes([body[40] ^ 1]) + body[41:]
    versions[which] = (info, changed)


def wipe(site: MemorySite, bucket: str, key: str) -> None:
    """Take an object away with all its versions, as an operator can."""
    del site._buckets[bucket][key]
