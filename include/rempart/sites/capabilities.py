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
    Capability("read-after-write", "a read and a listing show a new or deleted object at once", "not used", _ALL),
    Capability(
        "etags",
        "write, read and listing return the same ETag for one body, and another ETag for another body",
        "not used",
        _ALL,
    ),
    Capability("metadata", "an object keeps its metadata and content type", "not used", _COPIES),
    Capability(
        "framing",
        "a body sent in chunks is stored without the chunk framing",
        "no dumps are stored there",
        ("restore points",),
    ),
    Capability("private", "a request without a signature is refused", "not used: its data would be public", _ALL),
    Capability(
        "MD5 ETags",
        "the ETag of a body is its MD5; the ETag of a multipart body is derived from the MD5s of its parts",
        "an object without its writer's SHA-256 cannot be compared by ETag, so every object written there is read back",
    ),
    Capability(
        "wrong digest refused",
        "a body that does not match its SHA-256 is refused and not stored",
        "every write is read back before it counts as stored",
    ),
    Capability(
        "conditional put",
        "If-None-Match: * never replaces an object; one of several concurrent writers wins",
        "records that need exactly one writer are not kept there",
        ("evidence", "job records"),
    ),
    Capability("range", "a byte range of a body can be read", "not used: large objects are read by range", _COPIES),
    Capability(
        "multipart",
        "parts are joined into one object; an aborted upload leaves nothing",
        "not used for large objects",
        _COPIES,
    ),
    Capability(
        "wrong part refused",
        "a part that does not match its SHA-256 is refused",
        "multipart objects are read back before they count as stored",
    ),
    Capability("versions", "an overwritten body can be read by its version", "deletes are final", _LOCKED),
    Capability(
        "delete markers",
        "a delete hides the object and keeps its versions; removing the delete marker shows the object again",
        "nothing is deleted there",
    ),
    Capability(
        "object lock",
        "a locked version survives five attacks: delete, shorter retention, weaker mode, bypass, versioning "
        "switched off",
        "no object counts as locked",
        _LOCKED,
    ),
    Capability(
        "retention told",
        "the mode and end of a lock are returned as set and as extended",
        "no object counts as locked",
        _LOCKED,
    ),
    Capability(
        "listing order",
        "keys are listed in the order of their UTF-8 bytes",
        "listings are read completely and sorted here",
    ),
    Capability(
        "listing pages",
        "pages of objects and of versions continue where the last page ended, and the listing ends",
        "not used",
        _ALL,
    ),
    Capability(
        "path keys", "keys that look like folders or paths stay distinct", "such keys are reported and not copied"
    ),
    Capability(
        "escaped keys",
        "keys with escapes, spaces and composed letters stay distinct",
        "such keys are reported and not copied",
    ),
    Capability("long keys", "a key may have 1,024 bytes", "keys above 255 bytes are reported and not copied"),
    Capability("tags", "an object keeps its tags", "tags are not copied there"),
    Capability(
        "clock",
        "the clocks of the site and of this machine differ by less than a minute",
        "no object is locked there",
        _LOCKED,
    ),
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
    by_name = {proof.capability: proof for proof in proofs}
    return tuple(
        by_name.get(capability.name, Proof(capability.name, "not run", "the probe did not run"))
        for capability in CAPABILITIES
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
