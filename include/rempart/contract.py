"""Read a message of a contract between two programs of this project, such as a job's order: JSON of one version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rempart import canonical_json
from rempart.errors import RempartError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Contract:
    """One version of a contract. `error`: the class of error of a faulty message. `outdated`: remedy for another
    version.
    """

    version: int
    error: type[RempartError]
    outdated: str

    def read(self, what: str, model: type[M], body: bytes | str, hint: str) -> M:
        """Return a message from JSON. `what`: names it in errors. Raises the contract's error, without values."""
        try:
            data = canonical_json.read(body)
            if not isinstance(data, Mapping):
                raise self.error(f"read {what}: it is not a JSON object", hint)
            if (version := data.get("version")) != self.version:
                raise self.error(
                    f"read {what}: it has version {str(version)[:20]} of the contract, but this program reads version "
                    f"{self.version}",
                    self.outdated,
                )
            return model.model_validate_json(canonical_json.encode(data), strict=False)
        except ValidationError as cause:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or '(whole)'}: {e['msg']}" for e in cause.errors()[:5])
            raise self.error(f"read {what}: {faults}", hint) from None  # the cause quotes values
        except ValueError as cause:  # not JSON, or a NaN in it
            why = f"it is not JSON, or a number in it is not finite ({type(cause).__name__})"
            raise self.error(f"read {what}: {why}", hint) from None
