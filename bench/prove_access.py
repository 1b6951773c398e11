"""Proof: every port of the platform is attacked, and nobody gets anything without the right to it.

    make prove-access                the embedded stack, which is started if it does not run; and compose, if it runs
    make prove-access ARGS=--page    and writes docs/reference/access.md, also from the last run of `make prove-compose`

The ports come from /proc, not from a list: a new port fails the proof until somebody declares it. The attackers of each
port are another user of the machine (as root; otherwise this user, whom ports cannot tell apart), a web page of another
site, wrong passwords, a job in a pool, and a viewer and an operator of Airflow.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import access_attacks, access_compose, access_embedded
from bench.access_attacks import Row
from bench.prove_pods import write
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup import paths
from rempart.flows.shared.platform import open_platform
from rempart.settings import config, telemetry

NAME = "access"
PAGE = Path("docs/reference/access.md")
HEAD = """<!-- Written by `make prove-access ARGS=--page`; do not edit. -->

# Ports, and what they answer

**For** security reviewers. **Answers** which ports the platform opens, and what an attacker without credentials gets
there.

Every port on which the embedded stack and the compose stack listen, as enumerated from /proc, and what each attacker
was answered. `tries` counts requests; answers are HTTP statuses or what the connection came to. An answer "(nothing in
it)" is one that everybody may have: a version, a health check, a login page. `make prove-access` asks again, and is red
when anything was let in or a port is new."""


def checks(part: str, rows: list[Row]) -> list[dict[str, Any]]:
    """Return the checks of the proof's report: one for each line of the table."""
    return [
        {
            "what": f"{part}: {row.endpoint}, {row.who}",
            "ok": row.ok,
            "detail": "; ".join(row.let_in) or f"{row.tries} tries: {', '.join(row.answers)}",
        }
        for row in rows
    ]


@rendering.on_terminal()
def main() -> int:
    began, root, reports = time.monotonic(), config.project_root(), config.var_dir() / "proof"
    stack = paths.current()
    lifecycle.up(stack)
    telemetry.adopt_environment()
    embedded = access_embedded.attack(stack, open_platform())
    access_attacks.keep(embedded, reports / access_embedded.FILE)
    found, contained = checks("embedded", embedded), list[Row]()
    why, containers = access_compose.running(root)
    if containers is None:
        found.append({"what": "compose: every port of every container", "ok": None, "detail": f"not run: {why}"})
    else:
        contained = access_compose.attack(containers, root)
        access_attacks.keep(contained, reports / access_compose.FILE)
        found += checks("compose", contained)
    if "--page" in sys.argv:
        text = access_attacks.page(embedded, f"{HEAD}\n\n## Embedded")
        text += "\n" + access_attacks.page(access_attacks.recorded_rows(reports / access_compose.FILE), "## Compose")
        (root / PAGE).write_text(text, encoding="utf-8")
    table = (*embedded, *contained)
    figures = {
        "tries": sum(row.tries for row in table),
        "ports and sockets": len({row.endpoint for row in table}),
        "as another user": os.geteuid() == 0,
    }
    seconds = round(time.monotonic() - began, 1)
    return 0 if write(NAME, found, seconds, figures) else 1


if __name__ == "__main__":
    sys.exit(main())
