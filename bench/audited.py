"""Part of the proof in containers: run the platform's audit inside, and accept only the findings of a trial.

Three findings are not faults of the containers: parts that a trial on one machine does not have, and facts that only
its owner can look up. The proof's rempart.yaml accepts them until tomorrow, as an owner would. Any other finding above
`low` fails the audit, and with it the proof.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

OF_A_TRIAL = {
    "policy/one-infrastructure": "both sites of the trial run on this machine",
    "vulnerabilities/not-checked-database": "the trial has no mirror of the advisories",
    "vulnerabilities/not-checked-inside-wheels": "who runs the trial looks up the servers inside the wheels",
}
INSIDE = "/opt/rempart/rempart.yaml"


class Containers(Protocol):
    """What is asked of the proof's containers."""

    def run(self, *words: str, timeout: float = ...) -> Any: ...


def exceptions() -> list[dict[str, Any]]:
    """Entries of `audit.exceptions` for the findings of a trial."""
    until = datetime.now(UTC).date() + timedelta(days=1)
    return [
        {"finding": finding, "owner": "who runs the proof", "reason": reason, "expires": until}
        for finding, reason in OF_A_TRIAL.items()
    ]


def look(containers: Containers, stated: Path, check: Callable[[str, bool, str], None]) -> None:
    """Run the audit in a container of its own, with all that the services have; `stated`: the proof's rempart.yaml."""
    words = (
        "run",
        "--rm",
        "--no-deps",
        "-T",
        "--volume",
        f"{stated}:{INSIDE}:ro",
        "cli",
        "rempart",
        "audit",
        "run",
        "--json",
    )
    done = containers.run(*words, timeout=300)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        check("rempart audit run is clean in containers", False, (done.stdout + done.stderr)[-500:])
        return
    counting = [finding["id"] for finding in report["findings"] if finding["severity"] not in ("info", "low")]
    accepted = sorted(finding["id"] for finding in report["accepted"])
    check(
        "rempart audit run is clean in containers, but for what a trial's owner answers for",
        done.returncode == 0 and not counting and accepted == sorted(OF_A_TRIAL),
        f"exit code {done.returncode}; accepted: {', '.join(accepted)}{'; found: ' if counting else ''}"
        f"{', '.join(counting)}",
    )
