"""Parse IP packets, and build the replies that make an attempt fail at once.

Pure functions over bytes. Formats: RFC 791 and 8200 (IPv4, IPv6), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 1035
(DNS).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import dataclass

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMP6: "icmp6", 2: "igmp", 132: "sctp"}
_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options: all of one shape
_FRAGMENT = 44
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_DNS, _A, _AAAA = 53, 1, 28


@dataclass(frozen=True)
class Packet:
    """One packet that left a program. Ports are 0 if the protocol has none."""

    raw: bytes
    version: int
    protocol: int
    source: str
    source_port: int
    target: str
    port: int
    start: int
    """Offset of the protocol's header in `raw`."""

    @property
    def name(self) -> str:
        """Return the protocol: tcp, udp, icmp ..., or its number."""
        return _NAMES.get(self.protocol, str(self.protocol))

    @property
    def payload(self) -> bytes:
        """Return the content of the UDP packet; empty for every other."""
        return self.raw[self.start + 8 :] if self.protocol == UDP else b""


def parse(raw: bytes) -> Packet | None:
    """Return the packet; None for later fragments and for bytes that are not IP."""
    if len(raw) >= 20 and raw[0] >> 4 == 4:
        if struct.unpack("!H", raw[6:8])[0] & 0x1FFF:
            return None
        start, protocol, addresses = (raw[0] & 15) * 4, raw[9], (raw[12:16], raw[16:20])
    elif len(raw) >= 40 and raw[0] >> 4 == 6:
        start, protocol, addresses = 40, raw[6], (raw[8:24], raw[24:40])
        while protocol in (*_EXTENSIONS, _FRAGMENT) and len(raw) >= start + 8:
            if protocol == _FRAGMENT and struct.unpack("!H", raw[start + 2 : start + 4])[0] >> 3:
                return None
            length = 8 if protocol == _FRAGMENT else (raw[start + 1] + 1) * 8
            protocol, start = raw[start], start + length
    else:
        return None
    ports = (0, 0)
    if protocol in (TCP, UDP) and len(raw) >= start + 4:
        ports = struct.unpack("!HH", raw[start : start + 4])
    source, target = (str(ipaddress.ip_address(address)) for address in addresses)
    return Packet(raw, raw[0] >> 4, protocol, source, ports[0], target, ports[1], start)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packed(packet: Packet) -> tuple[bytes, bytes]:
    return ipaddress.ip_address(packet.source).packed, ipaddress.ip_address(packet.target).packed


def _reply(packet: Packet, protocol: int, body: bytes, place: int) -> bytes:
    """Return an IP packet back to the source. `place` is the offset of the checksum in the body."""
    here, there = _packed(packet)
    if protocol == ICMP:
        pseudo = b""
    elif packet.version == 4:
        pseudo = there + here + struct.pack("!BBH", 0, protocol, len(body))
    else:
        pseudo = there + here + struct.pack("!IHBB", len(body), 0, 0, protocol)
    value = checksum(pseudo + body)
    body = body[:place] + struct.pack("!H", value or 0xFFFF) + body[place + 2 :]
    if packet.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + there + here + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + there + here
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def refusal(packet: Packet) -> bytes | None:
    """Return a closed port's answer: a reset for TCP, "port unreachable" for UDP; None if no answer is due."""
    if packet.protocol == TCP:
        if len(packet.raw) < packet.start + 20:
            return None
        sequence, _, offset, flags = struct.unpack("!IIBB", packet.raw[packet.start + 4 : packet.start + 14])
        if flags & _RST:
            return None
        carried = len(packet.raw) - packet.start - (offset >> 4) * 4 + bool(flags & _SYN)
        ports = (packet.port, packet.source_port)
        acknowledged = (sequence + carried) & 0xFFFFFFFF
        body = struct.pack("!HHIIBBHHH", *ports, 0, acknowledged, 5 << 4, _RST | _ACK, 0, 0, 0)
        return _reply(packet, TCP, body, 16)
    if packet.protocol == UDP and not ipaddress.ip_address(packet.target).is_multicast:
        kind = (3, 3) if packet.version == 4 else (1, 4)
        quoted = packet.raw[: packet.start + 8] if packet.version == 4 else packet.raw[:1200]
        body = struct.pack("!BBHI", *kind, 0, 0) + quoted
        return _reply(packet, ICMP if packet.version == 4 else ICMP6, body, 2)
    return None


def asked_name(packet: Packet) -> str:
    """Return the name that a look-up asks for; empty if the packet is not a DNS query."""
    name, _ = _question(packet)
    return name


def _question(packet: Packet) -> tuple[str, int]:
    """Return the requested name, and the end of the question in the payload; ("", 0) if there is no question."""
    data = packet.payload
    if packet.port != _DNS or len(data) < 17 or data[2] & 0x80 or data[4:6] != b"\0\1":
        return "", 0
    labels, at = [], 12
    while at < len(data) and data[at]:
        if data[at] > 63:
            return "", 0
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii", errors="replace"))
        at += 1 + data[at]
    return (".".join(labels), at + 5) if at + 5 <= len(data) else ("", 0)


def answer(packet: Packet, names: Mapping[str, str]) -> bytes | None:
    """Return the reply to a look-up: the address in `names`, else "no such name".

    None if the packet is not a DNS query.
    """
    name, end = _question(packet)
    if not name:
        return None
    data, record = packet.payload, b""
    known = names.get(name.lower())
    if known:
        address = ipaddress.ip_address(known)
        wanted = struct.unpack("!H", data[end - 4 : end - 2])[0]
        if wanted == (_A if address.version == 4 else _AAAA):
            packed = address.packed
            record = struct.pack("!HHHIH", 0xC00C, wanted, 1, 30, len(packed)) + packed
    flags = 0x8180 if known else 0x8183
    counts = struct.pack("!HHHHH", flags, 1, int(bool(record)), 0, 0)
    body = data[:2] + counts + data[12:end] + record
    head = struct.pack("!HHHH", packet.port, packet.source_port, 8 + len(body), 0)
    return _reply(packet, UDP, head + body, 6)
