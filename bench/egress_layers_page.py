"""The page that tells which layer stopped which connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def cell(seen: dict[str, Any] | None) -> str:
    """Return what one layer did in a case, in a few words."""
    if seen is None:
        return "not run"
    if seen["result"] == "not installed":
        return "not installed"
    if seen["tried"] is None:
        return "**stopped**" if seen["result"] == "refused by the hook" else "passes"
    packets = f"{seen['tried']} sent, {seen['left']} left"
    if not seen["tried"] and seen["result"] == "failed":
        return "failed before it sent anything"
    if seen["result"] == "refused by the hook":
        return f"**stopped** ({packets})"
    return f"passes ({packets})" if seen["left"] else f"**stopped** ({packets})"


def layer(row: dict[str, Any]) -> str:
    hook, network = cell(row["hook"]), cell(row.get("network"))
    stopped = [name for name, text in (("hook", hook), ("network", network)) if text.startswith("**")]
    if "not installed" in (hook, network):
        return "not run"
    if row["allowed"] and not stopped:
        return "neither: it is allowed"
    return " and ".join(stopped) or ("not known: the network was not run" if network == "not run" else "neither")


def table(rows: Iterable[dict[str, Any]]) -> list[str]:
    lines = ["| method | audit hook alone | network rules alone | stopped by |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['title']} | {cell(row['hook'])} | {cell(row.get('network'))} | {layer(row)} |")
    return lines


def document(report: dict[str, Any]) -> str:
    head = """# Which layer stops what

**For** security reviewers and platform engineers. **Answers** what the audit hook and the network rules each stop, as
measured.

Measured by `make prove-egress-layers`: a task of a real DAG on the embedded stack reaches for a host that the policy
does not allow. Written from a run; do not edit.

- **audit hook alone**: in the task's own process, without rules on the network.
- **network rules alone**: the same from a child process that has no hook, under the nftables rules of
  `rempart policy render nftables`.
- *sent* counts packets that a process handed to the network, before any rule; *left* those that came out behind it.
"""
    tail = """
The hook sees Python's own sockets and nothing else. What passes by it is stopped by the network, and only there. A
child's look-up of a name passes both: the resolver must be reachable, so names, and data hidden in them, leave through
it unless the resolver itself refuses (see [Enforce on the network](../how-to/enforce-on-the-network.md)).

obstore is no part of the installation: where it is not there, its row says so.

## Where else the hook was put to the test
"""
    shown = [
        c
        for c in report["checks"]
        if c["what"].startswith(
            ("dag-processor", "triggerer", "dag.test", "each ", "the line", "no refusal", "the refusal")
        )
    ]
    lines = ["| what | result |", "|---|---|", *(f"| {c['what']} | {'yes' if c['ok'] else 'NO'} |" for c in shown)]
    return "\n".join([head, *table(report["rows"]), tail, *lines]) + "\n"
