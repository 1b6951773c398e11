"""Find the process that sent a packet: from its port to a socket, and from the socket to its holder, by /proc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench import packets

_MARKER = b"REMPART_SERVICE="


def _inodes(packet: packets.Packet) -> set[str]:
    """Return sockets of this protocol that are bound to the packet's source port; those connected to its target come
    first.
    """
    connected, bound = set(), set()
    for table in (packet.name, f"{packet.name}6"):
        file = Path(f"/proc/net/{table}")
        for row in file.read_text(encoding="ascii").splitlines()[1:] if file.is_file() else ():
            cells = row.split()
            if int(cells[1].rpartition(":")[2], 16) == packet.source_port and cells[9] != "0":
                bound.add(cells[9])
                if int(cells[2].rpartition(":")[2], 16) == packet.port:
                    connected.add(cells[9])
    return connected or bound


def _raw_inodes() -> set[str]:
    """Return sockets that send self-written packets, or pings."""
    found = set()
    for table in ("raw", "raw6", "icmp", "icmp6"):
        file = Path(f"/proc/net/{table}")
        if file.is_file():
            found |= {row.split()[9] for row in file.read_text(encoding="ascii").splitlines()[1:]}
    return found


def _open_files(process: Path) -> Iterator[str]:
    try:
        for handle in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                yield str(handle.readlink())
    except OSError:  # the process has ended meanwhile
        return


def _holders(inodes: set[str]) -> Iterator[int]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        if not wanted.isdisjoint(_open_files(process)):
            yield int(process.name)


def command_of(pid: int) -> str:
    """Return a process's command line on one line, shortened; empty if the process has ended."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes() or Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return ""
    return " ".join(raw.replace(b"\0", b" ").decode(errors="replace").split())[:200]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _service(pid: int) -> str:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    marker = next((v.removeprefix(_MARKER).decode() for v in variables if v.startswith(_MARKER)), "")
    return marker.partition(":")[2]


def _lineage(pid: int) -> list[int]:
    found = []
    while pid > 1:
        found.append(pid)
        pid = _parent(pid)
    return found


def sender(packet: packets.Packet) -> tuple[int, str, str, tuple[str, ...]]:
    """Return pid, command, service and ancestry of a packet's sender."""
    inodes = _inodes(packet) if packet.name in ("tcp", "udp") else _raw_inodes()
    pid = min(_holders(inodes), default=0) if inodes else 0
    if not pid:
        return 0, "a process that had gone", "", ()
    lineage = _lineage(pid)
    service = next((name for each in lineage if (name := _service(each))), "")
    return pid, command_of(pid), service, tuple(command_of(each) for each in lineage[1:])
