"""The lines that `up` and `down` write: one for each service that is ready or stopped, more for one that takes long."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

logger = logging.getLogger(__name__)
_LATE_SECONDS, _AGAIN_SECONDS = 20.0, 30.0


class ServiceLog:
    """Logs `up` and `down`: one line when a service is ready or stopped, and more only for one that takes long.

    `steps` of a record are pairs of service and phase, and `detail` is what a live view writes beside the service. A
    record that is `last` is about the whole.
    """

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._logged: dict[str, float] = {}

    def line(self, text: str, *values: object) -> None:
        logger.info(text, *values)

    def starting(self, names: Sequence[str], later: Sequence[str] = ()) -> None:
        """Log that services start together. `later` are those that start after them."""
        self._began |= {name: time.monotonic() for name in names}
        steps = [*((name, "running") for name in names), *((name, "waiting") for name in later)]
        logger.info("starting %s", ", ".join(names), extra={"steps": steps, "detail": "starting"})

    def ready(self, name: str, detail: str) -> None:
        now = time.monotonic()
        seconds = now - self._began.get(name, now)
        extra = {"steps": [(name, "done")], "detail": f"ready: {detail}"}
        logger.info("%s: ready after %.1f s (%s)", name, seconds, detail, extra=extra)

    def stopping(self, name: str) -> None:
        self._began[name] = time.monotonic()
        logger.info("stopping %s", name, extra={"steps": [(name, "running")], "detail": "stopping"})

    def stopped(self, name: str) -> None:
        logger.info("%s: stopped", name, extra={"steps": [(name, "done")], "detail": "stopped"})

    def waiting(self, name: str, verb: str, reason: str = "") -> None:
        """Log once, and later again, that a service takes long. `verb` says what it does: starting, stopping."""
        now = time.monotonic()
        began = self._began.setdefault(name, now)
        if now - max(began + _LATE_SECONDS - _AGAIN_SECONDS, self._logged.get(name, 0.0)) < _AGAIN_SECONDS:
            return
        self._logged[name] = now
        why = f" ({reason})" if reason else ""
        extra = {"steps": [(name, "running")], "detail": f"still {verb}{why}"}
        logger.info("%s: still %s after %.0f s%s", name, verb, now - began, why, extra=extra)
