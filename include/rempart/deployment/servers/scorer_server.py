"""The scorer's own word on whether it answers: for `rempart up` and `rempart status`."""

from __future__ import annotations

from typing import Any

from rempart.counts import counted
from rempart.deployment.servers import rest
from rempart.deployment.setup.paths import Stack
from rempart.errors import StackError
from rempart.settings.config import SCORER

NOT_READY = "scorer: NOT READY"


def check(stack: Stack) -> str:
    """Return how many champions answer. No champion is no fault. Raises StackError while the scorer is not ready."""
    told: dict[str, Any] = rest.call("GET", f"http://127.0.0.1:{stack.scorer_port}/v2/health/ready")
    if not told["models"]:  # it is not ready while one cannot be opened and none answers
        opening = "the first champion is being opened" if told["opening"] else "no pipeline has a champion yet"
        return f"it answers, and {opening}"
    known = "" if told["ledger_answers"] else f"; nothing new is known since {told['ledger_known_at']}"
    opening = f"; that of {told['opening']} more is being opened" if told["opening"] else ""
    failing = f"; {counted(told['failing'], 'champion')} cannot be opened" if told["failing"] else ""
    several = f"the champions of {told['models']} pipelines answer"
    answering = "the champion of 1 pipeline answers" if told["models"] == 1 else several
    return f"{answering}{opening}{failing}{known}"


def line(stack: Stack) -> str:
    """Return the state of the scorer as a line for `rempart status`; empty if this stack starts none."""
    if SCORER not in stack.services or stack.containers:
        return ""
    try:
        return f"scorer: {check(stack)}"
    except StackError as error:
        return f"{NOT_READY}: {error.what}; `rempart stack logs scorer` tells why"
