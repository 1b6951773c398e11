"""The audit hook: connections that it allows and refuses, its records, and its effect in real processes."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.errors import ConfigError, EgressDenied, LedgerError
from rempart.orchestration.policies.egress_hook import EgressGuard, EgressTarget, target
from rempart.settings.config import Config
from rempart.sovereignty.egress import Destination, EgressRules
from rempart.sovereignty.policy import Decision

CONFIG = Config.model_validate(
    {
        "operators": {
            "good": {
                "jurisdiction": "FR",
                "owner_jurisdiction": "FR",
                "regions": {"here": {"country": "FR"}},
                "services": {"object-storage": {"runs_on": "good", "endpoints": "http://127.0.0.1"}},
            }
        },
        "sites": {"home": {"operator": "good", "region": "here", "connection": "s3_home"}},
        "active_site": "home",
        "machine": {"operator": "good", "service": "object-storage", "region": "here"},
        "policy": {"internal": {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]}},
        "retention": {},
        "backup": {"site": "home"},
    }
)
RULES = EgressRules(
    (
        Destination("*.s3.good.test", 443, "sites.home"),
        Destination("db.good.test", 5432, "connections.db"),
        Destination("192.0.2.7", 80, "hosts.192.0.2.7:80"),
    )
)


class World:
    """A guard with a clock, names and a ledger of the test's own."""

    def __init__(self, names: dict[str, list[str]] | None = None) -> None:
        self.now = 1000.0
        self.names = names or {}
        self.resolved: list[str] = []
        self.recorded: list[tuple[EgressTarget, Decision]] = []
        self.guard = EgressGuard(lambda on: (CONFIG, RULES), self.record, clock=lambda: self.now, resolve=self.resolve)

    def record(self, wanted: EgressTarget, decision: Decision) -> None:
        self.recorded.append((wanted, decision))

    def resolve(self, name: str) -> list[str]:
        self.resolved.append(name)
        return self.names.get(name, [])

    def connect(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as sock:
            self.guard.judge("socket.connect", (sock, (host, port)))

    def look_up(self, name: str, port: int | None = None) -> None:
        self.guard.judge("socket.getaddrinfo", (name, port, 0, 0, 0))


@pytest.mark.parametrize(
    ("event", "args", "expected"),
    [
        ("socket.getaddrinfo", ("a.test", 443, 0, 0, 0), EgressTarget("a.test", 443, True)),
        ("socket.getaddrinfo", (b"a.test", "https", 0, 0, 0), EgressTarget("a.test", None, True)),
        ("socket.getaddrinfo", ("a.test", "5432", 0, 0, 0), EgressTarget("a.test", 5432, True)),
        ("socket.getaddrinfo", ("192.0.2.1", 443, 0, 0, 0), None),  # no query leaves; the connection is judged
        ("socket.getaddrinfo", (None, 443, 0, 0, 0), None),
        ("socket.gethostbyname", ("a.test",), EgressTarget("a.test", None, True)),
        ("socket.gethostbyaddr", ("192.0.2.1",), EgressTarget("192.0.2.1", None, True)),
        ("socket.getnameinfo", (("192.0.2.1", 80),), EgressTarget("192.0.2.1", None, True)),
    ],
)
def test_what_an_event_wants(event: str, args: tuple[Any, ...], expected: EgressTarget | None) -> None:
    assert target(event, args) == expected


def test_unix_and_netlink_sockets_do_not_leave_the_machine() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert target("socket.connect", (sock, "/run/x.sock")) is None
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        assert target("socket.connect", (sock, (0, 0))) is None


def test_a_datagram_is_judged_by_its_address_and_a_connected_one_was_judged_before() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert target("socket.sendto", (sock, ("192.0.2.1", 53))) == EgressTarget("192.0.2.1", 53)
        assert target("socket.sendmsg", (sock, None)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::ffff:127.0.0.1", ""])  # noqa: S104 # nothing is bound
def test_this_machine_is_reached(host: str) -> None:
    world = World()
    world.connect(host, 5432)
    assert not world.resolved


def test_a_name_is_refused_at_its_look_up() -> None:
    world = World()
    with pytest.raises(
        EgressDenied, match=r"look-up of evil\.test:443 refused: hosts: 'evil\.test' belongs to no"
    ) as caught:
        world.look_up("evil.test", 443)
    assert "Declare it under hosts" in caught.value.hint
    assert not caught.value.transient


def test_an_address_passes_if_it_is_the_answer_that_was_seen_for_an_allowed_name() -> None:
    world = World()
    world.look_up("b.s3.good.test", 443)
    world.guard.learn("b.s3.good.test", ["203.0.113.5"])
    world.connect("203.0.113.5", 443)
    with pytest.raises(EgressDenied):
        world.connect("203.0.113.5", 22)


def test_an_answer_is_forgotten_after_an_hour_and_asked_for_again() -> None:
    world = World()
    world.guard.learn("db.good.test", ["203.0.113.5"])
    world.now += 3601
    with pytest.raises(EgressDenied):
        world.connect("203.0.113.5", 5432)
    world.now += 31
    world.names["db.good.test"] = ["203.0.113.5"]
    world.connect("203.0.113.5", 5432)


def test_an_address_passes_if_an_allowed_name_resolves_to_it_now() -> None:
    world = World({"db.good.test": ["203.0.113.5"]})
    world.connect("203.0.113.5", 5432)
    world.connect("203.0.113.5", 5432)
    assert world.resolved.count("db.good.test") == 1


def test_names_are_not_asked_for_again_at_once_nor_without_end() -> None:
    world = World()
    for _ in range(3):
        with pytest.raises(EgressDenied):
            world.connect("203.0.113.6", 5432)
    assert world.resolved == ["db.good.test"]  # the only name with that port


def test_an_answer_for_a_name_that_is_not_allowed_opens_nothing() -> None:
    world = World()
    world.guard.learn("evil.test", ["203.0.113.5"])
    with pytest.raises(EgressDenied):
        world.connect("203.0.113.5", 443)


def test_a_listed_address_passes_on_its_port() -> None:
    world = World()
    world.connect("192.0.2.7", 80)
    world.connect("::ffff:192.0.2.7", 80)
    with pytest.raises(EgressDenied):
        world.connect("192.0.2.7", 81)


def test_one_record_for_each_destination_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.ERROR):
        for host in ("evil.test", "evil.test", "other.test"):
            with pytest.raises(EgressDenied):
                world.look_up(host, 443)
    assert [str(wanted) for wanted, _ in world.recorded] == ["evil.test:443", "other.test:443"]
    assert len(caplog.records) == 2
    assert "look-up of evil.test:443 refused" in caplog.text
    assert "What to do:" in caplog.text


def test_a_refusal_stands_when_the_ledger_does_not_answer_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def down(wanted: EgressTarget, decision: Decision) -> None:
        raise LedgerError("append egress-denial: no answer", "Check that PostgreSQL runs.")

    world.guard._record = down
    with caplog.at_level(logging.ERROR), pytest.raises(EgressDenied):
        world.look_up("evil.test", 443)
    assert "was not recorded in the ledger: append egress-denial: no answer" in caplog.text


def test_a_drivers_words_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def down(wanted: EgressTarget, decision: Decision) -> None:
        raise RuntimeError("postgresql://user:hunter2@host")

    world.guard._record = down
    with caplog.at_level(logging.ERROR), pytest.raises(EgressDenied):
        world.look_up("evil.test", 443)
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_guards_own_connections_pass() -> None:
    world = World()

    def record(wanted: EgressTarget, decision: Decision) -> None:
        world.connect("203.0.113.99", 5432)  # the ledger's database
        world.recorded.append((wanted, decision))

    world.guard._record = record
    with pytest.raises(EgressDenied):
        world.look_up("evil.test", 443)
    assert world.recorded
    with pytest.raises(EgressDenied):
        world.connect("203.0.113.99", 5432)  # but not those of anybody else


def test_without_a_readable_configuration_everything_is_refused_but_this_machine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unreadable(on: date) -> tuple[Config, EgressRules]:
        raise ConfigError("rempart.yaml is not valid", "Correct it.")

    guard = EgressGuard(unreadable, lambda wanted, decision: None)
    guard.judge("socket.getaddrinfo", ("localhost", 80, 0, 0, 0))
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(EgressDenied, match=r"rempart\.yaml is not valid"),
    ):
        guard.judge("socket.getaddrinfo", ("example.org", 80, 0, 0, 0))
    assert "the list of allowed hosts is missing" in caplog.text


