"""The connections that the proof of the layers of egress tries, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench import sink

NAME = "egress-layers"
PARTS = Path(__file__).with_name("egress_layers")
DENIED, DENIED_NAME = "203.0.113.10", "denied.test"
ALLOWED, ALLOWED_NAME, ALLOWED_PORT = "203.0.113.20", "allowed.test", 8443
DECLARED, DECLARED_NAME, DECLARED_PORT = "203.0.113.30", "declared.test", 443
PARSE_PORT, TRIGGER_PORT, TEST_PORT = 9001, 9002, 9003
"""The first also stands in egress_layers/egress_at_parse.py. Addresses: RFC 5737; names: RFC 6761."""


@dataclass(frozen=True)
class Case:
    """One way to one host; `hook` and `network` tell whether that layer is expected to stop it."""

    title: str
    way: str
    host: str
    hook: bool
    network: bool = True
    port: int | None = None
    """Of its own for each round, unless the host is allowed on one alone."""


CASES = (
    Case("Python socket, by address", "plain_socket", DENIED, hook=True),
    Case("Python socket, by name", "plain_socket", DENIED_NAME, hook=True),
    Case(
        "Python socket, to a host that is declared and refused",
        "plain_socket",
        DECLARED_NAME,
        True,
        True,
        DECLARED_PORT,
    ),
    Case("UDP datagram", "datagram", DENIED, hook=True),
    Case("urllib", "with_urllib", DENIED_NAME, hook=True),
    Case("requests", "with_requests", DENIED_NAME, hook=True),
    Case("aiohttp", "with_aiohttp", DENIED_NAME, hook=True),
    Case("psycopg, by name (it resolves names in Python)", "with_psycopg", DENIED_NAME, hook=True),
    Case("psycopg, by address (libpq, C)", "with_psycopg", DENIED, hook=False),
    Case("pyarrow S3 (C++)", "with_pyarrow", DENIED_NAME, hook=False),
    Case("obstore (Rust)", "with_obstore", DENIED_NAME, hook=False),
    Case("ctypes, connect(2)", "with_ctypes", DENIED, hook=False),
    Case("child process: curl", "with_curl", DENIED_NAME, hook=False),
    Case("child process: Python", "child_python", DENIED_NAME, hook=False),
    Case("child process: look-up of a name (getent)", "child_lookup", DENIED_NAME, hook=False, network=False),
    Case("requests, to a host that is allowed", "with_requests", ALLOWED_NAME, False, False, ALLOWED_PORT),
)
ROUNDS = ("hook", "network", "both")
COUNTER = f"""
table inet proof {{
    set tried {{ type ipv4_addr . inet_service; flags dynamic; size 4096; counter; }}
    chain output {{
        type filter hook output priority -300; policy accept;
        ip daddr 203.0.113.0/24 meta l4proto {{ tcp, udp }} update @tried {{ ip daddr . th dport counter }}
        ip daddr {sink.NAMESERVER} udp dport 53 update @tried {{ ip daddr . th dport counter }}
    }}
}}
"""


def port_of(case: Case, number: int, stage: str) -> int:
    return case.port or 10000 + 1000 * ROUNDS.index(stage) + number
