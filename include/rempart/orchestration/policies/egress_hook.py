"""An audit hook in each of Airflow's processes: a connection or look-up that the policy does not allow is refused.

It is a diagnostic, not the boundary. It sees what Python's own sockets do, so it can name the task, the rule and the
remedy. It does not see libraries that open sockets themselves (libpq, Rust, C++, uvloop), ctypes or child processes:
the network's rules (`rempart policy render`) stop those. docs/adr/0008-egress-layers.md tells where it is installed and
why there; docs/reference/egress-layers.md shows what was measured.
"""

from __future__ import annotations

import _socket
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NoReturn

from rempart.errors import ConnectionMissing, EgressDenied, RempartError
from rempart.orchestration.airflow_servers import airflow_destinations
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connection
from rempart.sovereignty import egress
from rempart.sovereignty.egress import EgressRules
from rempart.sovereignty.policy import Decision

WATCHED = frozenset(
    [
        "socket.connect",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.getnameinfo",
    ]
)
"""Python's audit events about leaving the machine. Source: https://docs.python.org/3/library/audit_events.html"""

_LOCAL_FAMILIES = {socket.AF_UNIX, getattr(socket, "AF_NETLINK", None), getattr(socket, "AF_ALG", None)}
_ANSWER_SECONDS = 3600.0
"""Seconds for which an address counts as that of a name that resolved to it."""
_RESOLVE_AGAIN_SECONDS, _RESOLVE_BUDGET_SECONDS = 30.0, 5.0
_TELL_AGAIN_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EgressTarget:
    """The target of a process: a name to look up, or a host and port to send to."""

    host: str
    port: int | None
    lookup: bool = False

    def __str__(self) -> str:
        return egress.endpoint(self.host, self.port)


def _text(host: object) -> str:
    return bytes(host).decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)


def target(event: str, args: tuple[Any, ...]) -> EgressTarget | None:
    """Return the target of an audited event, or None if the event sends nothing out of this machine."""
    if event == "socket.getaddrinfo":
        host = args[0]
        if host is None or egress.is_address(_text(host)):  # no query: the connection will be judged
            return None
        port = str(
            args[1] or ""
        )  # psycopg asks with "5432"; a service's name stays open, the connection will be judged
        return EgressTarget(_text(host), int(port) if port.isdecimal() else None, lookup=True)
    if event in ("socket.gethostbyname", "socket.gethostbyaddr"):
        return EgressTarget(_text(args[0]), None, lookup=True)
    if event == "socket.getnameinfo":
        return EgressTarget(_text(args[0][0]), None, lookup=True)
    sender, address = args
    if address is None or sender.family in _LOCAL_FAMILIES:  # None: connected before, and judged then
        return None
    if sender.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
        return EgressTarget(_text(address[0]), address[1])
    return EgressTarget(f"socket family {int(sender.family)}", None)


