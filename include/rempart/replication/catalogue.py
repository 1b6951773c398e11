"""The catalogue of a pair: what stands at the target, verified. Gzipped JSON Lines in the target's backup bucket.

It saves work and is no proof by itself: an entry that a crash or a concurrent run loses is verified again next time.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime

from rempart.errors import IntegrityError, ObjectMissing
from rempart.replication.plan import Replica
from rempart.sites.port import Site


def catalogue_key(source: str, bucket: str) -> str:
    """Where the catalogue of one logical bucket (`lake`, `artifacts`) of one source stands."""
    return f"replication/{source}/{bucket}.jsonl.gz"


def encode(replicas: Iterable[Replica]) -> bytes:
    """One line per object, ordered by key; the same entries give the same bytes."""
    lines = [
        json.dumps(
            {**asdict(r), "modified": r.modified.isoformat(), "copied_at": r.copied_at.isoformat()},
            sort_keys=True,
            separators=(",", ":"),
        )
        for r in sorted(replicas, key=lambda r: r.key)
    ]
    return gzip.compress("\n".join(lines).encode(), compresslevel=6, mtime=0)


def decode(body: bytes) -> dict[str, Replica]:
    """Entries by key. Raises ValueError when the bytes are not a catalogue."""
    found: dict[str, Replica] = {}
    if not body:
        raise ValueError("not a catalogue: it is empty")
    try:
        lines = gzip.decompress(body).decode().split("\n")
        for line in filter(None, lines):
            entry = json.loads(line)
            for name in ("modified", "copied_at"):
                entry[name] = datetime.fromisoformat(entry[name])
            found[entry["key"]] = Replica(**entry)
    except (OSError, EOFError, zlib.error, TypeError, KeyError) as cause:
        raise ValueError(f"not a catalogue: {type(cause).__name__}") from cause
    return found


def read(site: Site, bucket: str, key: str) -> dict[str, Replica]:
    """The catalogue, checked against its recorded SHA-256; empty when there is none yet. Raises IntegrityError."""
    try:
        recorded = site.head(bucket, key).sha256
        body = site.read(bucket, key, sha256=recorded)
    except ObjectMissing:
        return {}
    try:
        return decode(body)
    except ValueError as cause:
        raise IntegrityError(
            f"{bucket}/{key} at site '{site.name}' is not a replication catalogue ({cause})",
            "Delete it: the next run verifies every object again and writes a new one.",
        ) from cause


def write(site: Site, bucket: str, key: str, replicas: Iterable[Replica]) -> None:
    """Store the catalogue in one atomic put."""
    site.write(bucket, key, encode(replicas), content_type="application/gzip")
