"""Pods as containers of a Docker Engine, with the user, rights, limits and volumes of their specs. Each has an address
of its own in a network that leads nowhere.

Sizes of volumes are not limited. It needs root: a kubelet gives the files of volumes to a group.
"""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import environment, mounts, quantity
from .images import Image
from .kinds import Obj
from .processes import Log, Process, ProcessWatchdog
from .store import Store

LABEL = "rempart.eu/double"
_SUBNETS = [f"10.213.{number}.0/24" for number in range(32)]
_FIRST = 10
"""Number of the first pod's address in its subnet."""
_LOOKS_APART = 0.2
_CGROUPS = ("memory/docker/{}", "docker/{}", "system.slice/docker-{}.scope")
_FILES = (
    ("memory.max_usage_in_bytes", "total_rss", "memory.oom_control"),
    ("memory.peak", "anon", "memory.events"),
    ("memory.current", "anon", "memory.events"),
)
"""Of cgroups 1, 2, and 2 of kernels before 5.19, which tell no highest use, only that at a moment: the use, the key of
memory of no file in memory.stat, and where kills are counted.
"""


@dataclass(frozen=True)
class Ran:
    """A container that is over. `settings`: as `docker inspect` showed them. `code`: its exit status.

    `killed`: how many of its processes the kernel ended for memory. `peak`: its highest use in bytes, with files that
    are held in memory. `own`: the highest use without those, of all looks.
    """

    settings: Mapping[str, Any]
    code: int = -1
    killed: int = 0
    peak: int = 0
    own: int = 0


def options(pod: Obj, container: Obj) -> list[str]:
    """Docker's options for what a pod says of a container's user, rights and limits. Pure. Raises KeyError without a
    limit, as only what is limited is run.
    """
    of_pod = pod["spec"].get("securityContext") or {}
    security = of_pod | (container.get("securityContext") or {})
    limits = container["resources"]["limits"]
    memory = str(int(quantity.parse(limits["memory"])))
    made = ["--cpus", str(float(quantity.parse(limits["cpu"]))), "--memory", memory, "--memory-swap", memory]
    if "runAsUser" in security:
        made += ["--user", f"{security['runAsUser']}:{security.get('runAsGroup', 0)}"]
    if "fsGroup" in of_pod:
        made += ["--group-add", str(of_pod["fsGroup"])]
    if security.get("readOnlyRootFilesystem"):
        made += ["--read-only"]
    if security.get("allowPrivilegeEscalation") is False:
        made += ["--security-opt", "no-new-privileges"]
    for capability in (security.get("capabilities") or {}).get("drop") or ():
        made += ["--cap-drop", capability]
    return made


def volumes(container: Obj, home: Path) -> list[str]:
    """Docker's options for a container's volumes, which are folders. Pure."""
    made = []
    for mount in container.get("volumeMounts") or ():
        bound = f"type=bind,source={mounts.folder(home, mount['name'])},target={mount['mountPath']}"
        made += ["--mount", f"{bound},readonly" if mount.get("readOnly") else bound]
    return made


def permit(pod: Obj, home: Path) -> None:
    """Give the folders of a pod's volumes the group and the modes that a kubelet gives them."""
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup", 0)
    for volume in pod["spec"].get("volumes") or ():
        folder, source = mounts.folder(home, volume["name"]), volume.get("secret") or volume.get("projected") or {}
        os.chown(folder, 0, group)
        folder.chmod(0o2777)
        for file in folder.iterdir() if source else ():
            os.chown(file, 0, group)
            file.chmod(source.get("defaultMode", 0o644))


