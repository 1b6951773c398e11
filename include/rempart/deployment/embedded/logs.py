"""Read the services' logs."""

from __future__ import annotations

from collections.abc import Sequence

from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError


def log_tail(stack: Stack, service: str, lines: int = 12) -> str:
    """Return the last lines of a service's log."""
    file = stack.logs / f"{service}.log"
    if not file.is_file():
        return "(no log)"
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 200 * lines))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])


def logs_of(stack: Stack, services: Sequence[str]) -> list[str]:
    """Return log files, of the named services or of all. Raises StackError."""
    known = sorted(file.stem for file in stack.logs.glob("*.log"))
    if unknown := [name for name in services if name not in known]:
        remedy = f"Pass one of: {', '.join(known)}." if known else "Run `rempart up`: no service has a log yet."
        raise StackError(f"show the log of '{unknown[0]}': there is no such log", remedy)
    return [str(stack.logs / f"{name}.log") for name in services or known]
