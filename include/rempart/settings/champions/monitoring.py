"""The section `monitoring` of a pipeline file: the window of a champion's watch, and what it allows."""

from __future__ import annotations

from pydantic import Field

from rempart.settings.schema import Duration, Strict


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
        default=0.01, ge=0, lt=1, description="Share of values outside of a category's list that is no fault."
    )
    worse: float = Field(
        default=0.25,
        gt=0,
        description="Share by which the gate's metric may be worse than on the hold-out, also in a segment.",
    )
    segments: list[str] | None = Field(
        default=None,
        description="Columns, or calendar parts such as `arrival_date.month`, whose groups are measured by themselves. "
        "Default: `gate.baseline_by`.",
    )
