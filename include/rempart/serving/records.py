"""The predictions of one request as the journal holds them: one record, in two parts of JSON.

The public part tells what was predicted, when, by which version and for which client. The private part has the inputs
and the features, which may be about a person; a sealed segment holds it encrypted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from rempart.errors import ServingError
from rempart.serving.entries import PredictionEntry, PredictionGroup, PrivatePart, PublicPart

MOST_BYTES = 15 << 20
"""Limit of a record: it fits into a frame (`serving.frames`)."""
_ID = re.compile(r"[0-9a-f]{32}")


class LoggedValues(msgspec.Struct, frozen=True):
    """What the log holds of the person that one prediction may be about: values by column, and by feature."""

    inputs: dict[str, Any]
    features: dict[str, Any]


@dataclass(frozen=True)
class EncodedGroup:
    """A group as it is written. `public`, `private`: JSON of the parts."""

    public: bytes
    private: bytes


_TO_JSON = msgspec.json.Encoder(decimal_format="number")
_PUBLIC = msgspec.json.Decoder(PublicPart)
_PRIVATE = msgspec.json.Decoder(PrivatePart)
_VALUES = msgspec.json.Decoder(LoggedValues)


def is_sampled(entry_id: str, share: float) -> bool:
    """Return whether the prediction with this id is among the logged share. Pure: each process decides alike."""
    digest = hashlib.sha256(entry_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def sampled(group: PredictionGroup, share: float) -> PredictionGroup | None:
    """Return the logged share of a group; None if no row is among it. Pure."""
    if share >= 1:
        return group if group.public.ids else None
    places = [place for place, id_ in enumerate(group.public.ids) if is_sampled(id_, share)]
    return group.part(places) if places else None


def encode(group: PredictionGroup) -> EncodedGroup:
    """Return a group as the journal holds it. Raises ServingError for one without valid ids, time or values."""
    public = group.public
    doing = f"log {len(public.ids)} predictions of '{public.pipeline}'"
    if public.at.tzinfo is None or not all(map(_ID.fullmatch, public.ids)):
        raise ServingError(
            f"{doing}: an id is not 32 hexadecimal digits, or their time lacks a zone",
            "Give each prediction an id, and a time in UTC.",
        )
    try:
        record = EncodedGroup(_TO_JSON.encode(public), _TO_JSON.encode(group.private))
    except (TypeError, ValueError, RecursionError) as cause:  # its message may quote a value
        raise ServingError(
            f"{doing}: a value has no form in JSON ({type(cause).__name__})",
            "Pass JSON types: text, numbers, booleans, dates and times.",
        ) from None
    if (size := len(record.public) + len(record.private)) > MOST_BYTES:
        raise ServingError(
            f"{doing}: their record has {size} bytes, more than {MOST_BYTES}",
            "Send fewer rows in a request, or shorter values.",
        )
    return record


def decode(public: bytes, private: bytes | None) -> list[PredictionEntry]:
    """Return the entries of a record, without inputs and features if `private` is None. Raises ValueError."""
    of: PublicPart = _PUBLIC.decode(public)
    told: PrivatePart | None = _PRIVATE.decode(private) if private is not None else None
    nothing: Sequence[Mapping[str, Any]] = [{}] * len(of.ids)
    inputs = told.inputs if told else nothing
    features = [dict(zip(told.names, row, strict=True)) for row in told.features] if told else nothing
    common = (of.at, of.pipeline, of.version, of.sha256, of.client, of.place)
    return [
        PredictionEntry(id_, *common, given, seen, output, of.seconds, of.returned)
        for id_, given, seen, output in zip(of.ids, inputs, features, of.outputs, strict=True)
    ]


def as_json(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON, the same for the same values."""
    return _TO_JSON.encode(dict(sorted(values.items())))


def values_as_json(entry: PredictionEntry) -> bytes:
    """Return inputs and features of an entry as JSON, the same for the same values."""
    return as_json({"inputs": dict(sorted(entry.inputs.items())), "features": dict(sorted(entry.features.items()))})


def values_of(body: bytes) -> LoggedValues:
    """Return what `values_as_json` made. Raises ValueError."""
    found: LoggedValues = _VALUES.decode(body)
    return found
