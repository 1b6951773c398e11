"""Count the outgoing traffic of a container: every look-up of a foreign name, every packet beyond its neighbours.

    python -m bench.quiet NEAR [NEAR ...]       in the container's network namespace, as root, until it is ended

`NEAR` are the networks of the container's neighbours. Packets without a route go to a TUN device, which counts them and
refuses them as a closed port does, so that nothing hangs. Names with a dot are foreign: neighbours have names of one
word, and the resolver that knows them listens on loopback. A look-up that goes to another resolver counts whatever its
name. The program prints "ready" once it counts, and one line of JSON at its end.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from bench import packets

DEVICE = "sink"
_ADDRESS = "198.18.0.1/32"
RESOLVER = "198.18.0.53"
"""Resolver of a container without a network: an address behind the device."""
_LAST = "4000000000"
"""Metric of a route that is used only if there is no other."""
_EVERY, _OUTGOING = 0x0003, 4
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_RCVBUFFORCE, _ATTACH_FILTER, _PACKET, _STATISTICS = 33, 26, 263, 6
_FILTER = (
    (0x30, 0, 0, 0xFFFFF004),  # which way it goes
    (0x15, 0, 10, _OUTGOING),
    (0x30, 0, 0, 0),
    (0x54, 0, 0, 0xF0),
    (0x15, 0, 6, 0x40),  # IPv4; every other is taken
    (0x30, 0, 0, 9),
    (0x15, 0, 4, packets.TCP),  # every other is taken
    (0xB1, 0, 0, 0),
    (0x50, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
"""Kernel filter (classic BPF): it passes outgoing packets, and of TCP only those that open a connection."""
_REVERSE = ".in-addr.arpa"
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")


def _is_near(name: str, near: Sequence[Any]) -> bool:
    """Return whether a look-up asks for the name of a neighbour's address."""
    address = ".".join(reversed(name.removesuffix(_REVERSE).split(".")))
    try:
        return name.endswith(_REVERSE) and any(ipaddress.ip_address(address) in network for network in near)
    except ValueError:
        return False


def _tap() -> socket.socket:
    """Read everything that leaves by any device and passes the filter."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERY))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _FILTER)
    place = ctypes.create_string_buffer(code)
    tap.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_FILTER), ctypes.addressof(place)))
    tap.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 32 << 20)
    return tap


@dataclass
class Count:
    """Packets of a container: `wanted` counts those to the outside by destination, `seen` counts all."""

    wanted: Counter[str] = field(default_factory=Counter)
    seen: int = 0

    def add(self, raw: bytes, near: Sequence[Any]) -> None:
        """Judge one packet that leaves the container, or goes to its own loopback."""
        if (packet := packets.parse(raw)) is None:
            return
        self.seen += 1
        target = ipaddress.ip_address(packet.target)
        # Docker's resolver listens on loopback, at a port that changes
        name = packets.asked_name(replace(packet, port=53)) if packet.protocol == packets.UDP else ""
        if not target.is_multicast and not any(target in network for network in (*_LOOPBACK, *near)):
            self.wanted[f"look-up of {name}" if name else f"{packet.name} {packet.target}:{packet.port}"] += 1
        elif "." in name and not _is_near(name, near):
            self.wanted[f"look-up of {name}"] += 1


def main(networks: Sequence[str]) -> None:
    near, count, ended = [ipaddress.ip_network(network) for network in networks], Count(), os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(ended[1], b"."))
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    for words in (f"addr add {_ADDRESS} dev", "link set up dev", f"route add default metric {_LAST} dev"):
        subprocess.run(["ip", *words.split(), DEVICE], check=True)
    with _tap() as tap:
        print("ready", flush=True)
        while ended[0] not in (ready := select.select([tun, tap, ended[0]], [], [])[0]):
            if tap in ready:
                count.add(tap.recv(65535), near)
            if tun in ready and (packet := packets.parse(os.read(tun, 65535))):
                reply = packets.answer(packet, {}) or packets.refusal(packet)
                os.write(tun, reply) if reply else None
        lost = struct.unpack("II", tap.getsockopt(_PACKET, _STATISTICS, 8))[1]
    print(json.dumps({"wanted": count.wanted, "seen": count.seen, "lost": lost}), flush=True)


@dataclass
class Counters:
    """A counter in the network of each container. `found`: the count of each, by its name, after their end."""

    networks: Callable[[str], list[str]]
    """The subnets of a network of the Engine, by its name."""
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def add(self, name: str, container: Mapping[str, Any]) -> None:
        """Start a counter in one more container, as `docker inspect` describes it; return once its packets are
        counted.
        """
        near = [subnet for network in container["NetworkSettings"]["Networks"] for subnet in self.networks(network)]
        enter = ["nsenter", "--target", str(container["State"]["Pid"]), "--net", "--"]
        command = [*enter, sys.executable, "-m", "bench.quiet", *near]
        process = self._running[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit(f"nobody counts in {name}")

    def end(self) -> None:
        for process in self._running.values():
            process.terminate()
        for name, process in self._running.items():
            told = process.communicate(timeout=30)[0]
            self.found[name] = json.loads(told.splitlines()[-1]) if told.strip() else {}


@contextmanager
def counting(networks: Callable[[str], list[str]]) -> Iterator[Counters]:
    """Run counters until the block ends."""
    counters = Counters(networks)
    try:
        yield counters
    finally:
        counters.end()


if __name__ == "__main__":
    main(sys.argv[1:])
