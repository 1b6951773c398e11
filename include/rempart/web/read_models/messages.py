"""Words of the read models that have no language yet: a sentence by its code, and how good a thing is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from rempart.web.facts import CockpitFacts

State = Literal["good", "warning", "unknown", "bad"]
"""States from best to worst. An unknown is never good."""
_ORDER: tuple[State, ...] = ("good", "warning", "unknown", "bad")
STALE = timedelta(minutes=5)
"""Facts older than this are not shown as present, because reading new facts takes long, or fails."""


@dataclass(frozen=True)
class Message:
    """A sentence: its code in `rempart.web.wording`, and its parameters. Names that end in `seconds` are durations."""

    code: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """Time when the facts of a page were gathered, their age, and the sources that failed, with the reason."""

    gathered_at: datetime
    age_seconds: float
    stale: bool
    unknown: Mapping[str, str]

    @property
    def silent(self) -> dict[str, tuple[str, ...]]:
        """Return the failed sources by reason, so that each reason is shown once."""
        found: dict[str, tuple[str, ...]] = {}
        for source, why in self.unknown.items():
            found[why] = (*found.get(why, ()), source)
        return found


def moment(facts: CockpitFacts, now: datetime) -> Moment:
    """Return the moment of a page that is made of these facts now."""
    age = max(now - facts.at, timedelta())
    return Moment(facts.at, round(age.total_seconds(), 1), age > STALE, facts.unknown())


def worst(states: Iterable[State]) -> State:
    """Return the worst of several states; unknown for none."""
    found = list(states)
    return max(found, key=_ORDER.index) if found else "unknown"
