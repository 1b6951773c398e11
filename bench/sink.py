"""A network namespace that leads nowhere: loopback, and a sink that counts everything else by process. Needs root.

How a proof uses it (`bench.prove_egress`, `bench.prove_egress_layers`):

    if reason := sink.why_not():                          # not root, no /dev/net/tun ...: say so, run nothing
        ...
    if not sink.inside():
        return sink.Namespace().run("bench.prove_mine", sys.argv[1:])   # this module again, inside; its exit code
    with sink.Sink() as caught:                           # inside: the counting starts
        subprocess.run(["curl", "https://example.eu"])
        for attempt in caught.attempts():                 # what came to the sink, in order
            print(attempt.destination, attempt.process)

`Namespace.run` executes `python -m MODULE` in network, mount, PID, IPC and UTS namespaces of its own:
- every process that starts inside ends with it, also after Ctrl-C or kill -9: the kernel ends a PID namespace at once;
- `lo` is there as usual; every other address, IPv4 and IPv6, leads into a TUN device;
- /tmp, /run and /dev/shm are its own, because Unix sockets pass from one network namespace to another;
- names resolve by /etc/hosts (localhost only) and then by DNS at an address behind the sink; the machine is called
  `HOSTNAME`, which nothing resolves, so that a program that looks up its own name is caught on every machine;
- proxy settings are taken away: behind a proxy on loopback an attempt would not be seen.

`Sink` reads every packet, finds the process by its socket, and answers as a closed port does, so that nothing hangs.
Every packet counts: the device is set up so that the kernel sends none of its own. A look-up answers "no such name",
except for `Sink(names={"allowed.example": "203.0.113.5"})`. nftables rules may be loaded inside as on a machine of its
own: what they stop does not reach the sink. A process that sends one UDP packet, waits for nothing and ends at once may
have gone before it is found: its packet counts all the same, under "a process that had gone".
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import packets, senders
from rempart.settings import config

DEVICE = "sink"
HOSTNAME = "rempart-sealed"
NAMESERVER = "198.18.0.53"
_ADDRESS4, _ADDRESS6 = "198.18.0.1/32", "2001:db8::1/128"  # for tests and documentation: RFC 2544, RFC 3849
_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_INSIDE = "REMPART_SEALED"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy")
_PATIENCE_SECONDS = 90


@dataclass(frozen=True)
class Attempt:
    """One packet that tried to leave: when (seconds since the sink opened), its destination, and its sender."""

    at: float
    protocol: str
    address: str
    port: int
    lookup: str
    """The name, if the packet is a DNS query."""
    pid: int
    """0 if the process had ended before it could be found."""
    process: str
    """The command line, shortened."""
    service: str
    """The stack's service that the process belongs to (`REMPART_SERVICE`), or an empty text."""
    ancestry: tuple[str, ...]
    """The commands of the process's parents, nearest first."""

    @property
    def destination(self) -> str:
        where = f"[{self.address}]" if ":" in self.address else self.address
        text = f"{self.protocol} {where}:{self.port}"
        return f"look-up of {self.lookup} ({text})" if self.lookup else text


# --- the namespace ----------------------------------------------------------------------------------------------------


def why_not() -> str:
    """Return why this machine or user cannot have such a namespace, with the remedy; empty if it can."""
    if os.geteuid() != 0:
        return "a network namespace with a TUN device needs root: run it with sudo, or as root in a container of CI"
    for program in ("unshare", "setpriv", "mount", "ip"):
        if not shutil.which(program):
            package = "iproute2" if program == "ip" else "util-linux"
            return f"there is no `{program}` on this machine: install {package}"
    if not _TUN.exists():
        return (
            f"there is no {_TUN} on this machine: load the kernel's module (modprobe tun), or pass it to the container"
        )
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"the kernel refuses namespaces ({tried.stderr.strip()}): in a container, add the capability SYS_ADMIN"
    return ""


def inside() -> bool:
    """Return whether this process runs in such a namespace."""
    return os.environ.get(_INSIDE) == "1"


