"""An external tracking server is compared with the dump by what it shows before and after it."""

from __future__ import annotations

import pytest

from rempart.backup.databases.not_held import Registry
from rempart.errors import TrackingUnavailable
from rempart.flows.backup import stores_not_held
from rempart.flows.backup.stores_not_held import StoreAnswers
from rempart.models import registry
from rempart.settings.config import Connection

EXPERIMENTS = frozenset({("1", 7)})
FIRST, SECOND, LATER = ("m", "1", 10), ("m", "2", 20), ("m", "3", 30)


def lacking(monkeypatch: pytest.MonkeyPatch, dump: Registry, *now: tuple[str, str, int]) -> int:
    """How many stores a restore point does not cover: the server showed two versions before, and shows `now`."""
    monkeypatch.setattr(registry, "contents", lambda _: (EXPERIMENTS, frozenset(now)))
    before = StoreAnswers(Registry(EXPERIMENTS, frozenset({FIRST, SECOND})), "http://tracking", {})
    asked = stores_not_held.still_there(before, lambda: Connection("mlflow", "http"))
    return len(stores_not_held.stores(asked, dump, (), {"m": "2"}, ()))


def test_a_version_that_is_retired_before_the_snapshot_is_opened_is_no_other_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert lacking(monkeypatch, Registry(EXPERIMENTS, frozenset({SECOND})), SECOND, LATER) == 0


def test_another_database_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Registry(EXPERIMENTS, frozenset({SECOND}))
    assert lacking(monkeypatch, other, FIRST, SECOND) == 1
    assert lacking(monkeypatch, Registry(frozenset({("1", 8)}), frozenset()), SECOND) == 1


def test_a_server_that_is_silent_afterwards_changes_no_answer() -> None:
    def silent() -> Connection:
        raise TrackingUnavailable("no answer", "Look.")

    for server in (Registry(EXPERIMENTS, frozenset({FIRST})), "no answer", None):
        asked = StoreAnswers(server, "http://tracking", {})
        assert stores_not_held.still_there(asked, silent) == asked
