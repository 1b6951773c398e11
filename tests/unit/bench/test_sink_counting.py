"""The sink of the proof of no egress counts a packet that is being examined while somebody asks for the attempts."""

from __future__ import annotations

import os
import socket
import threading
from types import SimpleNamespace

import pytest

from bench import packets, senders, sink


def test_a_packet_whose_sender_is_still_looked_for_is_among_the_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    examined, known = threading.Event(), threading.Event()

    def sender(_: object) -> tuple[int, str, str, tuple[str, ...]]:
        examined.set()
        known.wait(60)
        return 7, "python", "scheduler", ()

    packet = SimpleNamespace(name="udp", target="192.0.2.8", port=8125)
    monkeypatch.setattr(packets, "parse", lambda raw: packet)
    monkeypatch.setattr(senders, "sender", sender)
    for name in ("asked_name", "answer", "refusal"):
        monkeypatch.setattr(packets, name, lambda *_: "")
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    caught, found = sink.Sink(), list[tuple[sink.Attempt, ...]]()
    caught._tun, caught._stop, caught._opened = here.fileno(), os.pipe(), 0.0
    caught._reader.start()
    there.send(b"packet")
    assert examined.wait(60)
    asking = threading.Thread(target=lambda: found.append(caught.attempts()), daemon=True)
    asking.start()
    asking.join(1.0)  # without waiting, an answer comes after 0.2 s
    assert not found
    known.set()
    asking.join(60)
    os.write(caught._stop[1], b".")
    caught._reader.join(60)
    assert [attempt.destination for attempt in found[0]] == ["udp 192.0.2.8:8125"]
    for handle in caught._stop:
        os.close(handle)
    here.close()
    there.close()
