"""Find listening ports and Unix sockets of processes in the kernel's tables, whether or not they are declared."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTENS = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""States of a socket that waits: of TCP, and of UDP without a peer."""
_ACCEPTS = 0x10000
"""A Unix socket's flag: it waits for connections."""


@dataclass(frozen=True, order=True)
class Port:
    """A TCP or UDP port on which somebody listens, with its inode."""

    kind: str
    address: str
    port: int
    inode: str = ""


def parse(table: str, kind: str) -> Iterator[Port]:
    """Ports of one of the kernel's tables, /proc/net/tcp and its like."""
    for row in (line.split() for line in table.splitlines()):
        if len(row) > 9 and row[3] == _LISTENS[kind] and re.fullmatch(r"[0-9A-F]+:[0-9A-F]{4}", row[1]):
            address, _, port = row[1].partition(":")
            if int(row[2].partition(":")[2], 16) == 0:
                yield Port(kind.removesuffix("6"), _address(address), int(port, 16), row[9])


def _address(text: str) -> str:
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def of_namespace(pid: int | str = "self") -> list[Port]:
    """Every port on which somebody listens in the network of a process."""
    found = []
    for kind in _LISTENS:
        table = Path(f"/proc/{pid}/net/{kind}")
        found += list(parse(table.read_text(encoding="ascii"), kind)) if table.is_file() else []
    return found


def of_processes(pids: Iterable[int]) -> dict[Port, int]:
    """Ports on which these processes listen, with one of them for each."""
    ports = {port.inode: port for port in of_namespace()}
    return {ports[inode]: pid for pid in pids for inode in _inodes(pid) if inode in ports}


def sockets_of_processes(pids: Iterable[int]) -> dict[str, int]:
    """Paths of Unix sockets on which these processes wait for connections, with one of them for each."""
    rows = [row.split(maxsplit=7) for row in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]]
    paths = {row[6]: row[7] for row in rows if len(row) > 7 and int(row[3], 16) & _ACCEPTS}
    return {paths[inode]: pid for pid in pids for inode in _inodes(pid) if inode in paths}


def _inodes(pid: int) -> set[str]:
    found = set()
    try:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(handle.readlink())
            except FileNotFoundError:  # closed since
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except (PermissionError, FileNotFoundError):  # another user's, or gone
        return found
    return found
