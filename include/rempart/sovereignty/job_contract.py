"""Read the messages that a job and the component that orders it send each other: JSON of one version of a contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rempart import canonical_json
from rempart.errors import RempartError

Message = TypeVar("Message", bound=BaseModel)
_FAULTS = 5
"""Faults of one message that an error names."""


@dataclass(frozen=True)
class Contract:
    """One version of a contract. `error`: class of what `read` raises. `renew`: remedy for another version."""

    version: int
    error: type[RempartError]
    renew: str

    def read(self, what: str, message: type[Message], body: bytes | str, hint: str) -> Message:
        """Return a message from JSON.

        `what`: name of the message in errors. `hint`: remedy for a malformed one. Raises `error` with the first faults
        and without a value of the message, also for a number that is not finite.
        """
        try:
            data = canonical_json.read(body)
            if not isinstance(data, Mapping):
                raise self.error(f"read {what}: it is not a JSON object", hint)
            if (version := data.get("version")) != self.version:
                raise self.error(
                    f"read {what}: it has version {str(version)[:20]} of the contract, but this program reads version "
                    f"{self.version}",
                    self.renew,
                )
            return message.model_validate_json(canonical_json.encode(data), strict=False)
        except ValidationError as cause:
            errors = cause.errors()[:_FAULTS]
            faults = "; ".join(f"{'.'.join(map(str, each['loc'])) or '(whole)'}: {each['msg']}" for each in errors)
            raise self.error(f"read {what}: {faults}", hint) from None  # the cause quotes values
        except ValueError as cause:  # not JSON, or a NaN in it
            why = f"it is not JSON, or a number in it is not finite ({type(cause).__name__})"
            raise self.error(f"read {what}: {why}", hint) from None