# --- in real processes ------------------------------------------------------------------------------------------------

PROBE = """
import socket, sys
from rempart.errors import EgressDenied
import airflow, airflow.settings
from rempart.orchestration.policies import egress_hook
assert len(egress_hook._installed) == 1
def denied(call):
    try:
        call()
    except EgressDenied:
        return True
    except OSError:
        return False
import asyncio, os, urllib.request
results = {
    "socket": denied(lambda: socket.create_connection(("203.0.113.5", 443), 1)),
    "connect_ex": denied(lambda: socket.socket().connect_ex(("203.0.113.5", 443))),
    "datagram": denied(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("203.0.113.5", 53))),
    "look-up": denied(lambda: socket.gethostbyname("example.org")),
    "urllib": denied(lambda: urllib.request.urlopen("http://example.org", timeout=1)),
    "asyncio": denied(lambda: asyncio.run(asyncio.open_connection("203.0.113.5", 443))),
}
if (child := os.fork()) == 0:
    os._exit(0 if denied(lambda: socket.create_connection(("203.0.113.5", 443), 1)) else 1)
results["fork"] = os.waitpid(child, 0)[1] == 0
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listener.getsockname()).close()
print(results)
sys.exit(0 if all(results.values()) else 1)
"""


def run(home: Path, code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "REMPART"))}
    env |= {"REMPART_HOME": str(home), "REMPART_VAR": str(tmp_path / "var"), "AIRFLOW_HOME": str(tmp_path / "airflow")}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_every_process_that_imports_airflow_is_guarded_and_so_are_its_forks(tmp_path: Path) -> None:
    data = CONFIG.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "rempart.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    done = run(tmp_path, PROBE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was not recorded in the ledger" in done.stderr + done.stdout  # there is none here, and that is told


def test_without_rempart_yaml_airflow_says_so_once_and_stays_shut(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", PROBE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("this process can reach only this machine") == 1
    assert "rempart.yaml does not exist" in done.stderr
    assert "Traceback" not in done.stderr