class EgressGuard:
    """Checks the targets of one process and of the processes forked from it.

    No lock is held, because a fork could not release it.
    """

    def __init__(
        self,
        rules: Callable[[date], tuple[Config, EgressRules]],
        record: Callable[[EgressTarget, Decision], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        resolve: Callable[[str], Iterable[str]] | None = None,
    ) -> None:
        self._rules, self._record, self._clock, self._now = rules, record, clock, now
        self._resolve = resolve or _addresses
        self._thread = threading.local()
        self._answers: dict[str, dict[str, float]] = {}
        self._asked: dict[str, float] = {}
        self._names: set[str] = set()
        self._told: dict[tuple[int, str], float] = {}

    def judge(self, event: str, args: tuple[Any, ...]) -> None:
        """Let an event pass, or raise EgressDenied."""
        if getattr(self._thread, "busy", False):  # our own look-ups, the ledger, the log
            return
        wanted = target(event, args)
        if wanted is None or egress.is_this_machine(wanted.host):
            return
        self._thread.busy = True
        try:
            self._decide(wanted)
        finally:
            self._thread.busy = False

    def learn(self, name: str, addresses: Iterable[str]) -> None:
        """Remember the addresses of a name."""
        for address in addresses:
            self._answers.setdefault(egress.normalise(address), {})[egress.normalise(name)] = self._clock()

    def _decide(self, wanted: EgressTarget) -> None:
        on = self._now().date()
        try:
            config, rules = self._rules(on)
        except RempartError as fault:
            self._refuse(wanted, f"the list of allowed hosts is missing: {fault.what}", fault.hint)
        if egress.is_allowed(rules, wanted.host, wanted.port):
            if wanted.lookup:
                self._names.add(egress.normalise(wanted.host))
        elif not egress.is_address(wanted.host) or not self._belongs(rules, wanted):
            decision = egress.decision_against(config, rules, wanted.host, wanted.port, on=on)
            reason = decision.against[0]
            self._refuse(wanted, f"{reason.rule}: {reason.fact}", reason.remedy, decision)

    def _belongs(self, rules: EgressRules, wanted: EgressTarget) -> bool:
        """Return whether an address belongs to an allowed name, by a remembered answer or else by a look-up now."""

        def known() -> bool:
            answers = self._answers.get(egress.normalise(wanted.host), {})
            fresh = [name for name, at in answers.items() if self._clock() - at < _ANSWER_SECONDS]
            return any(egress.is_allowed(rules, name, wanted.port) for name in fresh)

        if known():
            return True
        began = self._clock()
        listed = {egress.normalise(host.name) for host in rules.allowed if host.port in (None, wanted.port)}
        for name in sorted(self._names | {host for host in listed if not egress.is_address(host)}):
            if self._clock() - began > _RESOLVE_BUDGET_SECONDS:
                break
            if self._clock() - self._asked.get(name, float("-inf")) > _RESOLVE_AGAIN_SECONDS:
                self._asked[name] = self._clock()
                self.learn(name, self._resolve(name))
        return known()

    def _refuse(self, wanted: EgressTarget, why: str, remedy: str, decision: Decision | None = None) -> NoReturn:
        error = EgressDenied(f"{'look-up of' if wanted.lookup else 'connection to'} {wanted} refused: {why}", remedy)
        key = (os.getpid(), str(wanted))  # a forked process tells and records anew
        last = self._told.get(key)
        if last is None or self._clock() - last > _TELL_AGAIN_SECONDS:
            self._told[key] = self._clock()
            logger.error("%s", error)
        if last is None and decision:
            try:
                self._record(wanted, decision)
            except Exception as fault:
                # the refusal stands; a driver's message may hold a password, ours does not
                why = str(fault) if isinstance(fault, RempartError) else type(fault).__name__
                logger.error("The refusal of %s was not recorded in the ledger: %s", wanted, why)  # noqa: TRY400
        raise error


def _addresses(name: str) -> list[str]:
    try:
        return [str(answer[4][0]) for answer in socket.getaddrinfo(name, None)]
    except OSError:  # a name that does not resolve is the name of no address
        return []


class CurrentRules:
    """The allow-list of the current rempart.yaml. It is built again when the file or the day changes."""

    def __init__(self) -> None:
        self._made: tuple[Config, date, EgressRules] | None = None

    def __call__(self, on: date) -> tuple[Config, EgressRules]:
        config = configuration.load()
        current = self._made
        if current is None or current[0] is not config or current[1] != on:
            endpoints = egress.endpoints(config, configuration.environment_connections)
            current = (config, on, egress.rules(config, endpoints, on=on, own=tuple(airflow_destinations())))
            self._made = current
        return config, current[2]


def record(wanted: EgressTarget, decision: Decision) -> None:
    """Keep a refusal as evidence: what was tried, by which task, and the rule. Raises RempartError."""
    from rempart.flows.shared.platform import open_platform
    from rempart.orchestration.runtime import airflow_connection

    def resolve(name: str) -> Connection:
        try:
            return configuration.environment_connections(name)
        except ConnectionMissing:
            return airflow_connection(name)

    reason = decision.against[0]
    task = {key: os.environ.get(f"AIRFLOW_CTX_{key.upper()}", "") for key in ("dag_id", "task_id")}
    body = {
        "host": wanted.host[:253],
        "port": wanted.port,
        "did": "look-up" if wanted.lookup else "connection",
        "rule": reason.rule,
        "process": os.path.basename(sys.argv[0]) if sys.argv else "",  # noqa: PTH119
        **{key: value for key, value in task.items() if value},
    }
    open_platform(resolve).ledger.append("egress-denial", str(wanted)[:260], body)


# --- installation -----------------------------------------------------------------------------------------------------

_installed: list[EgressGuard] = []


def install() -> None:
    """Guard this process and all that are forked from it; done once.

    Where rempart.yaml cannot be read it says so on stderr once, and everything but this machine is refused.
    """
    if _installed:
        return
    try:
        configuration.load()
    except RempartError as fault:
        sys.stderr.write(f"rempart: this process can reach only this machine: {fault}\n")
    guard = EgressGuard(CurrentRules(), record)
    _installed.append(guard)
    _remember_answers(guard)

    def hook(event: str, args: tuple[Any, ...], watched: frozenset[str] = WATCHED, judge: Any = guard.judge) -> None:
        if event in watched:
            judge(event, args)

    sys.addaudithook(hook)


def _remember_answers(guard: EgressGuard) -> None:
    """Remember the answers of look-ups.

    The event of a look-up has only the name, and a later event has only the address.
    """
    ask = _socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        answers = ask(host, *args, **kwargs)
        if host is not None and not egress.is_address(_text(host)):
            guard.learn(_text(host), (str(answer[4][0]) for answer in answers))
        return answers

    _socket.getaddrinfo = getaddrinfo