def _unshare() -> list[str]:
    flags = ["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc", "--kill-child"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *flags]


@dataclass(frozen=True)
class Namespace:
    """A namespace: `keep` are folders that stay visible inside although they lie under /tmp."""

    keep: tuple[Path, ...] = field(
        default_factory=lambda: (config.project_root(), config.var_dir(), Path(sys.prefix), Path(sys.base_prefix))
    )

    def run(self, module: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> int:
        """Run `python -m module` with these arguments inside. Return its exit code (128 + n if signal n ended it).

        Ctrl-C goes to the module, which has a minute and a half to clean up. Nothing is left afterwards.
        """
        clean = {k: v for k, v in os.environ.items() if k.lower() not in _PROXIES}
        with tempfile.TemporaryDirectory(prefix="rempart-sealed-") as private:
            keep = [str(folder.resolve()) for folder in self.keep]
            command = [*_unshare(), sys.executable, "-m", "bench.sink", private, ":".join(keep), module, *arguments]
            with subprocess.Popen(command, env=clean | dict(environment or {}) | {_INSIDE: "1"}) as process:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_PATIENCE_SECONDS)
                    raise
                finally:
                    process.kill()


def _call(*command: str) -> None:
    subprocess.run(command, check=True)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _private_folders(private: Path, keep: Iterable[Path]) -> None:
    """Mount the namespace's own temporary folders, sockets and shared memory."""
    usual, chosen = Path("/tmp"), Path(tempfile.gettempdir()).resolve()  # noqa: S108 # SeaweedFS heeds no TMPDIR
    inner = private / "tmp"
    inner.mkdir()
    inner.chmod(0o1777)
    places = [usual]
    if chosen.is_relative_to(usual):
        (inner / chosen.relative_to(usual)).mkdir(parents=True, exist_ok=True)
    else:
        places.append(chosen)
    for place in places:
        for folder in keep:
            if folder.is_relative_to(place) and folder.exists():
                seen = inner / folder.relative_to(place)
                seen.mkdir(parents=True, exist_ok=True)
                _call("mount", "--bind", str(folder), str(seen))
    handle = os.open(inner, os.O_PATH)  # the first mount may hide its path
    for place in places:
        _call("mount", "--rbind", f"/proc/{os.getpid()}/fd/{handle}", str(place))
    os.close(handle)
    for place in (Path("/run"), Path("/dev/shm")):  # noqa: S108
        if place.is_dir():
            _call("mount", "-t", "tmpfs", "-o", "mode=1777" if place.name == "shm" else "mode=755", "tmpfs", str(place))


def _name_resolution(private: Path) -> None:
    """Write files that leave one way to resolve a name: a query that can be counted."""
    nsswitch = Path("/etc/nsswitch.conf")
    lines = nsswitch.read_text(encoding="utf-8").splitlines() if nsswitch.is_file() else []
    texts = {
        Path("/etc/resolv.conf"): f"nameserver {NAMESERVER}\noptions attempts:1\n",
        Path("/etc/hosts"): "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
        nsswitch: "\n".join([*(line for line in lines if not line.startswith("hosts:")), "hosts: files dns"]) + "\n",
    }
    for place, text in texts.items():
        own = private / place.name
        own.write_text(text, encoding="utf-8")
        own.chmod(0o644)
        real = place.resolve()
        if not real.exists():  # a link into /run, which is empty now
            real.parent.mkdir(parents=True, exist_ok=True)
            real.touch()
        _call("mount", "--bind", str(own), str(real))


def _become_init(private: Path, keep: Sequence[Path], module: str, arguments: Sequence[str]) -> int:
    """Run as the namespace's first process: prepare, start the module, reap orphans, and end with the module."""
    if os.getpid() != 1 or not inside():
        raise SystemExit("bench.sink is started by Namespace.run, inside a namespace")
    _call("ip", "link", "set", "lo", "up")
    _write("/proc/sys/kernel/hostname", HOSTNAME)
    for place in ("/run", "/dev/shm"):  # noqa: S108
        if any(folder.is_relative_to(place) for folder in keep):
            raise SystemExit(f"the project or its state lies in {place}, which is hidden inside: move it elsewhere")
    _private_folders(private, keep)
    _name_resolution(Path(tempfile.mkdtemp(prefix="etc-")))
    child = subprocess.Popen([sys.executable, "-m", module, *arguments])
    signal.signal(signal.SIGINT, lambda received, frame: None)  # Ctrl-C also reaches the module: wait for its end
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


