"""Watch supervisord, and start the stack again if it dies unexpectedly.

supervisord restarts every server, including the watchdog, and the watchdog restarts supervisord. It waits on a file
descriptor and uses no processor time.
"""

from __future__ import annotations

import os
import select
import sys

from rempart.deployment.setup import environment, launch, paths


def main() -> None:
    """Wait for the parent to end, then become `rempart up`."""
    stack = paths.current()
    parent = os.getppid()
    if parent == 1:
        sys.exit(1)  # supervisord was gone before we looked: the next `rempart up` starts all
    try:
        select.select([os.pidfd_open(parent)], [], [])
    except ProcessLookupError:
        sys.stderr.write("rempart: the supervisor died unexpectedly\n")
    # `up` ends what the dead supervisor left, and its new watchdog what this one left: neither is to end `up` itself
    os.environ.pop(environment.MARKER, None)
    launch.forget_group(stack, "watchdog")
    log = os.open(stack.logs / "recovery.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.execv(sys.executable, [sys.executable, "-m", "rempart.cli", "up"])  # noqa: S606


if __name__ == "__main__":
    main()
