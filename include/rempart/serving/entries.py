"""The entries of the prediction log, and the port through which the scorer writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec


@dataclass(frozen=True)
class PredictionEntry:
    """One prediction, as the log tells it.

    `id`: 32 hexadecimal digits; an entry that is written twice counts once. `at`: when it was answered, with a time
    zone. `sha256`: of the version's model.onnx. `client`: name of the key that asked. `place`: operator, node and
    process, as the scorer knows them. `inputs`: the given values by column of the source, JSON types. `features`: what
    the model saw, by feature. `output`: the named columns of `models.predictions`. `seconds`: from the request to the
    answer. `returned`: false if the answer of a shadow was recorded, and not returned.
    """

    id: str
    at: datetime
    pipeline: str
    version: str
    sha256: str
    client: str
    place: str
    inputs: Mapping[str, Any]
    features: Mapping[str, Any]
    output: Mapping[str, Any]
    seconds: float
    returned: bool = True


class PublicPart(msgspec.Struct, frozen=True):
    """What everybody who reads the journal may know of a request. `ids` and `outputs`: of each row."""

    at: datetime
    pipeline: str
    version: str
    sha256: str
    client: str
    place: str
    seconds: float
    returned: bool
    ids: Sequence[str]
    outputs: Sequence[Mapping[str, Any]]


class PrivatePart(msgspec.Struct, frozen=True):
    """What may be about persons: of each row the inputs by column, and the features in the order of `names`."""

    inputs: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    features: Sequence[Sequence[Any]]


class PredictionGroup(msgspec.Struct, frozen=True):
    """The predictions that one version made for one request: the log writes them as one record.

    The fields mean what they do in `PredictionEntry`.
    """

    public: PublicPart
    private: PrivatePart

    def part(self, places: Sequence[int]) -> PredictionGroup:
        """Return the rows at some places."""

        def at(values: Sequence[Any]) -> list[Any]:
            return [values[place] for place in places]

        public, private, change = self.public, self.private, msgspec.structs.replace
        return PredictionGroup(
            change(public, ids=at(public.ids), outputs=at(public.outputs)),
            change(private, inputs=at(private.inputs), features=at(private.features)),
        )


def new_ids(now: datetime, random: bytes) -> list[str]:
    """Return an id for each 10 bytes of `random`: the time in milliseconds (12 digits), then the bytes.

    So an entry is found by its id without a look at those of other hours.
    """
    began, digits = f"{int(now.timestamp() * 1000):012x}", random.hex()
    return [began + digits[place : place + 20] for place in range(0, len(digits), 20)]


def new_id(now: datetime, random: bytes) -> str:
    """Return the id of one prediction, from 10 bytes of `random`."""
    return new_ids(now, random[:10])[0]


def time_of(entry_id: str) -> datetime | None:
    """Return the time in an id of `new_id`; a time that means nothing, or None, for an id that was made elsewhere."""
    try:
        return datetime.fromtimestamp(int(entry_id[:12], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


class PredictionLog(Protocol):
    """Where the scorer writes predictions before it answers."""

    async def write(self, group: PredictionGroup) -> None:
        """Return once the predictions are on disk. Raises ServingError if they cannot be written."""
