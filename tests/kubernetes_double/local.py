"""Containers as processes of this machine, each pod at an address of its own on the loopback."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import environment
from .images import Image
from .kinds import Obj
from .processes import Log, Process, ProcessWatchdog
from .store import Store


class Local:
    """Runs a pod's containers as processes. The double speaks plain HTTP to them: there is no certificate."""

    certificate = b""

    def address(self, number: int) -> str:
        """The address of a pod, by its number: seldom that of a pod of another process."""
        return f"127.{os.getpid() % 250 + 1}.{number // 250}.{number % 250 + 2}"

    def environment(self, store: Store, pod: Obj, spec: Obj, image: Image, home: Path) -> dict[str, str]:
        """Return all variables of a container. Raises Unresolved."""
        return environment.resolve(store, pod, spec, image, home)

    def start(
        self,
        pod: Obj,
        spec: Obj,
        argv: Sequence[str],
        env: Mapping[str, str],
        home: Path,
        log: Log,
        watchdog: ProcessWatchdog,
    ) -> Process:
        """Run one container of a pod whose volumes are there. Raises OSError."""
        return Process(argv, env, home, log, watchdog)