# --- the sink ---------------------------------------------------------------------------------------------------------


class Sink:
    """The far end of the namespace's only way out, open until the context ends.

    `on_attempt` is called for each attempt as it comes (in the sink's own thread). Raises OSError, CalledProcessError.
    """

    def __init__(
        self, names: Mapping[str, str] | None = None, on_attempt: Callable[[Attempt], None] = lambda attempt: None
    ) -> None:
        self._names = {name.lower(): address for name, address in (names or {}).items()}
        self._on_attempt = on_attempt
        self._seen: list[Attempt] = []
        self._fault: BaseException | None = None
        self._counting = threading.Lock()  # held from the reading of a packet until it is counted
        self._reader = threading.Thread(target=self._run, name="sink", daemon=True)

    @property
    def ipv6(self) -> bool:
        """Return whether the kernel has IPv6 at all: without it there is nothing to count."""
        return Path("/proc/sys/net/ipv6").is_dir()

    def __enter__(self) -> Self:
        if not inside():
            raise RuntimeError("a sink works only inside Namespace.run: outside it would take this machine's network")
        self._tun = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(self._tun, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        if self.ipv6:
            # no link-local address: the kernel then sends no router solicitation and no report of its own
            _call("ip", "link", "set", "dev", DEVICE, "addrgenmode", "none")
            _call("ip", "-6", "addr", "add", _ADDRESS6, "dev", DEVICE, "nodad")
        _call("ip", "addr", "add", _ADDRESS4, "dev", DEVICE)
        _call("ip", "link", "set", "dev", DEVICE, "up")
        _call("ip", "route", "add", "default", "dev", DEVICE)
        if self.ipv6:
            _call("ip", "-6", "route", "add", "default", "dev", DEVICE)
        self._opened = time.monotonic()
        self._stop = os.pipe()
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop[1], b".")
        self._reader.join()
        for handle in (self._tun, *self._stop):
            os.close(handle)
        self._check()

    def _check(self) -> None:
        if self._fault:
            raise RuntimeError("the sink has stopped counting") from self._fault

    def attempts(self, since: int = 0) -> tuple[Attempt, ...]:
        """Return all attempts so far, from number `since` on. Wait until current packets have been counted.

        Raises RuntimeError if the sink has stopped counting: silence is then no proof.
        """
        while True:
            while select.select([self._tun], [], [], 0.2)[0] and not self._fault:
                time.sleep(0.05)
            with self._counting:
                if self._fault or not select.select([self._tun], [], [], 0)[0]:
                    break
        self._check()
        return tuple(self._seen[since:])

    def _run(self) -> None:
        try:
            while self._stop[0] not in (ready := select.select([self._tun, self._stop[0]], [], [])[0]):
                if ready:
                    with self._counting:
                        self._take(os.read(self._tun, 65535))
        except BaseException as fault:
            self._fault = fault
            raise

    def _take(self, raw: bytes) -> None:
        packet = packets.parse(raw)
        if packet is None:
            return
        attempt = Attempt(
            round(time.monotonic() - self._opened, 3),
            packet.name,
            packet.target,
            packet.port,
            packets.asked_name(packet),
            *senders.sender(packet),
        )
        self._seen.append(attempt)
        self._on_attempt(attempt)
        reply = packets.answer(packet, self._names) or packets.refusal(packet)
        if reply:
            os.write(self._tun, reply)


if __name__ == "__main__":
    sys.exit(_become_init(Path(sys.argv[1]), [Path(p) for p in sys.argv[2].split(":")], sys.argv[3], sys.argv[4:]))
