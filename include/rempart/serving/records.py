"""Entries as the journal holds them: one JSON object each, with what may be personal sealed apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from rempart.errors import ServingError
from rempart.serving.entries import PredictionEntry

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Sealing:
    """Seals what may be personal: `key` names the key that opens it, and `seal` needs no secret."""

    key: str
    seal: Callable[[bytes], bytes]


class JournalRecord(msgspec.Struct, frozen=True):
    """One entry of the journal.

    `private`: JSON of `inputs` and `features`, sealed if `key` names a key.
    """

    id: str
    at: datetime
    pipeline: str
    version: str
    sha256: str
    client: str
    place: str
    output: dict[str, Any]
    seconds: float
    returned: bool
    key: str
    private: bytes


class PrivateValues(msgspec.Struct, frozen=True):
    """What an entry holds of the person that it may be about: values by column of the source, and by feature."""

    inputs: dict[str, Any]
    features: dict[str, Any]


_TO_JSON = msgspec.json.Encoder(decimal_format="number")
_RECORD = msgspec.json.Decoder(JournalRecord)
_PRIVATE = msgspec.json.Decoder(PrivateValues)


def is_sampled(entry_id: str, share: float) -> bool:
    """Return whether the prediction with this id is among the logged share. Pure: each process decides alike."""
    digest = hashlib.sha256(entry_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def encode(entry: PredictionEntry, sealing: Sealing | None) -> bytes:
    """Return an entry as the journal holds it. Raises ServingError for an entry without a valid id, time or value."""
    if not _ID.fullmatch(entry.id) or entry.at.tzinfo is None:
        raise ServingError(
            f"log a prediction of '{entry.pipeline}': its id is not 32 hexadecimal digits, or its time lacks a zone",
            "Give each entry an id and a time in UTC.",
        )
    try:
        private = _TO_JSON.encode(PrivateValues(dict(entry.inputs), dict(entry.features)))
        return _TO_JSON.encode(
            JournalRecord(
                entry.id,
                entry.at,
                entry.pipeline,
                entry.version,
                entry.sha256,
                entry.client,
                entry.place,
                dict(entry.output),
                entry.seconds,
                entry.returned,
                sealing.key if sealing else "",
                sealing.seal(private) if sealing else private,
            )
        )
    except (TypeError, ValueError) as cause:  # its message may quote a value
        raise ServingError(
            f"log prediction {entry.id} of '{entry.pipeline}': a value has no form in JSON ({type(cause).__name__})",
            "Pass JSON types: text, numbers, booleans, dates and times.",
        ) from None


def decode(payload: bytes) -> JournalRecord:
    """Return an entry of the journal. Raises ValueError."""
    record: JournalRecord = _RECORD.decode(payload)
    return record


def private(opened: bytes) -> PrivateValues:
    """Return what was sealed of an entry. Raises ValueError."""
    found: PrivateValues = _PRIVATE.decode(opened)
    return found


def as_json(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON, the same for the same values."""
    return _TO_JSON.encode(dict(sorted(values.items())))
