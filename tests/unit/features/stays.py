"""A small pipeline for tests: stays of guests of some houses, with everything that a feature view can have."""

from __future__ import annotations

from typing import Any

from rempart.settings.pipeline import ModelPipeline


def stays(name: str = "stays", **changes: Any) -> ModelPipeline:
    """The pipeline; `changes` replace its top-level sections."""
    sections: dict[str, Any] = {
        "name": name,
        "classification": "personal",
        "source": {"prefix": "stays/"},
        "key": ["stay"],
        "moments": {"booking": {"column": "arrival", "minus_days": "lead"}, "arrival": {"column": "arrival"}},
        "partition_by": "arrival",
        "schema": {
            "stay": {"type": "integer", "known": "booking"},
            "price": {"type": "number", "known": "booking"},
            "nights": {"type": "integer", "known": "booking", "nullable": True},
            "lead": {"type": "integer", "known": "booking"},
            "house": {"type": "string", "known": "booking", "nullable": True},
            "room": {"type": "string", "known": "booking"},
            "returning": {"type": "boolean", "known": "booking", "nullable": True},
            "arrival": {"type": "date", "known": "booking"},
        },
        "features": {
            "stay": {
                "kind": "row",
                "at": "booking",
                "columns": ["nights", "returning", "room"],
                "calendar": {"arrival": ["month", "day_of_week"]},
            },
            "trend": {
                "kind": "trailing",
                "at": "booking",
                "by": ["house"],
                "days": [3, 10],
                "mean": ["price", "nights"],
            },
            "rooms": {"kind": "trailing", "at": "booking", "by": ["house", "room"], "days": [5], "mean": ["price"]},
        },
        "prediction": {"target": "price", "task": "regression", "at": "booking"},
        "holdout": {"column": "arrival", "last": "30d"},
        "gate": {"metric": "mae", "limit": 25.0, "baseline_by": ["room", "arrival.month"]},
    }
    return ModelPipeline.model_validate(sections | changes)
