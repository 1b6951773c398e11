"""How the proof in containers reads the Engine's answers."""

from __future__ import annotations

from typing import Any

from bench.seen import bound_ports, declared, shown

ONE: dict[str, Any] = {
    "NetworkSettings": {
        "Ports": {
            "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "28080"}, {"HostIp": "127.0.0.1", "HostPort": "28080"}],
            "9090/tcp": None,
            "5000/tcp": [{"HostIp": "192.0.2.7", "HostPort": "25000"}],
        }
    },
    "Mounts": [{"Destination": "/data", "RW": True}, {"Destination": "/config", "RW": False}],
    "HostConfig": {"Tmpfs": {"/tmp": ""}},
}


def test_a_port_that_is_published_to_everybody_is_seen() -> None:
    assert bound_ports(ONE) == ["127.0.0.1:28080", "192.0.2.7:25000"]
    assert bound_ports({"NetworkSettings": {"Ports": {"8080/tcp": None}}}) == []


def test_what_may_be_written_is_what_the_compose_file_declares() -> None:
    assert declared(ONE) == ["/data", "/tmp"]
    assert declared({"Mounts": [], "HostConfig": {"Tmpfs": None}}) == []


def test_a_secret_is_named_with_the_text_that_shows_it_and_never_shown() -> None:
    assert shown({"key": "s3cret-of-ours"}, {"a log": "it is s3cret-of-ours", "b": "nothing"}) == ["key in a log"]
