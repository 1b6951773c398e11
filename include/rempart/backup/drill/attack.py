"""Simulate an attack on restore points in memory: the backup site as an attacker would leave it. Pure.

Each poisoned point is derived from a clean one, as somebody with the platform's rights would leave it. None is stored,
and all are signed with a key that is trusted only in the simulation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rempart.backup.drill.anomalies import LEAST
from rempart.backup.points import chain, points
from rempart.backup.points.chain import Link, Stored
from rempart.backup.points.points import HeldObject, Manifest
from rempart.ledger.keys import Signer


@dataclass(frozen=True)
class Poison:
    """One poisoned point: what was done, its link and what stands as its manifest.

    Where the clean point has nothing to do it to, `link` is None and `body` is empty.
    """

    what: str
    point: str
    link: Stored | None
    body: bytes


def play(clean: Manifest, last: Stored | None, at: datetime, insider: Signer, stranger: Signer) -> list[Poison]:
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
        last = Stored(seq, chain.encode(link, key))
        if altered:
            body = points.encode(replace(found, source=f"not {found.source}"))
        played.append(Poison(what, point, last, body))
    return played


def _unchanged(found: Manifest) -> Manifest | None:
    return found


def _encrypted(found: Manifest) -> Manifest | None:
    if len(found.objects) < LEAST:
        return None
    return replace(found, objects=tuple(_ciphertext(one) for one in found.objects))


def _ciphertext(one: HeldObject) -> HeldObject:
    digest = hashlib.sha256(f"ciphertext of {one.sha256}".encode()).hexdigest()
    return replace(one, sha256=digest, sealed=replace(one.sealed, sha256=digest, size=one.size + 256))


def _emptied(found: Manifest) -> Manifest | None:
    if not any(dump.tables.get("public.evidence") for dump in found.databases if dump.name == "ledger"):
        return None
    emptied = (replace(dump, tables=dict.fromkeys(dump.tables, 0)) for dump in found.databases)
    return replace(found, databases=tuple(emptied))


def _usurped(found: Manifest) -> Manifest | None:
    if not found.champions:
        return None
    return replace(found, champions={name: f"{version}-none" for name, version in found.champions.items()})
