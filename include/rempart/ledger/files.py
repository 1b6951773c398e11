"""An export in a folder or a file, read for verification: nothing but files and public keys, no platform."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rempart.errors import LedgerError
from rempart.ledger.chain import read_line
from rempart.ledger.keys import parse_public
from rempart.ledger.verification import LedgerVerdict, verify


def public_key(given: str) -> bytes:
    """Return the public key that an option names: a file in PEM or hex, or 64 hex digits. Raises LedgerError."""
    file = Path(given)
    return parse_public(file.read_text(encoding="utf-8") if len(given) != 64 and file.is_file() else given)


def lines(files: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of the files in order."""
    for file in files:
        # whatever is no UTF-8 must come as far as verification, which names the record
        with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            yield from stream


def segments(place: Path) -> list[Path]:
    """Return the files with records: the file itself, or every .jsonl below the folder. Raises LedgerError."""
    files = sorted(place.rglob("*.jsonl"), key=lambda file: file.name) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise LedgerError(
            f"read the export: there is none at {place}", "Pass the folder of an export, or one of its .jsonl files."
        )
    return files


def checkpoints(place: Path) -> dict[str, str]:
    """Return the checkpoints below a folder, by file name. Raises LedgerError without any."""
    files = {str(file.relative_to(place)): file for file in sorted(place.rglob("*.json"))}
    if not files:
        raise LedgerError(
            f"read the checkpoints: there is none in {place}",
            "Copy the checkpoints from the second operator's locked bucket. If it has none yet, start the DAG "
            "export_evidence in Airflow, then export again. To verify the records alone, pass the export's folder "
            "`ledger`: a removed end is not found then.",
        )
    return {name: file.read_text(encoding="utf-8", errors="surrogateescape") for name, file in files.items()}


def verify_files(place: Path, trusted: Sequence[str], witnesses: Path | None) -> LedgerVerdict:
    """Verify an export; `witnesses` is the folder of checkpoints (default: the export's own). Raises LedgerError.

    A segment or checkpoint may have several copies, each in its own folder. A damaged copy is skipped if another is
    intact.
    """
    own = place / "checkpoints"
    folder = witnesses or (own if own.is_dir() else None)
    seen: Mapping[str, str] = checkpoints(folder) if folder else {}
    whole, damaged = _copies(segments(place))
    verdict = verify(lines(whole), [public_key(pem) for pem in trusted], seen)
    return replace(verdict, damaged=(*verdict.damaged, *damaged))


def _copies(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the files to read, and the damaged files that have an intact copy."""
    named: dict[str, list[Path]] = {}
    for file in files:
        named.setdefault(file.name, []).append(file)
    taken: list[Path] = []
    damaged: list[str] = []
    for copies in named.values():
        whole = [file for file in copies if len(copies) == 1 or all(map(_is_whole, lines([file])))]
        damaged += [str(file) for file in copies if whole and file not in whole]
        taken += whole or copies
    return taken, damaged


def _is_whole(line: str) -> bool:
    """Return whether a line of an export matches its hash."""
    try:
        entry, _ = read_line(line.rstrip("\n"))
    except ValueError:
        return False
    return hashlib.sha256(entry.text.encode()).hexdigest() == entry.hash


def report(verdict: LedgerVerdict) -> Iterator[str]:
    """Yield the result of a verification for people."""
    yield f"records      {verdict.records}" + (f", {verdict.first_at} to {verdict.last_at}" if verdict.records else "")
    for use in verdict.keys:
        yield f"key          {use.id}, since record {use.since}, signed {use.records}: {use.public}"
    if verdict.checkpoints:
        after, to = verdict.records - verdict.covered, verdict.covered
        yield (
            f"checkpoints  {verdict.checkpoints}; the newest matching one covers record {to}, records after it: {after}"
        )
    else:
        yield (
            "checkpoints  none, so a removed end of the chain, or a history rewritten with the key, cannot be detected"
        )
    for name in verdict.damaged:
        yield f"damaged      {name}: skipped, because another copy is intact. Ask the operator of that site"
    if broken := verdict.broken:
        yield from f"verdict      BROKEN: {broken.error()}".split("\n")
    else:
        yield f"verdict      every record verifies; the last is {verdict.hash}"