class Engine:
    """A Docker Engine that runs every pod with one image, in a network of its own. A context manager.

    `certificate`: of the API server, for pods. `variables`: what each container has beside its own, as a kubelet gives
    it. `ran`: containers by the name of their pod, as soon as they are over.
    """

    def __init__(self, image: str, name: str) -> None:
        self.image, self.name = image, name
        self.certificate = b""
        self.variables: dict[str, str] = {}
        self.ran: dict[str, Ran] = {}
        self._subnet = ipaddress.ip_network("127.0.0.0/8")

    def __enter__(self) -> Engine:
        self._clear()
        for subnet in _SUBNETS:  # one that no other network of this machine has
            words = ("network", "create", "--internal", "--label", LABEL, "--subnet", subnet, self.name)
            made = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
            if made.returncode == 0:
                self._subnet = ipaddress.ip_network(subnet)
                return self
        raise RuntimeError(f"no network could be made: {made.stderr.strip()}")

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        left = _docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={self.name}").split()
        for words in (("rm", "--force", *left) if left else (), ("network", "rm", self.name)):
            subprocess.run(["docker", *words], capture_output=True, check=False) if words else None

    @property
    def gateway(self) -> str:
        """This machine's address in the network."""
        return str(self._subnet[1])

    def address(self, number: int) -> str:
        """The address of a pod, by its number."""
        return str(self._subnet[_FIRST + number])

    def environment(self, store: Store, pod: Obj, spec: Obj, image: Image, home: Path) -> dict[str, str]:
        """Return the variables of a container beside those of its image. Raises Unresolved."""
        return {**self.variables, **environment.given_to(store, pod, spec, str)}

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
        """Run one container of a pod whose volumes are there. Its values are in no command line."""
        permit(pod, home)
        name = pod["metadata"]["name"]
        words = [
            *("run", "--pull", "never", "--name", name, "--hostname", name, "--label", f"{LABEL}={self.name}"),
            *("--network", self.name, "--ip", pod["status"]["podIP"], "--cidfile", str(home / "container")),
            *options(pod, spec),
            *volumes(spec, home),
            *(word for each in env for word in ("--env", each)),
            *("--entrypoint", argv[0], self.image, *argv[1:]),
        ]
        return Container(self, name, words, env, home, log, watchdog)


class Container(Process):
    """A running container, by the program that started it."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        home: Path,
        log: Log,
        watchdog: ProcessWatchdog,
    ) -> None:
        self._engine, self._name, self._file = engine, name, home / "container"
        self._ran = Ran({})
        self._ended = threading.Event()
        self._kill: subprocess.Popen[bytes] | None = None
        own = {each: os.environ[each] for each in ("PATH", "DOCKER_HOST") if each in os.environ}
        super().__init__(["docker", *words], {**variables, **own, "HOME": str(home)}, home, log, watchdog)
        threading.Thread(target=self._measure, daemon=True).start()

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process; the starting program passes on all but SIGKILL."""
        if number != signal.SIGKILL:
            super().signal(number)
        elif self._kill is None or self._kill.poll() is not None:  # it may not have been there
            quiet = subprocess.DEVNULL
            self._kill = subprocess.Popen(["docker", "kill", self._name], stdout=quiet, stderr=quiet)

    def _measure(self) -> None:
        while not self._ended.wait(_LOOKS_APART):
            with suppress(OSError):
                if container := self._file.read_text():
                    self._look(container)

    def _look(self, container: str) -> None:
        for folder in (Path("/sys/fs/cgroup", place.format(container)) for place in _CGROUPS):
            for peak, own, kills in _FILES:
                if (folder / peak).is_file():
                    ran = self._ran
                    self._ran = replace(
                        ran,
                        peak=max(ran.peak, int((folder / peak).read_text())),
                        own=max(ran.own, _figure(folder / "memory.stat", own)),
                        killed=max(ran.killed, _figure(folder / kills, "oom_kill")),
                    )

    def _over_with(self, code: int) -> None:
        self._ended.set()
        with suppress(subprocess.CalledProcessError):
            (shown,) = json.loads(_docker("inspect", self._name))
            killed = max(self._ran.killed, int(shown["State"]["OOMKilled"]))
            self.oom_killed = killed > 0
            self._engine.ran[self._name] = replace(self._ran, settings=shown, code=code, killed=killed)
            _docker("rm", "--force", self._name)


def _figure(file: Path, key: str) -> int:
    found = dict(line.split(maxsplit=1) for line in file.read_text().splitlines())
    return int(found.get(key, 0))


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
