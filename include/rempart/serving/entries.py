"""What the prediction log records of one prediction, and the port through which the scorer writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Entry:
    """One prediction.

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


class PredictionLog(Protocol):
    """Where the scorer writes entries before it answers."""

    async def write(self, entries: Sequence[Entry]) -> None:
        """Return once the entries are on disk. Raises ServingError if they cannot be written."""
