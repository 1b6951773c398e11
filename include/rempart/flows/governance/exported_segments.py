"""Manage the exported segments at their site: finish an interrupted export, detect foreign objects.

Anyone with the site's key can add objects that are named like segments. Only segments that follow the recorded exports,
or are signed by a key of the chain, count; others are skipped and reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from rempart.errors import LedgerBroken
from rempart.flows.governance import locked_evidence
from rempart.flows.governance.locked_evidence import CHECKPOINT, SEGMENT, Expected, Exports, Places
from rempart.ledger.chain import read_line
from rempart.ledger.port import Ledger
from rempart.sites.once import bodies, store_once

HOW = "Follow docs/how-to/verify-the-ledger.md, 'When it does not verify'."


@dataclass(frozen=True)
class Exported:
    """State of the export at a site: `last` record, and the keys of the newest segments.

    `segments` of an interrupted export are counted by the next one. `foreign`: keys of objects that are named like
    newer segments and hold no record of ours.
    """

    last: int
    ends: tuple[str, ...]
    segments: tuple[Expected, ...]
    foreign: tuple[str, ...]


def take_stock(exports: Exports) -> Exported:
    """Find how far the ledger is exported, and repair segments of an interrupted export.

    Raises LedgerBroken if a newer segment of ours differs from the database; IntegrityError, SiteError.
    """
    ledger, places, trusted = exports.ledger, exports.places, exports.trusted_keys()
    listed = _listed(places)
    (last, ends), segments = _on_record(ledger, places), list[Expected]()
    newest = next(iter(ledger.page(limit=1)), None)
    head = newest.seq if newest else 0
    while following := [segment for segment in listed if segment[0] == last + 1 and segment[1] <= head]:
        finished = _finished(exports, following, trusted)
        if finished is None:
            break
        segments.append(finished)
        last, ends = next(end for _, end, key in following if key == finished.key), [finished.key]
    foreign = [key for _, end, key in listed if end > last and not _agrees(ledger, places, key, end, trusted)]
    return Exported(last, tuple(ends), tuple(segments), tuple(foreign))


def store(exports: Exports, key: str, body: bytes) -> Expected:
    """Store a new segment under lock and read it back. Write it again over a foreign object of its name.

    Raises IntegrityError if a segment of ours with this name differs; SiteError.
    """
    places, retain_until = exports.places, exports.retain_until
    expected, kind = Expected("segment", key, hashlib.sha256(body).hexdigest()), locked_evidence.TYPES["segment"]
    if store_once(places.site, places.evidence, key, body, content_type=kind, retain_until=retain_until) is None:
        named, trusted = SEGMENT.fullmatch(key), exports.trusted_keys()
        first, last = (int(named[1]), int(named[2])) if named else (1, 0)
        if any(_holds(each, first, last, trusted) for _, each in bodies(places.site, places.evidence, key)):
            places.site.read(places.evidence, key, sha256=expected.sha256)  # raises if no version has this body
        locked_evidence.put(places, expected, body, retain_until)
    return expected


def tell(ledger: Ledger, places: Places, foreign: tuple[str, ...]) -> tuple[str, ...]:
    """Record foreign objects, each once. Return the new ones."""
    recorded = {str(key) for record in ledger.find("repair", "foreign") for key in record.body["keys"]}
    news = [f"{places.evidence}/{key}" for key in foreign if f"{places.evidence}/{key}" not in recorded][:100]
    if news:
        body = {"site": places.site.name, "count": len(news), "keys": news}
        ledger.append("repair", "foreign", body)
    return tuple(news)


def _listed(places: Places) -> list[tuple[int, int, str]]:
    """Return first record, last record and key of each object named like a segment, the longest first if starts are
    equal.
    """
    matches = (SEGMENT.fullmatch(info.key) for info in places.site.list(places.evidence, "ledger/"))
    listed = [(int(segment[1]), int(segment[2]), segment[0]) for segment in matches if segment]
    return sorted(
        (segment for segment in listed if 0 < segment[0] <= segment[1]), key=lambda segment: (segment[0], -segment[1])
    )


def _on_record(ledger: Ledger, places: Places) -> tuple[int, list[str]]:
    """Return the newest recorded exported record at this site, and its segments; 0 without an export."""
    for record in ledger.each("checkpoint"):
        matched = CHECKPOINT.fullmatch(record.subject)
        if matched and (record.body["site"], record.body["bucket"]) == (places.site.name, places.evidence):
            return int(matched[1]), [str(segment["key"]) for segment in record.body["segments"]]
    return 0, []


def _finished(
    exports: Exports,
    following: list[tuple[int, int, str]],
    trusted: Mapping[str, bytes],
) -> Expected | None:
    """Return the segment that equals the database among those with the same start, else one written again.

    None if a segment of ours differs: the chain is checked against it.
    """
    places, wrong = exports.places, list[tuple[Expected, bytes]]()
    for first, last, key in following:
        body = "".join(f"{line}\n" for line in locked_evidence.lines_of(exports.ledger, first, last)).encode()
        expected = Expected("segment", key, hashlib.sha256(body).hexdigest())
        ours = False
        for _, stored in bodies(places.site, places.evidence, key):
            if stored == body:
                return expected
            ours = ours or _holds(stored, first, last, trusted)
        if ours:
            continue
        wrong.append((expected, body))
    if not wrong:
        return None
    expected, body = wrong[0]
    locked_evidence.put(places, expected, body, exports.retain_until)
    return expected


def _agrees(ledger: Ledger, places: Places, key: str, last: int, trusted: Mapping[str, bytes]) -> bool:
    """Return whether an object beyond the export is ours. Raises LedgerBroken if it differs."""
    lines = locked_evidence.last_lines(places.site, places.evidence, key)
    ours = {line for line in lines if locked_evidence.is_ours(line, last, trusted)}
    present = next(iter(ledger.entries(last - 1)), None)
    if ours and (present is None or present.line not in ours):
        raise LedgerBroken(
            f"Record {last} of the ledger differs from the one in {places.evidence}/{key} at site '{places.site.name}'",
            f"The database was rewritten, or restored to an earlier point. {HOW}",
        )
    return bool(ours)


def _holds(body: bytes, first: int, last: int, trusted: Mapping[str, bytes]) -> bool:
    """Return whether a segment holds exactly these records in order, the last one signed by a key of the chain."""
    try:
        entries = [read_line(line)[0] for line in body.decode().removesuffix("\n").split("\n")]
    except ValueError:
        return False
    whole = all(
        entry.seq == number and hashlib.sha256(entry.text.encode()).hexdigest() == entry.hash
        for number, entry in enumerate(entries, first)
    )
    return whole and locked_evidence.is_ours(entries[-1].line, last, trusted)
