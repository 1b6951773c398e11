"""Define the capabilities of a site, their proofs, and the purposes that need them. Pure.

An unproven capability counts as missing, whatever the operator's documentation says: code that needs one calls
`missing` first, and refuses to work without it or uses the way in `without`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

Outcome = Literal["proven", "absent", "claims it, does not do it", "not run"]
"""`absent`: the site refuses it openly. `claims it, does not do it`: it reports success, and that is not true.
`not run`: nothing is known, for example because the site was busy."""
CLAIMED: Outcome = "claims it, does not do it"
Purpose = Literal["replication", "restore points", "evidence", "job records"]
VALID = timedelta(days=30)
"""A site may change under us: a record that is older proves nothing."""


@dataclass(frozen=True)
class Capability:
    """A capability of a site, and what Rempart does if it is not proven.

    `needed_by`: purposes that are refused without it.
    """

    name: str
    what: str
    without: str
    needed_by: tuple[Purpose, ...] = ()


_ALL: tuple[Purpose, ...] = get_args(Purpose)
_COPIES: tuple[Purpose, ...] = ("replication", "restore points")
_LOCKED: tuple[Purpose, ...] = ("restore points", "evidence")
CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "read-after-write", "a body and its absence are seen at once, by key and in a listing", "not used", _ALL
    ),
    Capability(
        "etags",
        "the answers to a write, a read and a listing tell the same ETag, another for another body",
        "not used",
        _ALL,
    ),
    Capability("metadata", "metadata and content type are kept with an object", "not used", _COPIES),
    Capability("framing", "a body in chunks is stored without their framing", "no dumps there", ("restore points",)),
    Capability("private", "a request without a signature is refused", "not used: anybody could read", _ALL),
    Capability(
        "MD5 ETags",
        "the ETag of a body is its MD5, of one in parts that of their MD5s",
        "objects without their writer's SHA-256 are compared with no ETag; what is put there is read back",
    ),
    Capability(
        "wrong digest refused",
        "a body that is not of its SHA-256 is refused, and not stored",
        "every write is read back before it counts",
    ),
    Capability(
        "conditional put",
        "If-None-Match: * never replaces an object, and of several at once one wins",
        "records that only one may write are not kept there",
        ("evidence", "job records"),
    ),
    Capability("range", "a part of a body can be read", "not used: large objects are read in parts", _COPIES),
    Capability(
        "multipart",
        "parts make one object, an aborted upload leaves nothing",
        "not used for large objects",
        _COPIES,
    ),
    Capability(
        "wrong part refused",
        "a part that is not of its SHA-256 is refused",
        "objects that went in parts are read back before they count",
    ),
    Capability("versions", "an overwritten body can be read by its version", "deletes are final", _LOCKED),
    Capability("delete markers", "a delete hides and keeps, and undoing it shows again", "nothing is deleted there"),
    Capability(
        "object lock",
        "a locked version withstands: delete, shorter time, weaker mode, bypass, versioning off",
        "nothing counts as locked",
        _LOCKED,
    ),
    Capability(
        "retention told",
        "mode and end of a lock can be read, as they were set and as they were extended",
        "nothing counts as locked",
        _LOCKED,
    ),
    Capability(
        "listing order", "keys are listed in the order of their UTF-8 bytes", "a listing is held here and sorted"
    ),
    Capability(
        "listing pages",
        "pages of objects and of versions go on where the last one ended, and they end",
        "not used",
        _ALL,
    ),
    Capability("path keys", "keys that look like folders or paths are kept apart", "they are reported, not copied"),
    Capability("escaped keys", "escapes, spaces and composed letters are kept apart", "they are reported, not copied"),
    Capability("long keys", "a key may have 1,024 bytes", "those above 255 bytes are reported, not copied"),
    Capability("tags", "tags are kept with an object", "tags are not copied there"),
    Capability("clock", "its clock and ours differ by less than a minute", "nothing is locked there", _LOCKED),
)
"""All capabilities, in the order of the report."""
BY_NAME = {capability.name: capability for capability in CAPABILITIES}


@dataclass(frozen=True)
class Proof:
    """Outcome of probing one capability."""

    capability: str
    outcome: Outcome
    found: str

    def line(self) -> str:
        """Return the proof as text; unless proven, with the purposes that need it and the alternative."""
        text = f"{self.outcome:<8} {self.capability:<20} {self.found}"
        if self.outcome == "proven":
            return text
        about = BY_NAME[self.capability]
        return f"{text}\n{'':<9}needed by: {', '.join(about.needed_by) or 'nobody'} -> {about.without}"


@dataclass(frozen=True)
class CapabilityRecord:
    """Proven capabilities of one site at one moment.

    `figures`: throughput in MB/s and the like, which prove nothing.
    """

    site: str
    endpoint: str
    at: datetime
    proofs: tuple[Proof, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    def outcome(self, capability: str) -> Outcome:
        return next((proof.outcome for proof in self.proofs if proof.capability == capability), "not run")

    @property
    def false_claims(self) -> tuple[str, ...]:
        """Return the capabilities that the site claims but does not have."""
        return tuple(proof.capability for proof in self.proofs if proof.outcome == CLAIMED)

    def as_json(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "endpoint": self.endpoint,
            "at": self.at.isoformat(),
            "proofs": [asdict(proof) for proof in self.proofs],
            "figures": dict(self.figures),
        }

    def lines(self) -> Iterator[str]:
        """Return the report."""
        yield f"site {self.site} ({self.endpoint})"
        yield from (proof.line() for proof in self.proofs)
        yield from self.purposes()

    def purposes(self) -> Iterator[str]:
        """Return the purposes that the site may be used for, and why not for the others."""
        for purpose in _ALL:
            lacking = missing(self, purpose, self.at)
            yield f"{'ok' if not lacking else 'REFUSED':<8} {purpose}" + (f": {'; '.join(lacking)}" if lacking else "")


def from_json(body: Mapping[str, Any]) -> CapabilityRecord:
    """Return a record from JSON. Raises KeyError, TypeError, ValueError for an invalid record."""
    proofs = tuple(Proof(**proof) for proof in body["proofs"])
    if any(proof.outcome not in get_args(Outcome) for proof in proofs):
        raise ValueError("an outcome is none")
    at = datetime.fromisoformat(body["at"])
    return CapabilityRecord(body["site"], body["endpoint"], at, proofs, dict(body["figures"]))


def complete(proofs: Iterable[Proof]) -> tuple[Proof, ...]:
    """Return one proof of each capability, in the report's order; untried ones are `not run`."""
    found = {proof.capability: proof for proof in proofs}
    return tuple(
        found.get(capability.name, Proof(capability.name, "not run", "it was not tried")) for capability in CAPABILITIES
    )


def undecided(record: CapabilityRecord, purpose: Purpose) -> bool:
    """Return whether a purpose needs an untried capability and no missing one: probe again."""
    outcomes = {record.outcome(capability.name) for capability in CAPABILITIES if purpose in capability.needed_by}
    return "not run" in outcomes and outcomes <= {"not run", "proven"}


def missing(record: CapabilityRecord | None, purpose: Purpose, now: datetime) -> tuple[str, ...]:
    """Return why a site must not be used for a purpose; empty if all needed capabilities were proven recently."""
    if record is None:
        return ("it was never probed",)
    if now - record.at > VALID:
        return (f"it was probed on {record.at:%Y-%m-%d}, more than {VALID.days} days ago",)
    return tuple(
        f"{capability.name}: {record.outcome(capability.name)}"
        for capability in CAPABILITIES
        if purpose in capability.needed_by and record.outcome(capability.name) != "proven"
    )
