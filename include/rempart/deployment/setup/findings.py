"""Findings of preflight, and the checks of folders, limits, addresses and the clock. Standard library only."""

from __future__ import annotations

import base64
import email.utils
import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class PreflightFinding:
    """One check: what was looked at, what was found, and the remedy when it is not ok."""

    what: str
    outcome: Outcome
    detail: str
    remedy: str = ""

    def line(self) -> str:
        sign = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}[self.outcome]
        return f"{sign}  {self.what:<15} {self.detail}" + (f"\n      -> {self.remedy}" if self.remedy else "")


def one_for_each_remedy(findings: Iterable[PreflightFinding]) -> list[PreflightFinding]:
    """Return the first finding of each remedy, with the number of the others, which it mends as well."""
    by_remedy: dict[str, list[PreflightFinding]] = {}
    for finding in findings:
        by_remedy.setdefault(finding.remedy, []).append(finding)
    return [
        replace(first, detail=f"{first.detail}; {len(more)} more ports of this stack are taken so") if more else first
        for first, *more in by_remedy.values()
    ]


OPEN_FILES, OPEN_FILES_WARN = 256, 1024
CLOCK_SECONDS = 300


def check_open_files(limit: int) -> PreflightFinding:
    """Check how many files a process may open (`ulimit -n`); a negative limit is none."""
    detail = f"{limit} a process" if limit >= 0 else "no limit"
    if limit < 0 or limit >= OPEN_FILES_WARN:
        return PreflightFinding("open files", "ok", detail)
    outcome: Outcome = "warning" if limit >= OPEN_FILES else "failed"
    return PreflightFinding("open files", outcome, f"{detail}, {OPEN_FILES_WARN} needed", "Run: ulimit -n 4096")


def check_folder(what: str, folder: Path, flags: int, *, writable: bool) -> PreflightFinding:
    """Check the mount and the rights of a folder. `flags` are those of os.statvfs."""
    if flags & os.ST_RDONLY:
        fault, remedy = "is on a file system that is mounted read-only", "Clone into another folder."
    elif flags & os.ST_NOEXEC:
        fault = "is on a file system from which no program may start (noexec)"
        remedy = f"Clone into another folder, or: sudo mount -o remount,exec {_mount(folder)}"
    elif not writable:
        fault = f"belongs to user {folder.stat().st_uid}, and you are user {os.geteuid()} and may not write there"
        remedy = f"Run it as that user, or: sudo chown -R {os.geteuid()} {folder}"
    else:
        return PreflightFinding(what, "ok", f"{folder} can be written")
    return PreflightFinding(what, "failed", f"{folder} {fault}", remedy)


def _mount(folder: Path) -> Path:
    """Return the mount point of a folder."""
    return folder if folder.is_mount() or folder == folder.parent else _mount(folder.parent)


def localhost() -> list[str]:
    """Return the addresses of the name `localhost`; empty if it has none."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)]
    except OSError:
        return []


_SYSTEM = Path("/proc/sys/net/ipv4")


def outgoing_ports(told: Path = _SYSTEM / "ip_local_port_range") -> range:
    """Return the ports from which the system takes those of outgoing connections; an empty range if it is unknown."""
    try:
        first, last = map(int, told.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return range(0)
    return range(first, last + 1)


def given_ports(told: Path = _SYSTEM / "ip_local_reserved_ports") -> frozenset[int]:
    """Return the ports that the system gives to outgoing connections: those of the range that are not reserved."""
    try:
        spans = [span.split("-") for span in told.read_text(encoding="ascii").strip().split(",") if span]
        reserved = {port for span in spans for port in range(int(span[0]), int(span[-1]) + 1)}
    except (OSError, ValueError):
        reserved = set()
    return frozenset(outgoing_ports()) - reserved


def reserved_ports(told: Path = _SYSTEM / "ip_local_reserved_ports") -> str:
    """Return the ports that the system keeps from outgoing connections, as it writes them; empty if unknown or none."""
    try:
        return told.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def check_lasting(
    ports: Mapping[str, int], given: Container[int], offset: Callable[[], int], reserved: str = ""
) -> PreflightFinding:
    """Return the finding on ports that are free or ours: a hint if an outgoing connection may take one at any time.

    `given`: the ports that the system gives to outgoing connections. `offset`: one with which no port is given; else 0.
    `reserved`: what the system keeps already: the remedy writes the whole list.
    """
    low, high = min(ports.values(), default=0), max(ports.values(), default=0)
    detail = f"all {len(ports)} free or ours ({low} to {high})"
    exposed = sorted(port for port in ports.values() if port in given)
    if not exposed:
        return PreflightFinding("ports", "ok", detail)
    among = f"port {exposed[0]}" if len(exposed) == 1 else f"{len(exposed)} of them, such as {exposed[0]},"
    detail += f", but any program's outgoing connection may take {among} while the stack is stopped"
    if another := offset():
        return PreflightFinding("ports", "warning", detail, f"Set another REMPART_PORT_OFFSET, such as {another}.")
    span = ",".join(filter(None, (reserved, f"{exposed[0]}-{exposed[-1]}")))
    return PreflightFinding(
        "ports", "warning", detail, f"Reserve them: sudo sysctl -w net.ipv4.ip_local_reserved_ports={span}"
    )


def check_loopback(addresses: Iterable[str], *, listens: bool) -> PreflightFinding:
    """Check the machine's own address: `addresses` are those of `localhost`. Some VPNs and hosts files break it."""
    if not listens:
        return PreflightFinding("loopback", "failed", "nothing can listen on 127.0.0.1", "Run: sudo ip link set lo up")
    found = sorted(set(addresses))
    if found and all(address == "::1" or address.startswith("127.") for address in found):
        return PreflightFinding("loopback", "ok", f"localhost is {', '.join(found)}")
    return PreflightFinding(
        "loopback",
        "warning",
        f"localhost is {', '.join(found) or 'unknown'}, not 127.0.0.1",
        "Add the line `127.0.0.1 localhost` to /etc/hosts, or leave the VPN that changes it.",
    )


