"""The double as a test starts, queries and disturbs it."""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from . import rbac
from .access import ALL, Rule, Tokens
from .api import Api, Request
from .cluster import Cluster, set_condition
from .containers import Engine
from .controllers import Controllers
from .faults import Fault, Faults
from .history import History, PodRecord
from .images import Image, Registry
from .kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, NAMESPACE, POD, SERVICE_ACCOUNT, Kind, Obj
from .kubelet import Kubelet, PodWorker
from .kueue import Kueue
from .local import Local
from .nodes import Nodes
from .processes import ProcessWatchdog
from .trainer import Trainer

T = TypeVar("T")


class KubernetesDouble:
    """A cluster: API server, scheduler, kubelets and controllers. A context manager; safe to use from any thread.

    `engine`: runs containers; without it they are processes.
    """

    def __init__(self, *, namespaces: Iterable[str] = ("default",), engine: Engine | None = None) -> None:
        self._engine = engine
        self._owner = os.getpid()
        self._root = Path(tempfile.mkdtemp(prefix="kubernetes-double-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubernetes-double", daemon=True)
        self._thread.start()
        self._watchdog = ProcessWatchdog(self._root)
        self._tokens = Tokens()
        self._faults = Faults()
        self._images = Registry()
        self._history = History()
        self._runner: web.AppRunner | None = None
        self._closed = False
        self._port = 0
        self._held: socket.socket | None = None
        self.admin_token = self._tokens.add("kubernetes-admin", [ALL])
        self._call(self._assemble, tuple(namespaces))
        atexit.register(self._at_exit)

    def _assemble(self, namespaces: Sequence[str]) -> None:
        self._cluster = Cluster()
        self._cluster.store.listeners.append(self._history.notice)
        self._kubelet = Kubelet(
            self._cluster, self._images, self._root, self._watchdog, self._tokens.issue, self._engine or Local()
        )
        self._controllers = Controllers(self._cluster, self._kubelet)
        self._nodes = Nodes(self._cluster, self._kubelet, self._controllers)
        self._api = Api(self._cluster, self._kubelet, self._tokens, self._faults)
        self._tokens.bound = lambda namespace, name: rbac.bound(self._cluster.store, namespace, name)
        for role, binding in rbac.objects():
            self._cluster.create(CLUSTER_ROLE, "", role)
            self._cluster.create(CLUSTER_ROLE_BINDING, "", binding)
        for name in namespaces:
            self._cluster.create(NAMESPACE, "", {"metadata": {"name": name}})
        self._reconciling = self._loop.create_task(self._controllers.run())

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls a function in the loop's thread."""

        async def run() -> T:
            return function(*arguments)

        return self._await(run())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise RuntimeError("the Kubernetes double is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    # the API server

    def start(self) -> KubernetesDouble:
        """Starts the API server, again on the same port."""
        if self._runner is None:
            self._await(self._serve())
        return self

    async def _serve(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        if self._held is None:  # bound, never listening: keeps the port ours while the API server is stopped
            self._held = socket.socket()
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                self._held.bind(("127.0.0.1", self._port))
        runner = web.AppRunner(
            self._api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.05
        )
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._runner = runner

    def stop(self) -> None:
        """Stops the API server: connections break, new ones are refused. Containers go on and the state stays."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._await(runner.cleanup())

    def close(self) -> None:
        """Ends everything: no process and no file is left."""
        if self._closed:
            return
        with suppress(Exception):
            self.stop()
        self._await(self._shut())
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
        self._watchdog.close()
        if self._held is not None:
            self._held.close()
        atexit.unregister(self._at_exit)

    async def _shut(self) -> None:
        self._reconciling.cancel()
        await self._kubelet.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    def _at_exit(self) -> None:
        if os.getpid() == self._owner:
            self.close()

    def __enter__(self) -> KubernetesDouble:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, token: str | None = None, namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig of a user, the administrator by default."""
        context = {"cluster": "double", "user": "user", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token or self.admin_token}}],
            "contexts": [{"name": "double", "context": context}],
        }

    def add_token(self, name: str, rules: Iterable[Rule | Mapping[str, Sequence[str]]]) -> str:
        """A token of a user who may do what the rules say: verbs, apiGroups, resources, namespaces, resourceNames."""
        return self._call(self._tokens.add, name, list(rules))

    def revoke_token(self, token: str) -> None:
        """The API server answers 401 to it from now on."""
        self._call(self._tokens.revoke, token)

    @property
    def requests(self) -> list[Request]:
        """Every request so far, oldest first."""
        return self._call(lambda: list(self._api.requests))

    def fail(
        self,
        status: int,
        times: int = 1,
        method: str | None = None,
        path_contains: str | None = None,
        retry_after: int | None = None,
        *,
        done: bool = False,
        message: str | None = None,
    ) -> None:
        """Lets the next requests that match fail. The path includes the query.

        With `done` the request takes effect and only its answer is lost; status 0 drops the connection.
        """
        self._call(self._faults.add, Fault(status, times, method, path_contains, retry_after, done, message))

    def latency(self, seconds: float) -> None:
        """Every request waits this long before it is handled."""
        self._faults.seconds = seconds

    def heal(self) -> None:
        """No more faults and no latency."""
        self._call(self._faults.clear)

    def compact(self) -> None:
        """Forgets past changes: a watch from a version before now gets 410."""
        self._call(self._cluster.store.compact)

    # content

    def add_custom_resource(
        self, group: str, version: str, plural: str, kind: str, *, namespaced: bool = True, status: bool = True
    ) -> None:
        """Serves a custom resource, as a CustomResourceDefinition without a schema."""
        made = Kind(group, version, plural, kind, namespaced=namespaced, status=status, custom=True)
        self._call(self._cluster.kinds.append, made)

    def add_trainer(self) -> None:
        """Kubeflow Trainer is installed: TrainJobs and TrainingRuntimes are served, and TrainJobs get their pods."""

        def install() -> None:
            trainer = Trainer(self._cluster, self._controllers.changed)
            self._controllers.others.append(trainer.reconcile)

        self._call(install)

    def add_kueue(self, version: str = "v1beta2", namespaces: Sequence[str] | None = None) -> None:
        """Kueue is installed and serves its objects in a version; it manages pods of these namespaces, or of all."""

        def install() -> None:
            self._kueue = Kueue(self._cluster, version, namespaces)
            self._controllers.others.insert(0, self._kueue.reconcile)

        self._call(install)

    def add_queue(
        self, namespace: str, name: str, quota: Mapping[str, str], *, preempts: bool = False, strict: bool = False
    ) -> None:
        """A LocalQueue, and behind it a ClusterQueue of the same name with this quota; it preempts lower priorities."""
        kueue = self._kueue
        resources = [{"name": each, "nominalQuota": amount} for each, amount in quota.items()]
        flavors = [{"name": name, "resources": resources}]
        spec = {
            "resourceGroups": [{"coveredResources": list(quota), "flavors": flavors}],
            "preemption": {"withinClusterQueue": "LowerPriority" if preempts else "Never"},
            "queueingStrategy": "StrictFIFO" if strict else "BestEffortFIFO",
        }

        def make() -> None:
            for kind, where, body in (
                (kueue.flavor, "", {}),
                (kueue.cluster_queue, "", spec),
                (kueue.local_queue, namespace, {"clusterQueue": name}),
            ):
                head = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}}
                self._cluster.create(kind, where, head | {"spec": body})

        self._call(make)

    def stop_kueue(self, stopped: bool = True) -> None:
        """Its controllers are away: nothing is admitted, and no finalizer of its goes. The webhook answers."""

        def change() -> None:
            self._kueue.stopped = stopped
            self._controllers.changed.set()

        self._call(change)

    def add_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Creates a namespace and its default service account."""
        body = {"metadata": {"name": name, "labels": dict(labels or {})}}
        self._call(self._cluster.create, NAMESPACE, "", body)

    def add_service_account(self, namespace: str, name: str) -> None:
        """Creates a service account."""
        self._call(self._cluster.create, SERVICE_ACCOUNT, namespace, {"metadata": {"name": name}})

    def add_image(
        self,
        reference: str,
        digest: str | None = None,
        env: Mapping[str, str] | None = None,
        entrypoint: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> Image:
        """Publishes an image that nodes can pull. PATH begins where this Python's executable is, unless given."""
        return self._call(self._images.add, reference, digest, env, entrypoint, command)

    def remove_image(self, reference: str) -> None:
        """Unpublishes an image."""
        self._call(self._images.remove, reference)

    @property
    def history(self) -> list[PodRecord]:
        """Every pod that was ever created, oldest first."""
        return self._call(self._history.records)

    def processes(self) -> int:
        """How many containers run."""
        return self._call(self._kubelet.processes)

    # nodes

    def add_node(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        allocatable: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
        provider_id: str | None = None,
    ) -> None:
        """A ready node; `allocatable` adds to 8 CPUs, 32 GiB and 110 pods, or replaces them."""
        self._call(self._nodes.add, name, labels or {}, allocatable or {}, taints, provider_id)

    def remove_node(self, name: str) -> None:
        """Its machine and its Node object are gone; the pod collector deletes its pods at once."""
        self._call(self._nodes.remove, name)

    def node_lost(self, name: str, after: float = 0.2) -> None:
        """Its machine dies: processes end unreported and the node is Ready=Unknown and tainted as unreachable.

        After `after` seconds (for the 300 s that pods tolerate by default) the taint manager deletes its pods. As no
        kubelet confirms that, they stay Terminating until remove_node, node_back or a deletion with grace period 0.
        """
        self._call(self._nodes.lose, name, after)

    def node_back(self, name: str) -> None:
        """A lost node's machine is back, restarted: it reports that its containers are gone."""
        self._call(self._nodes.back, name)

    def cordon(self, name: str, unschedulable: bool = True) -> None:
        """No new pod goes to the node."""
        self._call(self._nodes.cordon, name, unschedulable)

    def drain(self, name: str) -> None:
        """Cordons the node and deletes its pods by the eviction API, gracefully."""
        self.cordon(name)

        def evict() -> None:
            for pod in self._cluster.store.list(POD):
                if pod["spec"].get("nodeName") == name:
                    self._api.evict(pod["metadata"]["namespace"], pod["metadata"]["name"])

        self._call(evict)

    # pods

    def evict(self, name: str, namespace: str = "default", grace: float | None = None) -> None:
        """Node pressure: the kubelet evicts a pod: SIGTERM, SIGKILL after the grace, then Failed, reason Evicted."""
        message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi."

        def condition(pod: Obj) -> None:
            set_condition(pod, "DisruptionTarget", "True", "TerminationByKubelet", message)

        def evict() -> None:
            worker = self._worker(namespace, name)
            worker.report(condition)
            worker.event("Evicted", message, warning=True)
            seconds = worker.pod["spec"]["terminationGracePeriodSeconds"] if grace is None else grace
            worker.stop(seconds, ("Evicted", message))

        self._call(evict)

    def oom_kill(self, name: str, namespace: str = "default") -> None:
        """The kernel kills a pod's containers for memory: exit code 137, reason OOMKilled."""

        def kill() -> None:
            for process in self._worker(namespace, name).processes.values():
                process.oom_killed = True
                process.signal(9)

        self._call(kill)

    def _worker(self, namespace: str, name: str) -> PodWorker:
        uid = self._cluster.get(POD, namespace, name)["metadata"]["uid"]
        worker = self._kubelet.workers.get(uid)
        if worker is None:
            raise LookupError(f"pod {namespace}/{name} is on no node")
        return worker
