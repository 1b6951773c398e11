"""Serve the champion: the log of its predictions, in the pipeline file, and the folder of the log on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from rempart.settings.config import var_dir
from rempart.settings.schema import Strict


class LogRules(Strict):
    """What the prediction log keeps of the predictions of a pipeline."""

    sample: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description=(
            "Share of the predictions that are logged, chosen by their id. A high-risk system in the sense of the AI "
            "Act logs all: 1.0."
        ),
    )
    keep_days: int = Field(
        default=183,
        ge=1,
        le=36_500,
        description=(
            "Days after which entries are deleted. Six months is the least for a high-risk system (AI Act, article 26)."
        ),
    )


class Serving(Strict):
    """The champion as a service."""

    shadow: bool = Field(
        default=False,
        description=(
            "Let the newest candidate that is not champion predict what the champion answers. Its predictions are "
            "logged, and never returned."
        ),
    )
    log: LogRules = Field(default=LogRules(), description="Which predictions are logged, and how long they are kept.")


def log_folder() -> Path:
    """Return the folder of the prediction log on this machine: `REMPART_PREDICTION_LOG`, else in the state folder."""
    return Path(os.environ.get("REMPART_PREDICTION_LOG") or var_dir() / "prediction-log")
