"""What a site must be able to do, what was proven of it, and who relies on it. Pure.

A capability that was not proven counts as missing, whatever the operator's documentation says: who relies on one asks
`missing` first, and refuses to work without it or works in the way that `without` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

Outcome = Literal["proven", "absent", "LIES", "not run"]
"""`absent`: the site refuses it openly. `LIES`: it reports success, and it is not so. `not run`: nothing is known."""
Purpose = Literal["replication", "restore points", "evidence", "job records"]
VALID = timedelta(days=30)
"""A site may change under us: a record that is older proves nothing."""


@dataclass(frozen=True)
class Capability:
    """Something that a site can be seen to do, and what Rempart does about it where it is not proven.

    `needed_by`: purposes that are refused without it.
    """

    name: str
    what: str
    without: str
    needed_by: tuple[Purpose, ...] = ()


_ALL: tuple[Purpose, ...] = get_args(Purpose)
CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "read-after-write", "a body and its absence are seen at once, by key and in a listing", "not used", _ALL
    ),
    Capability("metadata", "metadata and content type are kept with an object", "our catalogue alone holds them"),
    Capability("framing", "a body in chunks is stored without their framing", "bodies are sent whole, never in chunks"),
    Capability("private", "a request without a signature is refused", "not used: anybody could read", _ALL),
    Capability("checksum", "the SHA-256 of a write is kept, and told by HEAD", "our own metadata holds it as well"),
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
    Capability(
        "conditional replace", "If-Match refuses a put over an object that changed", "leases are not kept there"
    ),
    Capability("range", "a part of a body can be read", "a large read that breaks off begins again"),
    Capability(
        "multipart", "parts make one object, an aborted upload leaves nothing", "no object above 5 GiB is written"
    ),
    Capability(
        "wrong part refused",
        "a part that is not of its SHA-256 is refused",
        "objects that went in parts are read back before they count",
    ),
    Capability("10,000 parts", "a part may have the number 10,000", "larger parts are used: 1,000 at the most"),
    Capability("versions", "an overwritten body can be read by its version", "deletes and overwrites are final"),
    Capability("delete markers", "a delete hides and keeps, and undoing it shows again", "deletes are final"),
    Capability(
        "object lock",
        "what is locked withstands: delete, shorter time, weaker mode, bypass, versioning off",
        "nothing counts as locked",
        ("evidence", "restore points"),
    ),
    Capability(
        "bulk delete", "DeleteObjects deletes what it names, and nothing else", "objects are deleted one by one"
    ),
    Capability(
        "listing order", "keys are listed in the order of their UTF-8 bytes", "a listing is held here and sorted"
    ),
    Capability("listing pages", "pages go on where the last one ended, and they end", "not used", _ALL[:2]),
    Capability("path keys", "keys that look like folders or paths are kept apart", "they are reported, not copied"),
    Capability("escaped keys", "escapes, spaces and composed letters are kept apart", "they are reported, not copied"),
    Capability("long keys", "a key may have 1,024 bytes", "those above 255 bytes are reported, not copied"),
    Capability("tags", "tags are kept with an object", "tags are kept in our own manifest"),
    Capability("clock", "its clock and ours differ by less than a minute", "ages from its times are not trusted"),
)
"""Every one, in the order of the report."""
BY_NAME = {one.name: one for one in CAPABILITIES}


@dataclass(frozen=True)
class Proof:
    """What came out of trying one capability."""

    capability: str
    outcome: Outcome
    found: str

    def line(self) -> str:
        """The proof, readable; with what is done about it unless it is proven."""
        text = f"{self.outcome:<8} {self.capability:<20} {self.found}"
        return text if self.outcome == "proven" else f"{text}\n{'':<9}-> {BY_NAME[self.capability].without}"


@dataclass(frozen=True)
class CapabilityRecord:
    """What was proven of one site at one moment. `figures`: throughput in MB/s and the like, which prove nothing."""

    site: str
    endpoint: str
    at: datetime
    proofs: tuple[Proof, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    def outcome(self, capability: str) -> Outcome:
        return next((one.outcome for one in self.proofs if one.capability == capability), "not run")

    @property
    def lies(self) -> tuple[str, ...]:
        """What the site claims, and does not do."""
        return tuple(one.capability for one in self.proofs if one.outcome == "LIES")

    def as_json(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "endpoint": self.endpoint,
            "at": self.at.isoformat(),
            "proofs": [asdict(one) for one in self.proofs],
            "figures": dict(self.figures),
        }

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"site {self.site} ({self.endpoint})"
        yield from (one.line() for one in self.proofs)
        yield from self.purposes()

    def purposes(self) -> Iterator[str]:
        """For what the site may be used, and why not for the rest."""
        for purpose in _ALL:
            lacking = missing(self, purpose, self.at)
            yield f"{'ok' if not lacking else 'REFUSED':<8} {purpose}" + (f": {'; '.join(lacking)}" if lacking else "")


def from_json(body: Mapping[str, Any]) -> CapabilityRecord:
    """Raises KeyError, TypeError, ValueError for what is no record."""
    proofs = tuple(Proof(**one) for one in body["proofs"])
    if any(one.outcome not in get_args(Outcome) for one in proofs):
        raise ValueError("an outcome is none")
    at = datetime.fromisoformat(body["at"])
    return CapabilityRecord(body["site"], body["endpoint"], at, proofs, dict(body["figures"]))


def complete(proofs: Iterable[Proof]) -> tuple[Proof, ...]:
    """One proof of each capability, in the report's order; of what was not tried, that it was not."""
    found = {one.capability: one for one in proofs}
    return tuple(found.get(one.name, Proof(one.name, "not run", "it was not tried")) for one in CAPABILITIES)


def missing(record: CapabilityRecord | None, purpose: Purpose, now: datetime) -> tuple[str, ...]:
    """Why a site must not be used for a purpose; empty if everything that it needs was proven, and lately."""
    if record is None:
        return ("it was never probed",)
    if now - record.at > VALID:
        return (f"it was probed on {record.at:%Y-%m-%d}, more than {VALID.days} days ago",)
    return tuple(
        f"{one.name} is {record.outcome(one.name)}"
        for one in CAPABILITIES
        if purpose in one.needed_by and record.outcome(one.name) != "proven"
    )
