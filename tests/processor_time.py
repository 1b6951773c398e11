"""Which modules of tests take processor time: a table at the end of each run, of all processes of tests together.

Wall time tells little where several processes share the cores. A module's time is that of its tests in the process of
tests, and of the processes that ended meanwhile; servers that outlive it count for the module at whose end they end.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

SHOWN = 30
_spent = pytest.StashKey[Counter[str]]()


def _seconds() -> float:
    times = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(time.ru_utime + time.ru_stime for time in times)


def table(spent: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each of the costliest modules, and one with the sum of all."""
    for module, seconds in sorted(spent.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN]:
        yield f"{seconds:7.1f} s  {module}"
    yield f"{sum(spent.values()):7.1f} s  {len(spent)} modules"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_spent] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    began = _seconds()
    try:
        return (yield)
    finally:
        item.config.stash[_spent][item.nodeid.partition("::")[0]] += _seconds() - began


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes: it tells the one that shows the table
        session.config.workeroutput["processor_time"] = dict(session.config.stash[_spent])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    told = getattr(node, "workeroutput", {}).get("processor_time", {})
    node.config.stash[_spent].update(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if spent := config.stash[_spent]:
        terminalreporter.section("processor time by module")
        for line in table(spent):
            terminalreporter.write_line(line)
