"""Define the retention rules of restore points: how many are kept, the newest of each hour, day, week and month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from rempart.settings.schema import Strict


@dataclass(frozen=True)
class Period:
    """A period of which a retention rule keeps the newest restore point.

    `pattern` (strftime, UTC) gives the same text within one period; no period is longer than `longest`.
    """

    pattern: str
    longest: timedelta


class Keep(Strict):
    """Number of restore points kept of each age. A field is a retention rule; nothing else lists the rules."""

    hourly: Annotated[int, Period("%Y%m%d%H", timedelta(hours=1))] = Field(default=24, ge=1)
    daily: Annotated[int, Period("%Y%m%d", timedelta(days=1))] = Field(default=14, ge=1)
    weekly: Annotated[int, Period("%G%V", timedelta(weeks=1))] = Field(default=8, ge=0)
    monthly: Annotated[int, Period("%Y%m", timedelta(days=31))] = Field(default=12, ge=0)

    @classmethod
    def periods(cls) -> dict[str, Period]:
        """Return the period of each rule by its name, shortest first."""
        fields = cls.model_fields.items()
        return {name: entry for name, field in fields for entry in field.metadata if isinstance(entry, Period)}
