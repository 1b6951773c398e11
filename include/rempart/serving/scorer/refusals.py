"""The answer to a request that is refused: a status, what failed, the remedy; never a value, never a traceback."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rempart.errors import (
    DatabaseUnavailable,
    FeatureError,
    ModelRefused,
    PredictionError,
    RempartError,
    ServingError,
    TrainingError,
)


class Refused(Exception):
    """A request that gets no prediction. `status`: of HTTP."""

    def __init__(self, status: int, what: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, what, hint)
        self.status, self.what, self.hint, self.headers = status, what, hint, dict(headers or {})

    def body(self) -> bytes:
        """Return the answer's JSON. `error` is the text that the Open Inference Protocol asks for."""
        return msgspec.json.encode({"error": self.what, "remedy": self.hint})


def refused(cause: RempartError) -> Refused:
    """Return the refusal of a request that failed with an error of the platform."""
    match cause:
        case PredictionError() | TrainingError():
            return Refused(400, cause.what, cause.hint)
        case DatabaseUnavailable() | FeatureError() | ModelRefused() | ServingError():
            return Refused(503, cause.what, cause.hint, {"Retry-After": "5"})
    return Refused(503 if cause.transient else 500, cause.what, cause.hint)


def unexpected() -> Refused:
    """Return the refusal of a request that failed in a way that nobody foresaw."""
    return Refused(500, "answer the request: the scorer failed", "The scorer's log names the failure. Ask its owner.")
