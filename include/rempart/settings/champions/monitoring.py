"""The section `monitoring` of a pipeline file: the window of a champion's watch, and what it allows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from rempart.settings.schema import Duration, Strict


class Lateness(Strict):
    """Ages from which data is late. Each default follows from `schedules.ingest`; without it nothing is late."""

    rows: Duration | None = Field(
        default=None,
        description=(
            "Of the newest row, by the moment of its prediction. Default: its age when the champion was trained, and "
            "then twice the time between two ingestions, or the longest pause between rows of the last year of the "
            "training data if that is longer, at least a day."
        ),
    )
    features: Duration | None = Field(
        default=None, description="Of the last load of the feature store. Default: as that of the rows, from 0."
    )
    labels: Duration | None = Field(
        default=None,
        description="Of the newest label, by the time from which it is known. Default: as that of the rows.",
    )


class Monitoring(Strict):
    """What the champion's watch looks at, and how far it may be from the training data. The defaults need no change."""

    window: Duration = Field(
        default="90d",
        validate_default=True,
        description=(
            "How far the window reaches back from the newest row, by the date of the hold-out. No row that the "
            "champion learned from is in it."
        ),
    )
    least_rows: int = Field(
        default=200,
        ge=30,
        description="Rows below which the verdict is unknown, and a segment or month does not count.",
    )
    moved: float = Field(
        default=0.08,
        gt=0,
        lt=1,
        description=(
            "Share of rows that must have moved before a column is at fault. The movement between the months of the "
            "training data counts if it is larger."
        ),
    )
    unknown: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description=(
            "Share of values outside of a category's list that is no fault, and of rows that are not predicted because "
            "the champion does not know such a value."
        ),
    )
    worse: float = Field(
        default=0.25,
        gt=0,
        description="Share by which the gate's metric may be worse than on the hold-out, also in a segment.",
    )
    outside: float = Field(
        default=2.0,
        ge=1,
        description=(
            "Of a champion with intervals: how many times the promised share of true values may lie outside of them. "
            "With intervals of 90 %, 2 is 20 % of the rows."
        ),
    )
    segments: list[str] | None = Field(
        default=None,
        description="Columns, or calendar parts such as `arrival_date.month`, whose groups are measured by themselves. "
        "Default: `gate.baseline_by`.",
    )
    late: Lateness = Field(
        default=Lateness(), description="Ages of rows, features and labels from which the verdict is not green."
    )
    domain_classifier: Literal["off", "report", "alarm"] = Field(
        default="report",
        description=(
            "A small model that tells the window from the training data by all columns at once. `report`: it is in the "
            "record. `alarm`: the verdict is red if it tells more than earlier windows let expect."
        ),
    )

    @field_validator("domain_classifier", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: Any) -> Any:
        return "off" if given is False else given  # YAML reads `off` as false
