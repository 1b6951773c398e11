"""Coordinate the processes of one job on its nodes, which sum their results and agree on when to end.

Each process learns its place from PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, set by Kubeflow's
torch runtime and by the local backend, and from REMPART_PROCESS where a node has several (`processes`). Each has one
device. How many a node has is said by the job's spec, whatever PET_NPROC_PER_NODE says. The process of rank 0 listens
on the port; the others connect to it. In what follows, a node is one of these processes.

The traffic (gradients, a checkpoint's arrays, words) is plain TCP by gloo or NCCL, neither encrypted nor authenticated:
only the pool's network policy confines it. It is numbers, JSON and npz; nothing is unpickled.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rempart.errors import PoolUnavailable, TrainingError
from rempart.training.attempts.interruption import Interrupted

RENDEZVOUS_SECONDS = 300.0
"""Seconds to wait for all nodes at the beginning."""
PEER_SECONDS = 60.0
"""Seconds to wait for a node within a step. An ended process is noticed at once."""
MEET_SECONDS = 600.0
"""Seconds to wait where a node may do more than a step: read the training set, store a checkpoint."""
LINGER_SECONDS = 5.0
"""Seconds for which the first node stays to tell the others how it ended."""
POLL_SECONDS = 0.2
LISTENING = "REMPART_NODES_SOCKET"
"""Variable with the descriptor of the socket that the first node inherits: nobody else can take its port."""
PROCESS = "REMPART_PROCESS"
"""Variable with the number of a process on its machine, where it has several."""


class PeerLost(Interrupted):
    """Raised when another node ended or did not answer in time. The job continues from its last checkpoint."""


class Group:
    """The nodes of a job. This class is for a single node, which needs no communication.

    With several nodes, all must make the same calls in the same order. Each call may raise PeerLost.
    """

    rank = 0
    """Rank: 0 is the first node, the only node that writes; the last is `size - 1`."""
    size = 1

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true on some node."""
        return flags

    def sum(self, tensor: Any) -> None:
        """Add a tensor up over all nodes, in place: on all the same bits."""

    def broadcast(self, body: bytes = b"") -> bytes:
        """Return the first node's bytes; those of the others are ignored."""
        return body

    def gather(self, word: str) -> list[str]:
        """Return each node's word, by rank."""
        return [word]

    def meet(self) -> None:
        """Wait until every node has arrived, even if a node has much to do before."""

    def sum_on(self, device: str) -> str:
        """Prepare for `sum` of tensors on `cpu` or `cuda`; the name of the library that will do it."""
        return ""

    def await_first(self) -> None:
        """Wait until the first node has ended well. Raises PeerLost when it ends otherwise."""

    def failure(self) -> dict[str, Any] | None:
        """Return the error that ended a node and should end the others: status, node, error, what, hint."""
        return None

    def leave(self, status: int, **facts: Any) -> int:
        """Tell the others how this node ended. Of several nodes each ends its process here; alone: the status."""
        return status


@dataclass(frozen=True)
class Seat:
    """A process's place among the nodes, and the first node's address."""

    rank: int
    size: int
    address: str
    port: int
    listening: int | None = None
    """The first node's descriptor of a socket that already listens there, if whoever started it opened one."""


