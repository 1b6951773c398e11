"""Count how often held-out rows were opened to measure a model: each look at them makes the next figure worth less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rempart.ledger.port import Ledger

Reason = Literal["registration", "gate", "reproduction"]
"""Why held-out rows are opened: to measure a new version, to judge one beside the champion, or to train one again and
compare.
"""


def record(
    ledger: Ledger, pipeline: str, held_out: Mapping[str, Any], why: Reason, job: str, versions: Sequence[str]
) -> int:
    """Write evidence that held-out rows are about to be opened. Return how often they were by then, this time included.

    `held_out`: the rows on record. They count as the same with other features, because a person who changes these
    after a look at a figure has learned from it. `job`: the job whose training set they are of; `versions`: those that
    are measured, empty for a job that has none yet. An opening counts even if the measurement fails.
    """
    examples, bodies = str(held_out["examples"]), [found.body for found in ledger.find("opening", pipeline)]
    known = [int(body["opening"]) for body in bodies if body["examples"] == examples]
    number = 1 + max(len(known), *known, 0)  # a record that was altered or deleted counts too, if a later one is there
    told: Mapping[str, Any] = {
        "held_out": str(held_out["sha256"]),
        "examples": examples,
        "opening": number,
        "why": why,
        "job_id": job,
        "versions": list(versions),
    }
    ledger.append("opening", pipeline, told)
    return number
