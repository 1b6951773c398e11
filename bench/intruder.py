"""A client without credentials at a port or a Unix socket: reads attacks as JSON, and prints the answers as JSON.

The module uses the standard library only, so that it also runs in a container. With `uid`, it runs as that user and
drops all rights of root.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 # of a folder that another user may not be able to read: now, not later
import http.client
import json
import os
import socket
import ssl
import struct
import sys
from typing import Any

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE = 30.0
"""A busy server is slow; who has not answered by then is told as silent, which is no refusal."""
LONGEST = 65536
_HEADERS, _SETTINGS = 1, 4
"""Kinds of HTTP/2 frames."""


def become(uid: int) -> None:
    """Be another user of the machine for good: no group, no capability, nothing of root's."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def connect(attack: dict[str, Any]) -> socket.socket:
    if attack.get("unix"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(attack["unix"])
    else:
        connection = socket.create_connection((attack["host"], attack["port"]), timeout=PATIENCE)
    if not attack.get("tls"):
        return connection
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if attack["how"] == "grpc" else ["http/1.1"])
    if attack.get("certificate"):
        context.load_cert_chain(*attack["certificate"])
    return context.wrap_socket(connection)


def ask(attack: dict[str, Any]) -> dict[str, Any]:
    """One attack: `status` of the answer, if there was one that gives something to read, and its `text`."""
    try:
        return {"grpc": grpc, "http": web, "raw": raw, "udp": udp, "postgresql": postgresql}[attack["how"]](attack)
    except (OSError, http.client.HTTPException) as error:
        return {"status": None, "text": getattr(error, "reason", None) or f"{type(error).__name__}: {error}"}


def web(attack: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", timeout=PATIENCE)
    connection.sock = connect(attack)
    host = f"{attack.get('host', 'localhost')}:{attack.get('port', 80)}"
    headers = {"Host": host, **attack.get("headers", {})}
    connection.request(attack.get("method", "GET"), attack["path"], attack.get("body"), headers)
    answer = connection.getresponse()
    text = answer.read(LONGEST).decode(errors="replace")
    return {"status": answer.status, "text": text[:300], "origin": answer.getheader("Access-Control-Allow-Origin")}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


def field(name: str, value: str) -> bytes:
    """A header field in HPACK: literal, never indexed, no Huffman code. Both shorter than 127 bytes."""
    return b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def grpc(attack: dict[str, Any]) -> dict[str, Any]:
    """A unary call. Status 200 if a service took the call, whatever it made of it; the text is what it said."""
    message = bytes.fromhex(attack.get("message", ""))
    pseudo = {":method": "POST", ":scheme": "http", ":path": attack["path"], ":authority": "localhost"}
    headers = {**pseudo, "content-type": "application/grpc", "te": "trailers"}
    encoded = b"".join(field(name, value) for name, value in headers.items())
    data = b"\0" + struct.pack("!I", len(message)) + message
    with connect(attack) as connection:
        connection.sendall(PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, encoded) + frame(0, 1, 1, data))
        received, heard = b"", []
        while True:
            while len(received) >= 9 and len(received) >= 9 + (size := int.from_bytes(received[:3], "big")):
                kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big") & 0x7FFFFFFF
                payload, received = received[9 : 9 + size], received[9 + size :]
                heard.append(kind)
                if kind == _SETTINGS and not flags & 1:
                    connection.sendall(frame(_SETTINGS, 1, 0, b""))
                if stream == 1 and kind in (_HEADERS, 0):
                    if kind == 0:
                        return {"status": 200, "text": f"gRPC answered {len(payload)} bytes"}
                    if flags & 1:
                        return {"status": 200, "text": "gRPC took the call"}
            if not (more := connection.recv(LONGEST)):
                return {"status": None, "text": f"closed after {len(heard)} frames" if heard else "closed"}
            received += more
            if received.startswith(b"HTTP/1"):
                return {"status": None, "text": received[:60].decode(errors="replace")}


def raw(attack: dict[str, Any]) -> dict[str, Any]:
    """A few bytes, and what comes back."""
    with connect(attack) as connection:
        connection.sendall(bytes.fromhex(attack["bytes"]))
        received = connection.recv(LONGEST)
    return {"status": None, "text": received[:200].decode(errors="replace")}


def udp(attack: dict[str, Any]) -> dict[str, Any]:
    """A datagram that nobody asked for: whoever answers it within a second is not silent."""
    family = socket.AF_INET6 if ":" in attack["host"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as connection:
        connection.settimeout(1)
        connection.sendto(bytes.fromhex(attack["bytes"]), (attack["host"], attack["port"]))
        try:
            return {"status": None, "text": connection.recv(LONGEST)[:60].decode(errors="replace")}
        except TimeoutError:
            return {"status": None, "text": "no answer"}


def postgresql(attack: dict[str, Any]) -> dict[str, Any]:
    """A session of a role without its password: status 200 if the server lets it in."""
    words = f"user\0{attack['role']}\0database\0{attack['database']}\0\0".encode()
    with connect(attack) as connection:
        connection.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
        received = connection.recv(LONGEST)
        if received[:1] != b"R":
            return {"status": None, "text": received[:1].decode(errors="replace") + " (refused)"}
        way = int.from_bytes(received[5:9], "big")
    return {"status": 200 if way == 0 else 401, "text": "trusted" if way == 0 else f"asks for a password (way {way})"}


def main() -> int:
    order = json.load(sys.stdin)
    if order.get("uid"):
        become(order["uid"])
    json.dump([ask(attack) for attack in order["attacks"]], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
