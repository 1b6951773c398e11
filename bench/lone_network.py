"""Create a network namespace that reaches one port of this machine and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

SPACE, HOST, GUEST = "rempart-loss", "10.213.77.1", "10.213.77.2"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def why_not(programs: Sequence[str]) -> str:
    """Why this machine cannot make such a network, or lacks one of the programs; empty if it can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if lacking := [name for name in ("ip", "nft", *programs) if not shutil.which(name, path=PATH)]:
        return f"there is no {', '.join(lacking)} on this machine"
    tried = subprocess.run(["ip", "netns", "add", SPACE], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"the kernel refuses a network namespace ({tried.stderr.strip()})"
    _ip("netns", "del", SPACE)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def namespace(port: int) -> Iterator[None]:
    """A network of its own which reaches one port of `HOST` and nothing else."""
    _ip("netns", "add", SPACE)
    try:
        _ip("link", "add", "rempart-loss0", "type", "veth", "peer", "name", "rempart-loss1", "netns", SPACE)
        _ip("addr", "add", f"{HOST}/30", "dev", "rempart-loss0")
        _ip("link", "set", "rempart-loss0", "up")
        for words in (f"addr add {GUEST}/30 dev rempart-loss1", "link set rempart-loss1 up", "link set lo up"):
            _ip("-n", SPACE, *words.split())
        rules = f"""
            add table inet proof
            add chain inet proof out {{ type filter hook output priority 0; policy drop; }}
            add rule inet proof out oif lo accept
            add rule inet proof out ip daddr {HOST} tcp dport {port} accept
        """
        subprocess.run([*inside(), "nft", "-f", "-"], input=rules, text=True, check=True)
        yield
    finally:
        _ip("netns", "del", SPACE)  # this also deletes both ends of the pair


def inside() -> list[str]:
    return ["ip", "netns", "exec", SPACE]


@contextmanager
def doorway(port: int) -> Iterator[None]:
    """`HOST`:port leads to the server on this machine's own address: its operator's line."""
    listener = socket.create_server((HOST, port))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 18):
                sink.sendall(piece)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=carry, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def reaches(host: str, port: int) -> bool:
    program = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
    done = subprocess.run([*inside(), sys.executable, "-c", program], capture_output=True, check=False)
    return done.returncode == 0
