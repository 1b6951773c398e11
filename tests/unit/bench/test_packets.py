"""Packets are read and answered as on a network: every checksum is right, and no input breaks the reader."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from bench import packets

ports = st.integers(1, 65535)
pairs = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)
labels = st.lists(st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True), min_size=1, max_size=4)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip(source: Address, target: Address, protocol: int, body: bytes) -> bytes:
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0)
        return head + source.packed + target.packed + body
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + source.packed + target.packed + body


def syn(source_port: int, port: int, sequence: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, 2, 1000, 0, 0)


def udp(source_port: int, port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload


def query(name: str, kind: int = 1) -> bytes:
    encoded = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0) + encoded + b"\0" + struct.pack("!HH", kind, 1)


def parsed(raw: bytes) -> packets.Packet:
    found = packets.parse(raw)
    assert found
    return found


def sums_are_right(raw: bytes) -> bool:
    """Checked as a receiver does: the sum over a header that holds its own checksum is 0."""
    packet = parsed(raw)
    source, target = (ipaddress.ip_address(a).packed for a in (packet.source, packet.target))
    body = raw[packet.start :]
    if packet.version == 4:
        pseudo = (
            b"" if packet.protocol == packets.ICMP else source + target + struct.pack("!HH", packet.protocol, len(body))
        )
        return packets.checksum(raw[: packet.start]) == 0 and packets.checksum(pseudo + body) == 0
    return packets.checksum(source + target + struct.pack("!II", len(body), packet.protocol) + body) == 0


@given(st.binary(max_size=120))
def test_any_bytes_are_read_without_an_error(raw: bytes) -> None:
    packet = packets.parse(raw)
    if packet:
        packets.answer(packet, {})
        packets.refusal(packet)


@given(pairs, ports, ports, st.integers(0, 2**32 - 1))
def test_a_connection_is_refused_with_a_reset_that_its_sender_accepts(
    pair: tuple[Address, Address], source_port: int, port: int, sequence: int
) -> None:
    packet = parsed(ip(*pair, packets.TCP, syn(source_port, port, sequence)))
    assert (packet.target, packet.port, packet.name) == (str(pair[1]), port, "tcp")
    reply = packets.refusal(packet)
    assert reply and sums_are_right(reply)
    back = parsed(reply)
    assert (back.source, back.source_port, back.target, back.port) == (str(pair[1]), port, str(pair[0]), source_port)
    acknowledged, _, flags = struct.unpack("!IBB", reply[back.start + 8 : back.start + 14])
    assert acknowledged == (sequence + 1) % 2**32 and flags == 0x14
    assert packets.refusal(back) is None, "a reset must not answer a reset"


@given(pairs, ports, ports, st.binary(max_size=60))
def test_a_datagram_is_refused_by_quoting_it(
    pair: tuple[Address, Address], source_port: int, port: int, payload: bytes
) -> None:
    raw = ip(*pair, packets.UDP, udp(source_port, port, payload))
    reply = packets.refusal(parsed(raw))
    if pair[1].is_multicast:
        assert reply is None
        return
    assert reply and sums_are_right(reply)
    back = parsed(reply)
    kind, code = reply[back.start : back.start + 2]
    assert (back.protocol, kind, code) == ((packets.ICMP, 3, 3) if back.version == 4 else (packets.ICMP6, 1, 4))
    assert raw.startswith(reply[back.start + 8 :])


@given(pairs, ports, labels)
def test_a_look_up_is_read_and_answered(pair: tuple[Address, Address], source_port: int, parts: list[str]) -> None:
    name = ".".join(parts)
    packet = parsed(ip(*pair, packets.UDP, udp(source_port, 53, query(name))))
    assert packets.asked_name(packet) == name
    absent, known = packets.answer(packet, {}), packets.answer(packet, {name: "203.0.113.5"})
    assert absent and known and sums_are_right(absent) and sums_are_right(known)
    assert parsed(absent).payload[3] & 15 == 3, "no such name"
    assert known.endswith(ipaddress.ip_address("203.0.113.5").packed)


def test_a_name_without_an_address_of_the_kind_that_is_asked_for_exists_all_the_same() -> None:
    pair = ipaddress.ip_address("198.18.0.1"), ipaddress.ip_address("198.18.0.53")
    packet = parsed(ip(*pair, packets.UDP, udp(40000, 53, query("a.example", kind=28))))
    reply = packets.answer(packet, {"a.example": "203.0.113.5"})
    assert reply and parsed(reply).payload[2:8] == b"\x81\x80\0\1\0\0"


def test_what_follows_an_extension_header_of_ipv6_is_found() -> None:
    source, target = ipaddress.ip_address("2001:db8::1"), ipaddress.ip_address("2001:db8::2")
    body = bytes([packets.UDP, 0, 0, 0, 0, 0, 0, 0]) + udp(5, 8125, b"x")
    packet = parsed(ip(source, target, 0, body))
    assert (packet.name, packet.port) == ("udp", 8125)
