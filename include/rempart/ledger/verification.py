"""Verify a chain of evidence without the platform: pure, in one pass, from public keys and checkpoints alone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rempart.errors import LedgerBroken
from rempart.ledger.chain import Checkpoint, Head, read_checkpoint, read_line
from rempart.ledger.keys import from_base64, is_signed, key_id, to_base64

LOCKED = (
    "Take the checkpoints from the locked bucket, by their object versions, because a newer version may "
    "hide the original."
)
COPY = "Compare this export with the locked objects of bucket `evidence`; see docs/how-to/verify-the-ledger.md."


@dataclass(frozen=True)
class Broken:
    """The first thing that does not verify: the record's number (0: none in particular), what is wrong, what to do."""

    seq: int
    what: str
    remedy: str

    def error(self) -> LedgerBroken:
        where = f"Record {self.seq} of the ledger" if self.seq else "The ledger"
        return LedgerBroken(f"{where}: {self.what}", self.remedy)


@dataclass
class KeyUse:
    """A key of the chain (`public` as `keys.to_base64` writes it), since which record, and how many it signed."""

    id: str
    public: str
    since: int
    records: int = 0


@dataclass(frozen=True)
class LedgerVerdict:
    """Result of a verification, up to the first broken record if any.

    `covered` is the newest record under a checkpoint. Later records are signed and chained, but an attacker with the
    database and the key could still replace them. `damaged`: skipped files with an intact copy of the same name.
    """

    records: int
    first_at: str
    last_at: str
    hash: str | None
    keys: tuple[KeyUse, ...]
    checkpoints: int
    covered: int
    broken: Broken | None
    damaged: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.broken is None


@dataclass
class Chain:
    """A chain during its verification, line after line. `trusted` are the ids of keys that may start it."""

    trusted: frozenset[str]
    head: Head = field(default_factory=Head)
    keys: list[KeyUse] = field(default_factory=list)
    first_at: str = ""
    last_at: str = ""
    _digests: bytearray = field(default_factory=bytearray)

    def take(self, line: str) -> Broken | None:
        """Take the next line, or return what is wrong with it. A line may come again unchanged."""
        expected = self.head.seq + 1
        try:
            entry, record = read_line(line)
        except ValueError as fault:
            return Broken(expected, str(fault), COPY)
        data = entry.text.encode()
        digest = hashlib.sha256(data)
        if digest.hexdigest() != entry.hash:
            return Broken(entry.seq, "its SHA-256 differs from the stored one: the record was changed", COPY)
        if 1 <= entry.seq <= self.head.seq and len(self._digests) == 32 * self.head.seq:
            if digest.digest() == self._digests[32 * (entry.seq - 1) : 32 * entry.seq]:
                return None
            return Broken(entry.seq, "two different records have this number: history was rewritten", COPY)
        if entry.seq != expected:
            return Broken(expected, f"it is missing; record {entry.seq} is in its place", COPY)
        if record["prev"] != self.head.hash:
            return Broken(expected, "it does not follow the record before it: its prev is another hash", COPY)
        if broken := self._check_signature(record, base64.b64decode(entry.sig), data):
            return broken
        self.first_at, self.last_at = self.first_at or record["at"], record["at"]
        self._digests += digest.digest()
        self.head = Head(entry.seq, entry.hash, self.keys[-1].id)
        return None

    def _check_signature(self, record: Mapping[str, Any], signature: bytes, data: bytes) -> Broken | None:
        seq, key, public = record["seq"], record["key"], _introduced(record)
        if not self.keys:
            if public is None or key != record["subject"]:
                return Broken(seq, "it is the first record and does not introduce the key that signs it", COPY)
            if key not in self.trusted:
                what = f"the chain starts with key {key[:64]!r}, which you do not trust"
                return Broken(seq, what, "Pass the public key that you received when the ledger was started.")
            self.keys.append(KeyUse(key, to_base64(public), seq))
        signing = self.keys[-1]
        if key != signing.id:
            what = (
                f"it is signed with key {key[:64]!r}, but key {signing.id} signs since record {signing.since}, "
                "and no record introduces another key"
            )
            return Broken(seq, what, COPY)
        if not is_signed(from_base64(signing.public) or b"", signature, data):
            return Broken(seq, f"its signature does not match key {signing.id}", COPY)
        signing.records += 1
        if record["kind"] == "key" and seq > signing.since:
            if public is None:
                return Broken(seq, "it introduces a key whose id does not match its public half", COPY)
            self.keys.append(KeyUse(record["subject"], to_base64(public), seq))
        return None


