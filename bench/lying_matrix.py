"""Part of the proof against lies: store the outcome of each cell, and print the matrix for terminal and docs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.lying_ground import MOST_LISTED
from bench.lying_operations import OPERATIONS
from tests.lying import FAULTS

REFERENCE = Path("docs") / "reference" / "lying-sites.md"
NOT_REACHABLE = "not reachable"


@dataclass(frozen=True)
class Outcome:
    """Outcome of a cell at one site.

    `verdict`: refused, withstood, or the RED finding; `said`: the operation's message.
    """

    fault: str
    operation: str
    site: str
    verdict: str
    message: str = ""
    hits: int = 0
    seconds: float = 0.0

    @property
    def red(self) -> bool:
        return self.verdict.startswith("RED")

    @property
    def cell(self) -> tuple[str, str, str]:
        return self.fault, self.operation, self.site


def read(file: Path) -> list[Outcome]:
    """Return the outcomes of earlier runs; none if the file does not exist."""
    if not file.is_file():
        return []
    found = [Outcome(**cell) for cell in json.loads(file.read_text("utf-8"))["figures"]["cells"]]
    return [outcome for outcome in found if outcome.fault in FAULTS]


def write(file: Path, found: Sequence[Outcome], seconds: float) -> None:
    """Write the outcomes as the report of a proof."""
    reached = [outcome for outcome in found if outcome.verdict != NOT_REACHABLE]
    checks = [
        {
            "what": " x ".join(outcome.cell),
            "ok": not outcome.red,
            "detail": f"{outcome.verdict} {outcome.message}".strip(),
        }
        for outcome in reached
    ]
    report = {
        "name": "lying-sites",
        "ok": not any(outcome.red for outcome in found),
        "seconds": round(seconds),
        "checks": checks,
        "figures": {"cells": [asdict(outcome) for outcome in found]},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def _shown(found: Sequence[Outcome], fault: str, operation: str) -> str:
    here = [outcome for outcome in found if (outcome.fault, outcome.operation) == (fault, operation)]
    reached = sorted(
        (outcome for outcome in here if outcome.verdict != NOT_REACHABLE),
        key=lambda outcome: (not outcome.red, outcome.site),
    )
    if not here:
        return "not run"
    told = dict.fromkeys(f"**{outcome.verdict}**" if outcome.red else outcome.verdict for outcome in reached)
    return "; ".join(told) or NOT_REACHABLE


def table(found: Sequence[Outcome], *, whole: bool = False) -> str:
    """Return the matrix in Markdown: a row for each fault, a column for each operation; `whole` includes those
    without a run.
    """
    operations = [name for name in OPERATIONS if whole or any(outcome.operation == name for outcome in found)]
    rows = ["| fault | " + " | ".join(operations) + " |", "|---" * (len(operations) + 1) + "|"]
    for fault in [name for name in FAULTS if whole or any(outcome.fault == name for outcome in found)]:
        shown = (_shown(found, fault, operation) for operation in operations)
        rows.append(f"| `{fault}` {FAULTS[fault].about} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def summary(found: Sequence[Outcome]) -> str:
    reached = [outcome for outcome in found if outcome.verdict != NOT_REACHABLE]
    red = sum(outcome.red for outcome in found)
    return f"{len(reached)} cells were run, {len(found) - len(reached)} are not reachable, {red} are red"


PAGE = """# What a lying site can do

**For** engineers and officers who rely on a site that may be faulty or hostile. **Answers** which false answers of a
site Rempart refuses, withstands or repairs, as measured.

Written by `make prove-lying-sites ARGS=--page` from the last run of `make prove-lying-sites`. In CI, `make
prove-lying-sites ARGS=--quick` runs each operation with its worst faults. Each row is a fault of the tests' lying S3
site (`tests/lying`), a proxy in front of a real SeaweedFS. Each column is an operation on a small real platform. A cell
is run for each site that the operation asks; where their verdicts differ, the cell shows both.

| verdict | meaning |
|---|---|
| refused | The operation failed with an error of its own. It was green and right once the site told the truth. |
| refused, then repaired | Refused; `rempart backup repair --mark-lost` was run before it was green again. |
| withstood | The operation was green while the site lied, and the bytes at the real sites are what it claims. |
| not reachable | An honest run of the operation makes no request that the fault can answer. |
| not run | The cell was not run yet. |
| **RED false green** | The operation was green, and the bytes are not what it claims. |
| **RED traceback** | The operation ended with an exception that names neither cause nor remedy. |
| **RED endless** | The operation did not end within the limit of time. |
| **RED does not converge** | The site told the truth again, and the same operation was not green, or not right. |

The platform is small, so `most_listed` of its sites is {most:,}: listings that never end are refused there.

A green of `replicate` that says "accepted by checksum, read back due" claims no more than that: such a replica may be
wrong until it is read back, and the cell is green only if the read-back finds and heals it. `doctor` is green where it
names the fault; it need not name one that the platform never meets (P1: no upload has more than 1,000 parts)
or after which the site does what it was asked for (P4, P6, P8).

{summary}.

{table}
{red}"""


def page(found: Sequence[Outcome]) -> str:
    """Return the page of the reference."""
    red = [outcome for outcome in found if outcome.red]
    rows = (
        f"`{outcome.fault}` | {outcome.operation} | {outcome.site} | {outcome.verdict} | {_cell(outcome.message)}"
        for outcome in red
    )
    told = "".join(f"| {row} |\n" for row in rows)
    reds = f"\n## Red cells\n\n| fault | operation | site | verdict | what was told |\n|---|---|---|---|---|\n{told}"
    return PAGE.format(
        most=MOST_LISTED, summary=summary(found), table=table(found, whole=True), red=reds if red else ""
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:240]
