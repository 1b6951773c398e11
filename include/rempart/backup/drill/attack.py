"""Simulate an attack on restore points in memory: the backup site as an attacker would leave it. Pure.

Each poisoned point is derived from a clean one, as an attacker with the platform's rights would change it. No poisoned
point is stored. All are signed with a key that is trusted only in the simulation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rempart.backup.drill.anomalies import LEAST
from rempart.backup.points import chain, points
from rempart.backup.points.chain import Link, StoredLink
from rempart.backup.points.points import HeldObject, Manifest
from rempart.ledger.keys import Signer


@dataclass(frozen=True)
class Poison:
    """One poisoned point: the change, its link and the content of its manifest.

    If the clean point has no data for the change, `link` is None and `body` is empty.
    """

    what: str
    point: str
    link: StoredLink | None
    body: bytes


def play(clean: Manifest, last: StoredLink | None, at: datetime, insider: Signer, stranger: Signer) -> list[Poison]:
    """Return the poisoned points that follow the newest link, oldest first.

    `insider` is the trusted key, as if the attacker had the platform's; `stranger` is the attacker's own key.
    """
    played = []
    for number, (what, way, key, altered) in enumerate(
        (
            ("objects are replaced by ciphertext, then backed up", _encrypted, insider, False),
            ("the rows of the databases are deleted, then backed up", _emptied, insider, False),
            ("another version is made the champion, then backed up", _usurped, insider, False),
            ("a manifest is altered after it was signed", _unchanged, insider, True),
            ("a point is signed with another key", _unchanged, stranger, False),
        ),
        start=1,
    ):
        moment = at + timedelta(seconds=number)
        point = points.new_id(moment, f"{number:06x}")
        found = way(replace(clean, id=point, created_at=moment))
        if found is None:
            played.append(Poison(what, point, None, b""))
            continue
        body = points.encode(found)
        previous, seq = (last.hash, last.seq + 1) if last else (None, 1)
        link = Link(seq, point, moment, hashlib.sha256(body).hexdigest(), found.consistent, previous, key.id)
        last = StoredLink(seq, chain.encode(link, key))
        if altered:
            body = points.encode(replace(found, source=f"not {found.source}"))
        played.append(Poison(what, point, last, body))
    return played


def _unchanged(manifest: Manifest) -> Manifest | None:
    return manifest


def _encrypted(manifest: Manifest) -> Manifest | None:
    if len(manifest.objects) < LEAST:
        return None
    return replace(manifest, objects=tuple(_ciphertext(obj) for obj in manifest.objects))


def _ciphertext(held_object: HeldObject) -> HeldObject:
    digest = hashlib.sha256(f"ciphertext of {held_object.sha256}".encode()).hexdigest()
    return replace(
        held_object, sha256=digest, sealed=replace(held_object.sealed, sha256=digest, size=held_object.size + 256)
    )


def _emptied(manifest: Manifest) -> Manifest | None:
    if not any(dump.tables.get("public.evidence") for dump in manifest.databases if dump.name == "ledger"):
        return None
    emptied = (replace(dump, tables=dict.fromkeys(dump.tables, 0)) for dump in manifest.databases)
    return replace(manifest, databases=tuple(emptied))


def _usurped(manifest: Manifest) -> Manifest | None:
    if not manifest.champions:
        return None
    return replace(manifest, champions={name: f"{version}-none" for name, version in manifest.champions.items()})