def _introduced(record: Mapping[str, Any]) -> bytes | None:
    """Return the public half that a record of kind `key` introduces under its true id, else None."""
    public = from_base64(record["body"].get("public"))
    if record["kind"] != "key" or public is None or key_id(public) != record["subject"]:
        return None
    return public


def _unsigned(checkpoint: Checkpoint, chain: Chain) -> Broken | None:
    """Return whether the chain's key at its record did not sign a checkpoint."""
    known = {use.id: use for use in chain.keys}
    signing = known.get(checkpoint.key) if checkpoint.seq > chain.head.seq else chain.keys[-1]
    if (
        signing is None
        or signing.id != checkpoint.key
        or not is_signed(from_base64(signing.public) or b"", base64.b64decode(checkpoint.sig), checkpoint.text.encode())
    ):
        what = "is not signed with the chain's key at that record: it is forged, or belongs to another chain"
        return Broken(checkpoint.seq, f"checkpoint {checkpoint.name} {what}", LOCKED)
    return None


def _against(checkpoint: Checkpoint, chain: Chain) -> Broken | None:
    """Return what is wrong between a signed checkpoint and the chain at its record, or after its end."""
    where = f"checkpoint {checkpoint.name}"
    if checkpoint.seq > chain.head.seq:
        what = f"it is missing: {where} covers it, but the chain ends at record {chain.head.seq} (its end was removed)"
        return Broken(chain.head.seq + 1, what, COPY)
    if checkpoint.hash != chain.head.hash:
        what = f"it differs from the record that {where} covers: history was rewritten after that checkpoint was locked"
        return Broken(checkpoint.seq, what, COPY)
    return None


@dataclass
class _Witnesses:
    """Checkpoints compared with the chain as it is read. Checkpoints of one name are copies of the same statement.

    A copy without a valid signature breaks the chain unless another copy of its name matches. A signed copy that
    differs always breaks it.
    """

    waiting: list[Checkpoint]
    doubtful: dict[str, Broken]
    agreed: set[str] = field(default_factory=set)
    covered: int = 0

    def look(self, chain: Chain, *, ended: bool = False) -> Broken | None:
        """Hold those against the chain that it has reached, or with `ended` all that are left."""
        while self.waiting and (ended or self.waiting[-1].seq <= chain.head.seq):
            witness = self.waiting.pop()
            if unsigned := _unsigned(witness, chain):
                self.doubtful[witness.name] = unsigned
            elif broken := _against(witness, chain):
                return broken
            else:
                self.agreed.add(_stem(witness.name))
                self.covered = chain.head.seq
        return None

    def damaged(self) -> tuple[str, ...]:
        return tuple(sorted(name for name in self.doubtful if _stem(name) in self.agreed))

    def broken(self) -> Broken | None:
        left = [broken for name, broken in self.doubtful.items() if _stem(name) not in self.agreed]
        return min(left, key=lambda witness: witness.seq, default=None)


def _witnesses(checkpoints: Mapping[str, str]) -> _Witnesses:
    witnesses = _Witnesses([], {})
    for name, text in checkpoints.items():
        try:
            witnesses.waiting.append(read_checkpoint(name, text))
        except ValueError as fault:
            witnesses.doubtful[name] = Broken(0, f"checkpoint {name}: {fault}", LOCKED)
    witnesses.waiting.sort(key=lambda witness: witness.seq, reverse=True)
    return witnesses


def _stem(name: str) -> str:
    return name.rpartition("/")[2]


def verify(lines: Iterable[str], trusted: Iterable[bytes], checkpoints: Mapping[str, str]) -> LedgerVerdict:
    """Verify a chain from its first record, with the public keys (32 bytes each) that may start it. Pure; streams.

    `lines` are in the order of their numbers; overlapping segments may repeat a line. `checkpoints` are the contents of
    checkpoint objects by name. All must match, except a damaged copy of a matching one (the same name below another
    folder). Keeps 32 bytes for each record.
    """
    chain = Chain(frozenset(key_id(public) for public in trusted))
    witnesses = _witnesses(checkpoints)
    broken = None
    for line in lines:
        if not line.strip():
            continue
        if broken := chain.take(line.rstrip("\n")) or witnesses.look(chain):
            break
    if not broken and not chain.head.seq:
        broken = Broken(1, "it is missing: the chain has no record", COPY)
    elif not broken:
        broken = witnesses.look(chain, ended=True)
    return LedgerVerdict(
        chain.head.seq,
        chain.first_at,
        chain.last_at,
        chain.head.hash,
        tuple(chain.keys),
        len({_stem(name) for name in checkpoints}),
        witnesses.covered,
        broken or witnesses.broken(),
        witnesses.damaged(),
    )