def loopback() -> str:
    """Return the name of the loopback interface."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def seat(nodes: int, environment: Mapping[str, str], processes: int = 1) -> Seat | None:
    """Return this process's place, or None if it is to be alone. `processes`: on each node. Raises TrainingError."""
    if "PET_NNODES" not in environment:
        if nodes > 1:
            raise TrainingError(
                f"start the job on {nodes} nodes: PET_NNODES is not set, so the other nodes are unknown",
                "Run the job as a TrainJob of Kubeflow Trainer, or with the local backend, which starts one "
                "process for each node.",
            )
        return None
    size = _number(environment, "PET_NNODES", 1, 1_000_000)
    if size != nodes:
        raise TrainingError(
            f"start the job on {nodes} nodes: PET_NNODES is {size}",
            "Start as many nodes as the job's spec names (trainer.nodes in the pipeline).",
        )
    if size * processes == 1:
        return None
    if not (address := environment.get("PET_MASTER_ADDR", "")):
        raise TrainingError("start the job: PET_MASTER_ADDR is not set", "Set it to the host of the first node.")
    rank = _number(environment, "PET_NODE_RANK", 0, size - 1)
    if processes > 1:
        rank = rank * processes + _number(environment, PROCESS, 0, processes - 1)
    port = _number(environment, "PET_MASTER_PORT", 1, 65535)
    listening = _number(environment, LISTENING, 0, 1_000_000) if rank == 0 and LISTENING in environment else None
    return Seat(rank, size * processes, address, port, listening)


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise TrainingError(
            f"start the job: {name} is '{text[:40]}', but must be a whole number from {least} to {most}",
            "Kubeflow's torch runtime sets the variable. Configure a fixed number of nodes.",
        )
    return int(text)


def join(place: Seat, job_id: str) -> Group:
    """Connect the nodes of the job. Raises PoolUnavailable if some do not come in time; TrainingError."""
    try:
        import torch.distributed as dist
    except ImportError as cause:
        raise TrainingError(
            f"start a job on {place.size} nodes: PyTorch is not installed here",
            "Run it in the trainer's environment (`make setup-trainer` makes .venv-trainer) or image.",
        ) from cause
    deadline = time.monotonic() + RENDEZVOUS_SECONDS
    try:
        store = _store(place, deadline)
        if store.add(f"seat/{place.rank}", 1) > 1:
            raise _not_met(place, "another process has this rank", None)
        store.set(f"job/{place.rank}", job_id)
        while not all(here := [store.check([f"job/{rank}"]) for rank in range(place.size)]):
            if time.monotonic() > deadline:
                missing = [rank for rank, came in enumerate(here) if not came]
                raise _not_met(place, f"missing: {', '.join(map(str, missing[:20]))}", None)
            time.sleep(POLL_SECONDS)
        jobs = {store.get(f"job/{rank}").decode() for rank in range(place.size)}
        if len(jobs) > 1:
            raise TrainingError(
                f"start the job: the nodes have different jobs: {', '.join(sorted(jobs))[:200]}",
                "Pass the same spec to each node.",
            )
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=PEER_SECONDS),
        )
        return _Joined(place, store)
    except (RuntimeError, OSError) as cause:
        raise _not_met(place, type(cause).__name__, cause) from cause


def _not_met(place: Seat, why: str, cause: BaseException | None) -> PoolUnavailable:
    error = PoolUnavailable(
        f"node {place.rank} of {place.size} did not meet all others at {place.address}:{place.port} ({why})",
        "Run again. If it fails again, check the pods of the other nodes, and allow their traffic in the network "
        "policy.",
    )
    error.__cause__ = cause
    return error


def _store(place: Seat, deadline: float) -> Any:
    """Return the store of words that nodes leave for each other, held by the first."""
    import torch.distributed as dist

    def store(first: bool, **options: Any) -> Any:
        left = timedelta(seconds=max(1.0, deadline - time.monotonic()))  # whatever answers at the address
        opened = dist.TCPStore(
            place.address, place.port, place.size, first, wait_for_workers=False, timeout=left, **options
        )
        opened.set_timeout(timedelta(seconds=PEER_SECONDS))
        return opened

    if place.rank == 0:
        if place.listening is not None:
            return store(True, master_listen_fd=place.listening)
        if place.address == "127.0.0.1":  # by itself it would listen on every interface
            return store(True, master_listen_fd=socket.create_server((place.address, place.port)).detach())
        return store(True)
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=2).close()
            return store(False)
        except OSError as cause:  # its pod may have no address yet
            if time.monotonic() > deadline:
                raise _not_met(place, "the first node does not answer", cause) from cause
        time.sleep(POLL_SECONDS)