def check_clock(date: str, now: float) -> PreflightFinding:
    """Compare the clock with the Date header of an HTTP answer: signatures and certificates need the right time."""
    parsed = email.utils.parsedate_tz(date)
    if parsed is None:
        return PreflightFinding("clock", "ok", "not compared: no server told its time")
    apart = now - email.utils.mktime_tz(parsed)
    if abs(apart) <= CLOCK_SECONDS:
        return PreflightFinding("clock", "ok", "agrees with the package index")
    way = "ahead of" if apart > 0 else "behind"
    detail = f"{abs(apart) / 60:.0f} minutes {way} the package index"
    return PreflightFinding("clock", "warning", detail, "Run: sudo timedatectl set-ntp true")


def check_host(system: str, machine: str) -> PreflightFinding:
    if system == "Linux" and machine in ("x86_64", "aarch64", "arm64"):
        return PreflightFinding("host", "ok", f"{system} {machine}, {os.cpu_count()} cores")
    return PreflightFinding(
        "host", "failed", f"{system} {machine}", "Run it on Linux, x86_64 or aarch64 (a virtual machine will do)."
    )


def check_amount(what: str, gib: float, need: float, comfortable: float, remedy: str) -> PreflightFinding:
    """Check disk or memory: failed below `need`, a warning below `comfortable`."""
    detail = f"{gib:.1f} GiB available"
    if gib < need:
        return PreflightFinding(what, "failed", f"{detail}, {need:g} needed", remedy)
    if gib < comfortable:
        return PreflightFinding(what, "warning", f"{detail}, {comfortable:g} advised", remedy)
    return PreflightFinding(what, "ok", detail)


def available_memory_gib() -> float:
    """Return the memory that can still be allocated: the machine's, or the cgroup's lower limit."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    amounts = [int(meminfo["MemAvailable"].split()[0]) / 2**20]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        amounts.append((int(text) - used) / 2**30)
    return min(amounts)


def check_user(uid: int, environment: Mapping[str, str]) -> PreflightFinding:
    if uid != 0:
        return PreflightFinding("user", "ok", f"uid {uid}")
    if shutil.which("setpriv", path=environment.get("PATH")):
        return PreflightFinding("user", "ok", "root (PostgreSQL will run as an unprivileged user)")
    return PreflightFinding(
        "user",
        "failed",
        "root, and there is no setpriv: PostgreSQL refuses to run as root",
        "Install util-linux, or run as an ordinary user.",
    )


NO_RESTIC = "rempart-no-restic"
"""File in the environment after set-up could not unpack restic, with the reason."""


def check_restic(environment: Mapping[str, str], unpacked: Path) -> PreflightFinding:
    """Return restic on PATH, or where setup unpacks it."""
    if program := shutil.which("restic", path=environment.get("PATH")) or (unpacked.is_file() and str(unpacked)):
        return PreflightFinding("restic", "ok", program)
    if shutil.which("apt-get", path=environment.get("PATH")) and not (unpacked.parents[2] / NO_RESTIC).is_file():
        return PreflightFinding("restic", "ok", "not here yet: `make setup` unpacks it (8 MB)")
    return PreflightFinding(
        "restic",
        "warning",
        "not found: `make setup` unpacks one where there is apt; without it there are no backups of databases",
        "On Debian and Ubuntu: apt-get install restic. Elsewhere: put restic 0.17.1 or later on PATH.",
    )


def request_of(url: str) -> urllib.request.Request:
    """Return a request for a URL. Its user and password go into a header, which no redirect gets and nobody looks up.

    `urllib` takes them for a part of the host's name, and asks the name server for it. Raises ValueError.
    """
    parts = urllib.parse.urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    asked = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))  # noqa: S310 # the user's own
    if at:
        name, _, password = map(urllib.parse.unquote, login.partition(":"))
        given = base64.b64encode(f"{name}:{password}".encode()).decode()
        asked.add_unredirected_header("Authorization", f"Basic {given}")
    return asked
