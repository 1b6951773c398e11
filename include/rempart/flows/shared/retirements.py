"""Evidence of retired versions of models, and the check that keeps them from use.

A retirement has the states `began` (it names what goes, by SHA-256) and `ended`. From `began` on nobody may use the
version, because its files go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from rempart.errors import ModelRefused
from rempart.flows.shared import removals
from rempart.ledger.port import Evidence, Ledger

State = Literal["began", "ended"]
UNREAD = "why is not known: its first record was altered, deleted, or is older than those that are read"


@dataclass(frozen=True)
class Retirement:
    """The retirement of a version. `began`: evidence of what goes, and why; `ended`: evidence of the deletion.

    `ended` also stands for `began` if that record is not read.
    """

    version: str
    why: str
    at: datetime
    began: Evidence
    ended: Evidence | None = None


def retirements(records: Iterable[Evidence]) -> dict[str, Retirement]:
    """Return the newest retirement of each version of one model. Pure. `records`: of kind `retirement`."""
    found = dict[str, Retirement]()
    for record in sorted(records, key=lambda record: record.seq):
        version, known = str(record.body["version"]), None
        match cast(State, record.body["state"]):
            case "began":
                known = Retirement(version, str(record.body["why"]), record.at, record)
            case "ended":
                begun = found.get(version) or Retirement(version, UNREAD, record.at, record)
                known = Retirement(version, begun.why, begun.at, begun.began, record)
        if known:
            found[version] = known
    return found


def on_record(ledger: Ledger, model: str) -> dict[str, Retirement]:
    """Return the retirement of each version since the pipeline was last removed. Raises LedgerError."""
    records = ledger.find("retirement", model)
    return retirements(removals.since(records, removals.removal_of(ledger, model)))


def check_kept(ledger: Ledger, model: str, version: str, doing: str) -> None:
    """Check that a version was not retired. `doing`: what the caller does with it. Raises ModelRefused."""
    if found := on_record(ledger, model).get(version):
        raise ModelRefused(
            f"{doing}: version {version} of model {model} was retired on {found.at:%Y-%m-%d} "
            f"(evidence {found.began.seq}: {found.why}), and its files were deleted",
            f"Choose another version: `rempart model show {model}`. To get such a model again, train it: "
            f"`rempart pipeline run {model} --follow`.",
        )


def body(version: str, state: State, **more: Any) -> dict[str, Any]:
    """Return the body of a record of kind `retirement`."""
    return {"version": version, "state": state, **more}
