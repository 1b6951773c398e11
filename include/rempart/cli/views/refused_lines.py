"""Look up the lines of a delivery's refused rows in its quarantine at the active site. No text of a row is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rempart.flows.shared import time_limit
from rempart.ingestion.acceptance import HELD
from rempart.sites.port import Site
from rempart.web.read_models.quarantine import Delivery

AT_MOST = 10.0
"""Seconds for the whole look."""
DELIVERIES = 20
"""Deliveries that are looked up, the newest."""
SHOWN = 5
"""Lines of one reason."""
Places = Mapping[str, Sequence[int]]
"""The first lines of the rows with each reason."""


@dataclass(frozen=True)
class RefusedLines:
    """Lines by SHA-256 of a delivery and reason; of a delivery that is not there, its lines are not known. `silent`:
    why the look has no result."""

    places: Mapping[str, Places] = field(default_factory=dict)
    silent: str | None = None


def look(
    open_lake: Callable[[], tuple[Site, str]], pipeline: str, found: Sequence[Delivery], seconds: float = AT_MOST
) -> RefusedLines:
    """Return the lines of the newest of these deliveries. `open_lake`: the active site and the lake's bucket."""
    if not found:
        return RefusedLines()
    answer = time_limit.answers({"site": lambda: _places(*open_lake(), pipeline, found)}, seconds)["site"]
    if not isinstance(answer, BaseException):
        return RefusedLines(answer)
    return RefusedLines(silent=time_limit.reason(answer))


def _places(site: Site, bucket: str, pipeline: str, found: Sequence[Delivery]) -> dict[str, Places]:
    from rempart.errors import ObjectMissing
    from rempart.ingestion import landing

    places: dict[str, Places] = {}
    for delivery in found[:DELIVERIES]:
        key = landing.quarantine_key(pipeline, delivery.sha256, delivery.again)
        try:
            with landing.refused_lines(site, bucket, key) as lines:
                places[delivery.sha256] = first(lines, delivery.reasons)
        except ObjectMissing:
            continue
    return places


def first(rows: Iterable[tuple[int, str]], reasons: Iterable[str]) -> Places:
    """Return the first lines of each reason, from pairs of a line and its reasons as one text. Pure."""
    wanted = {reason: list[int]() for reason in reasons if reason != HELD}
    for line, told in rows:
        for reason, lines in wanted.items():
            if len(lines) < SHOWN and f"; {reason}; " in f"; {told}; ":
                lines.append(line)
    return wanted
