"""Serve the champion: a challenger in its shadow."""

from __future__ import annotations

from pydantic import Field

from rempart.settings.schema import Strict


class Serving(Strict):
    """The champion as a service."""

    shadow: bool = Field(
        default=False,
        description=(
            "Let the newest candidate that is not champion predict what the champion answers. Its predictions are "
            "logged, and never returned."
        ),
    )
