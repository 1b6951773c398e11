"""The kubelets of all nodes: they run the containers of bound pods as local processes and report on them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import environment, mounts, pod_status
from .cluster import Cluster, stamp
from .containers import Engine
from .errors import Refusal
from .images import Image, Registry
from .kinds import NODE, POD, Obj
from .local import Local
from .pod_status import INIT, MAIN
from .processes import Log, Process, ProcessWatchdog, kill_orphans
from .quota import finished

_BACK_OFF = 10.0
"""Seconds until what failed is tried again: the least of a container's, and that of a pod's synchronization."""


class PodWorker:
    """One pod on its node, from binding to its end."""

    def __init__(self, kubelet: Kubelet, pod: Obj) -> None:
        self.kubelet = kubelet
        self.cluster = kubelet.cluster
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.namespace: str = pod["metadata"]["namespace"]
        self.name: str = pod["metadata"]["name"]
        self.home = Path(tempfile.mkdtemp(prefix=f"{self.name[:40]}-", dir=kubelet.root))
        self.logs: dict[str, Log] = {}
        self.processes: dict[str, Process] = {}
        self.lost = False
        self._ending: tuple[str, str] | None = None
        self._stopping = asyncio.Event()
        self._kill_at = float("inf")
        self._sooner = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    # what it reports

    def report(self, change: Callable[[Obj], None]) -> None:
        """Writes the pod's status, unless the node is lost or the pod is another by now."""
        if not self.lost:
            self._write(change)

    def _write(self, change: Callable[[Obj], None]) -> None:
        self.pod = self.cluster.modify(POD, self.namespace, self.name, change, self.uid) or self.pod

    def event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Records an event about the pod."""
        if not self.lost:
            node = self.pod["spec"]["nodeName"]
            self.cluster.record(self.pod, "kubelet", reason, message, warning=warning, host=node)

    def _specs(self, field: str) -> list[Obj]:
        return self.pod["spec"].get("initContainers" if field == INIT else "containers") or []

    def _state(self, field: str, name: str, state: Obj, **more: object) -> None:
        self.report(lambda pod: pod_status.set_state(pod, field, name, state, more))

    # its life

    async def _run(self) -> None:
        address = self.kubelet.address(self.uid)
        self.report(lambda pod: pod_status.begin(pod, address))
        watchers: list[asyncio.Task[Any]] = [asyncio.create_task(self._deadline())]
        try:
            ready = True
            for spec in self._specs(INIT):
                if spec.get("restartPolicy") == "Always":
                    watchers.append(asyncio.create_task(self._container(INIT, spec)))
                    continue
                code = await self._container(INIT, spec)
                if code != 0:
                    ready = False
                    break
            if ready and not self._stopping.is_set():
                await asyncio.gather(*(self._container(MAIN, spec) for spec in self._specs(MAIN)))
            self._stopping.set()  # sidecars end with the containers
            for process in [*self.processes.values()]:
                process.signal(signal.SIGTERM)
                if not process.exited.is_set():
                    await process.exited.wait()
        finally:
            for watcher in watchers:
                watcher.cancel()
        await asyncio.to_thread(self._clean)
        if not self.lost:
            self.finish()

    def _clean(self) -> None:
        kill_orphans(self.home)
        shutil.rmtree(self.home, ignore_errors=True)

    def finish(self) -> None:
        """Reports the pod's end and, where its deletion was asked for, lets the object go."""
        self._write(lambda pod: pod_status.end(pod, self._ending))
        if self.pod["metadata"].get("deletionTimestamp"):
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
            with contextlib.suppress(Refusal):
                self.cluster.delete(POD, self.namespace, self.name, options)

    async def _deadline(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            seconds = self.pod["spec"].get("activeDeadlineSeconds")
            left = begun + seconds - loop.time() if seconds is not None else 1.0
            if seconds is not None and left <= 0:
                message = "Pod was active on the node longer than the specified deadline"
                self.event("DeadlineExceeded", message)
                self.stop(self.pod["spec"].get("terminationGracePeriodSeconds", 30), ("DeadlineExceeded", message))
                return
            await asyncio.sleep(min(left, 1.0))

    async def _container(self, field: str, spec: Obj) -> int | None:
        """Runs one container, again where the policy says so. None where it never ran or is not to."""
        name, restarts = spec["name"], 0
        policy = spec.get("restartPolicy") or self.pod["spec"]["restartPolicy"]
        while True:
            image = await self._pulled(field, spec)
            if image is None:
                return None
            env = await self._configured(field, spec, image)
            if env is None:
                return None
            code = await self._process(field, spec, image, env, restarts)
            again = policy == "Always" and not (field == INIT and spec.get("restartPolicy") != "Always" and code == 0)
            again = again or (policy == "OnFailure" and code != 0)
            if not again or self._stopping.is_set():
                return code
            wait = min(_BACK_OFF * 2**restarts, 300.0)
            restarts += 1
            message = (
                f"back-off {int(wait)}s restarting failed container={name} pod={self.name}_{self.namespace}({self.uid})"
            )
            self._state(
                field, name, {"waiting": {"reason": "CrashLoopBackOff", "message": message}}, restartCount=restarts
            )
            self.event("BackOff", f"Back-off restarting failed container {name} in pod {self.name}", warning=True)
            if await self._stopped_within(wait):
                return code

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _pulled(self, field: str, spec: Obj) -> Image | None:
        reference, name, wait = spec["image"], spec["name"], _BACK_OFF
        while not self._stopping.is_set():
            image = self.kubelet.images.find(reference)
            if image is not None:
                self.event("Pulled", f'Container image "{reference}" already present on machine')
                return image
            failure = f'failed to pull and unpack image "{reference}": failed to resolve reference: not found'
            self.event("Pulling", f'Pulling image "{reference}"')
            self.event("Failed", f'Failed to pull image "{reference}": {failure}', warning=True)
            self.event("Failed", "Error: ErrImagePull", warning=True)
            self._state(field, name, {"waiting": {"reason": "ErrImagePull", "message": failure}})
            if await self._stopped_within(0.2):
                return None
            message = f'Back-off pulling image "{reference}"'
            self.event("BackOff", message)
            self.event("Failed", "Error: ImagePullBackOff", warning=True)
            self._state(field, name, {"waiting": {"reason": "ImagePullBackOff", "message": message}})
            until = asyncio.get_running_loop().time() + wait
            while asyncio.get_running_loop().time() < until and self.kubelet.images.find(reference) is None:
                if await self._stopped_within(0.2):
                    return None
            wait = min(wait * 2, 300.0)
        return None

    async def _configured(self, field: str, spec: Obj, image: Image) -> dict[str, str] | None:
        while not self._stopping.is_set():
            if not await self._mounted():
                return None
            try:
                return self.kubelet.runtime.environment(self.cluster.store, self.pod, spec, image, self.home)
            except environment.Unresolved as problem:
                message = str(problem)
            state = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
            if pod_status.container(self.pod, field, spec["name"])["state"] != state:
                self._state(field, spec["name"], state)
                self.event("Failed", f"Error: {message}", warning=True)
            await self._changed_within(_BACK_OFF)
        return None

    async def _mounted(self) -> bool:
        """Sets up the pod's volumes, as soon as that can be done.

        Source: Kubernetes, pkg/util/goroutinemap/exponentialbackoff: again after 0.5 s, then twice as long each time.
        """
        wait = 0.5
        while not self._stopping.is_set():
            try:
                certificate = self.kubelet.runtime.certificate
                mounts.set_up(self.cluster.store, self.pod, self.home, self.kubelet.issue, certificate)
                return True
            except mounts.NotMounted as problem:
                self.event("FailedMount", str(problem), warning=True)
            await self._stopped_within(wait)
            wait = min(wait * 2, 122.0)
        return False

    async def _changed_within(self, seconds: float) -> None:
        """Wait until somebody changes the pod's metadata, or so long: a kubelet looks at a pod that waits no sooner.

        Source: Kubernetes, pkg/kubelet/pod_workers.go: a failed sync is repeated after backOffPeriod (10 s, jittered).
        """
        before = self._told()
        until = asyncio.get_running_loop().time() + seconds
        while self._told() == before and asyncio.get_running_loop().time() < until:
            if await self._stopped_within(0.1):
                return

    def _told(self) -> tuple[Obj, Obj]:
        metadata = self.pod["metadata"]
        return metadata.get("labels") or {}, metadata.get("annotations") or {}

    async def _process(self, field: str, spec: Obj, image: Image, env: dict[str, str], restarts: int) -> int:
        name = spec["name"]
        log = self.logs[name] = Log()
        seen = {
            "image": spec["image"],
            "imageID": image.image_id,
            "containerID": f"containerd://{self.uid}/{name}/{restarts}",
        }
        began = datetime.now(UTC)
        try:
            argv = environment.command_line(spec, image, env)
            if not argv:
                raise FileNotFoundError("no command specified")
            process = self.kubelet.runtime.start(self.pod, spec, argv, env, self.home, log, self.kubelet.watchdog)
        except OSError as problem:
            log.close()
            message = f"failed to create containerd task: failed to start container: {problem}"
            self.event("Failed", f"Error: {message}", warning=True)
            ended = {"exitCode": 128, "reason": "StartError", "message": message}
            self._state(field, name, {"terminated": ended | _span(began)}, **seen)
            return 128
        self.processes[name] = process
        self.event("Created", f"Created container: {name}")
        self._state(field, name, {"running": {"startedAt": stamp(began)}}, restartCount=restarts, **seen)
        self.event("Started", f"Started container {name}")
        await process.exited.wait()
        del self.processes[name]
        code = process.code or 0
        ended = {"exitCode": code, "reason": "OOMKilled" if process.oom_killed else "Error" if code else "Completed"}
        if code and spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = b"".join(line for _, line in log.lines[-80:])[-2048:].decode(errors="replace")
        ended["containerID"] = seen["containerID"]
        self._state(field, name, {"terminated": ended | _span(began)})
        return code

    # its end

    def stop(self, grace: float, ending: tuple[str, str] | None = None) -> None:
        """Ends the containers: SIGTERM, then SIGKILL after the grace (seconds). A shorter grace later counts."""
        self._ending = self._ending or ending
        self._kill_at = min(self._kill_at, asyncio.get_running_loop().time() + grace)
        self._sooner.set()
        if not self._stopping.is_set():
            self._stopping.set()
            self.kubelet.spawn(self._terminate())

    async def _terminate(self) -> None:
        for name, process in self.processes.items():
            self.event("Killing", f"Stopping container {name}")
            process.signal(signal.SIGTERM)
        while not self.task.done():
            left = self._kill_at - asyncio.get_running_loop().time()
            if left <= 0:
                for process in self.processes.values():
                    process.signal(signal.SIGKILL)
            self._sooner.clear()
            nudge = asyncio.create_task(self._sooner.wait())
            both: list[asyncio.Future[Any]] = [self.task, nudge]
            await asyncio.wait(both, timeout=max(left, 0.05), return_when=asyncio.FIRST_COMPLETED)
            nudge.cancel()

    def lose(self) -> None:
        """The node's machine dies: its processes are gone and nothing is reported."""
        self.lost = True
        for process in self.processes.values():
            process.signal(signal.SIGKILL)
        self.stop(0)

    def found(self) -> None:
        """The node is back after a restart: it reports containers that it no longer has."""
        self._write(pod_status.lose_containers)
        self.finish()


def _span(began: datetime) -> Obj:
    return {"startedAt": stamp(began), "finishedAt": stamp()}


class Kubelet:
    """The workers of all pods that are bound to a node."""

    def __init__(
        self,
        cluster: Cluster,
        images: Registry,
        root: Path,
        watchdog: ProcessWatchdog,
        issue: mounts.Issue,
        runtime: Local | Engine,
    ) -> None:
        self.cluster = cluster
        self.images = images
        self.root = root
        self.watchdog = watchdog
        self.issue = issue
        self.runtime = runtime
        self.workers: dict[str, PodWorker] = {}
        self.lost_nodes: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def address(self, uid: str) -> str:
        """A pod's own address."""
        return self.runtime.address(self._numbers.setdefault(uid, len(self._numbers)))

    def spawn(self, work: Awaitable[None]) -> None:
        """Runs something beside the workers."""

        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def sync(self) -> None:
        """Starts what is bound, stops what is to be deleted, forgets what is gone; nodes follow their capacity."""
        self._advertise()
        present: set[str] = set()
        for pod in self.cluster.store.list(POD):
            uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
            present.add(uid)
            if not node or node in self.lost_nodes:
                continue
            worker = self.workers.get(uid)
            if worker is None and not finished(pod):
                worker = self.workers[uid] = PodWorker(self, pod)
            if worker is None:
                continue
            worker.pod = pod
            if pod["metadata"].get("deletionTimestamp") and not finished(pod):
                worker.stop(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        for uid, worker in list(self.workers.items()):
            if uid not in present:
                worker.stop(0 if worker.pod["metadata"].get("deletionGracePeriodSeconds") in (None, 0) else 2)
                if worker.task.done():
                    del self.workers[uid]

    def _advertise(self) -> None:
        """What somebody wrote into a node's capacity as an extended resource can be allocated there, and no other."""

        def follow(node: Obj) -> None:
            status = node["status"]
            extended = {name: value for name, value in (status.get("capacity") or {}).items() if "/" in name}
            own = {name: value for name, value in (status.get("allocatable") or {}).items() if "/" not in name}
            status["allocatable"] = own | extended

        for node in self.cluster.store.list(NODE):
            name = node["metadata"]["name"]
            if "status" in node and name not in self.lost_nodes:
                self.cluster.modify(NODE, "", name, follow)

    def processes(self) -> int:
        """How many containers run."""
        return sum(len(worker.processes) for worker in self.workers.values())

    async def close(self) -> None:
        """Kills every container."""
        for worker in self.workers.values():
            worker.lose()
        running = [worker.task for worker in self.workers.values()]
        if running:
            await asyncio.wait(running, timeout=5)
        for task in [*running, *self._tasks]:
            task.cancel()
