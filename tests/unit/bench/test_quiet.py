"""Which packets and look-ups count as outgoing, in a container that has neighbours."""

from __future__ import annotations

import ipaddress
import struct

from bench import packets
from bench.quiet import Count

NEAR = [ipaddress.ip_network("172.20.0.0/16")]
RESOLVER = "127.0.0.11"


def udp(target: str, port: int, payload: bytes) -> bytes:
    addresses = b"".join(ipaddress.ip_address(address).packed for address in ("172.20.0.2", target))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, packets.UDP, 0) + addresses
    return head + struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


def query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 1, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def counted(*sent: bytes) -> dict[str, int]:
    count = Count()
    for raw in sent:
        count.add(raw, NEAR)
    assert count.seen == len(sent)
    return dict(count.wanted)


def test_a_neighbour_is_no_outside_by_name_by_address_or_in_reverse() -> None:
    reverse = query("3.0.20.172.in-addr.arpa")
    sent = (udp(RESOLVER, 41234, query("postgres")), udp(RESOLVER, 41234, reverse), udp("172.20.0.3", 9, b"x"))
    assert counted(*sent) == {}


def test_every_other_look_up_and_packet_is_counted_whichever_port_the_resolver_has() -> None:
    foreign = udp(RESOLVER, 41234, query("events.example"))
    other = udp(RESOLVER, 41234, query("3.0.0.10.in-addr.arpa"))
    wanted = {"look-up of events.example": 2, "look-up of 3.0.0.10.in-addr.arpa": 1, "udp 192.0.2.1:9": 1}
    assert counted(foreign, foreign, other, udp("192.0.2.1", 9, b"x")) == wanted


def test_a_look_up_that_leaves_for_an_outside_resolver_is_counted_whatever_its_name() -> None:
    word, reverse = udp("192.0.2.53", 53, query("postgres")), udp("192.0.2.53", 53, query("3.0.20.172.in-addr.arpa"))
    wanted = {"look-up of postgres": 1, "look-up of 3.0.20.172.in-addr.arpa": 1}
    assert counted(word, reverse) == wanted