@contextmanager
def _noticing() -> Iterator[None]:
    """Convert RuntimeErrors of gloo, NCCL and torch about a lost node."""
    try:
        yield
    except RuntimeError as cause:
        raise PeerLost from cause


class _Joined(Group):
    """One of several nodes."""

    def __init__(self, place: Seat, store: Any) -> None:
        import torch.distributed as dist

        self.rank, self.size = place.rank, place.size
        self._store, self._words = store, 0
        self._patient: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=MEET_SECONDS))
        self._summing: Any = None

    def any(self, *flags: bool) -> tuple[bool, ...]:
        import torch
        import torch.distributed as dist

        somewhere = torch.tensor(flags, dtype=torch.int32)
        with _noticing():
            dist.all_reduce(somewhere, op=dist.ReduceOp.MAX)
        return tuple(map(bool, somewhere.tolist()))

    def sum(self, tensor: Any) -> None:
        import torch.distributed as dist

        with _noticing():
            dist.all_reduce(tensor, group=self._summing)

    def broadcast(self, body: bytes = b"") -> bytes:
        import torch
        import torch.distributed as dist

        length = torch.tensor([len(body)])
        with _noticing():
            dist.broadcast(length, 0, group=self._patient)
            data = torch.zeros(int(length), dtype=torch.uint8)
            if len(data):
                if self.rank == 0:
                    data = torch.frombuffer(bytearray(body), dtype=torch.uint8)
                dist.broadcast(data, 0, group=self._patient)
        return bytes(data.numpy().tobytes())

    def gather(self, word: str) -> list[str]:
        self._words += 1
        with _noticing():
            self._store.set(f"word/{self._words}/{self.rank}", word)
            self.meet()
            return [self._store.get(f"word/{self._words}/{rank}").decode() for rank in range(self.size)]

    def meet(self) -> None:
        import torch.distributed as dist

        with _noticing():
            dist.barrier(group=self._patient)

    def sum_on(self, device: str) -> str:
        import torch
        import torch.distributed as dist

        # NCCL refuses two processes on one GPU, as a machine that plays several nodes has them
        if device != "cuda" or len(set(self.gather(str(torch.cuda.get_device_properties(0).uuid)))) < self.size:
            return "gloo"
        # else a lost peer would abort the process, with a status that says nothing
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        with _noticing():
            self._summing = dist.new_group(backend="nccl", timeout=timedelta(seconds=PEER_SECONDS))
        return "nccl"

    def await_first(self) -> None:
        with _noticing():
            while (ending := self._ending(0)) is None:
                time.sleep(POLL_SECONDS)
        if ending["status"]:
            raise PeerLost

    def failure(self) -> dict[str, Any] | None:
        with suppress(RuntimeError):  # the first node, who holds all words, may be gone
            for rank in range(self.size):
                if rank != self.rank and (ending := self._ending(rank)) is not None and "error" in ending:
                    return {"node": rank, **ending}
        return None

    def leave(self, status: int, **facts: Any) -> int:
        with suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", json.dumps({"status": status, **facts}))
        # the connections close, so whoever waits for this node learns that it is gone; with a lost peer it may hang
        self._bounded(self._disconnect)
        if self.rank == 0:
            with suppress(Interrupted):
                self._bounded(self._await_others)
        sys.stdout.flush()
        # not through the interpreter's end: what torch does there may wait for a peer that is gone
        os._exit(status)

    def _ending(self, rank: int) -> dict[str, Any] | None:
        if not self._store.check([f"ended/{rank}"]):
            return None
        ending: dict[str, Any] = json.loads(self._store.get(f"ended/{rank}"))
        return ending

    def _disconnect(self) -> None:
        import torch.distributed as dist

        self._patient = self._summing = None
        dist.destroy_process_group()
        gc.collect()  # the connections are closed when nothing refers to them

    def _await_others(self) -> None:
        while not self._store.check([f"ended/{rank}" for rank in range(1, self.size)]):
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _bounded(action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action, daemon=True)
        thread.start()
        thread.join(LINGER_SECONDS)
