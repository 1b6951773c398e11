"""Erasures during a restore: applied to the restored data, or the restore is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.backup.keys.encryption_scopes import parse
from rempart.backup.points.erasures import Erasure
from rempart.backup.points.restore_plan import Selection
from rempart.errors import DatabaseUnavailable
from rempart.flows.erasure import erase as flow
from rempart.flows.erasure.erase_report import DescendantResult, ErasureResult
from rempart.flows.restore import restore_erasures
from rempart.flows.shared import erasures
from rempart.flows.shared.keys import open_keyring
from rempart.flows.shared.platform import Platform
from rempart.ledger.memory import MemoryLedger
from tests.erasable import ROWS, Lake, id_of, in_two_memories

WHO = id_of(ROWS[3])


@pytest.fixture(autouse=True)
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "reload_features", lambda *given: None)
    monkeypatch.setattr(flow, "_feature_rows", lambda *given: {})
    monkeypatch.setattr("rempart.flows.erasure.erase_stores.feature_databases", lambda platform: None)


@pytest.fixture
def came_back() -> tuple[Lake, list[Erasure], Any]:
    """A booking was erased; then everything is as it was before, and the ledger knows nothing of it."""
    lake = in_two_memories()
    lake.take_in("one", ROWS[:6])
    home = lake.site("primary")
    before = {info.key: home.fetch(lake.bucket, info.key) for info in home.list(lake.bucket)}
    flow.erase(lake.platform, lake.pipeline, [(WHO,)], by="officer", reason="objection", dry_run=False)
    entries = erasures.on_record(lake.platform.ledger)
    for key, (info, body) in before.items():
        home.write(lake.bucket, key, body, metadata={k: v for k, v in info.metadata.items() if k != "sha256"})
    ring = open_keyring(lake.platform)
    point = SimpleNamespace(keys=SimpleNamespace(of=lambda scope, serial: ring.open(parse(scope), serial)))
    assert lake.holders(WHO)
    return Lake(replace(lake.platform, ledger_=MemoryLedger())), entries, point


def applied(platform: Platform, point: Any, entries: list[Erasure]) -> list[tuple[bool | None, str]]:
    checks = restore_erasures.apply_again(platform, point, entries, "primary")
    return [(check.ok, f"{check.what} ({check.detail})") for check in checks]


def test_who_came_back_goes_again_and_the_restored_ledger_knows(came_back: tuple[Lake, list[Erasure], Any]) -> None:
    lake, entries, point = came_back
    ((ok, told),) = applied(lake.platform, point, entries)
    assert ok and "1 subject" in told and "no row is found" in told
    assert lake.holders(WHO) == [] and erasures.on_record(lake.platform.ledger) == entries
    ((ok, told),) = applied(lake.platform, point, entries)
    assert ok and "(no row is found (0 rows were erased))" in told


def test_what_a_lock_holds_at_the_restored_site_keeps_the_service_closed(
    came_back: tuple[Lake, list[Erasure], Any],
) -> None:
    lake, entries, point = came_back
    home = lake.site("primary")
    key = next(holder for holder in lake.holders(WHO, "primary") if "/raw/" in holder).split("/", 1)[1]
    (version,) = home.versions(lake.bucket, key)
    home._locking.add(lake.bucket)  # type: ignore[attr-defined] # a bucket with locks
    home.retain(lake.bucket, key, version.version_id or "", lake.platform.clock())
    ((ok, told),) = applied(lake.platform, point, entries)
    assert ok is False and "rows or objects still found: 1" in told and key in told


def test_a_pipeline_that_is_gone_is_a_failed_check(came_back: tuple[Lake, list[Erasure], Any]) -> None:
    lake, entries, point = came_back
    ((ok, told),) = applied(lake.platform, point, [replace(entries[0], pipeline="gone_since")])
    assert ok is False and "gone_since" in told


def test_a_database_that_does_not_answer_is_a_failed_check(
    came_back: tuple[Lake, list[Erasure], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, entries, point = came_back

    def unavailable(self: Platform) -> Any:
        raise DatabaseUnavailable("Database continuity does not answer", "Start it.")

    monkeypatch.setattr(Platform, "active", unavailable)
    ((ok, told),) = applied(lake.platform, point, entries)
    assert ok is False and "erasures of hotel_bookings applied again: 1 subject" in told
    assert "Database continuity does not answer" in told and lake.holders(WHO)


def test_a_part_concerns_its_own_dataset_and_the_ledger_all(came_back: tuple[Lake, list[Erasure], Any]) -> None:
    _, entries, _ = came_back
    mine = entries[0]
    held = SimpleNamespace(bucket="lake", key="raw/another/1/a.csv")
    ledger = SimpleNamespace(name="ledger")

    def concerned(databases: Any = (), objects: Any = (), whole: bool = False) -> list[Erasure]:
        return restore_erasures.concerned(entries, Selection(databases, objects, whole, {}), MemoryLedger())

    assert concerned(objects=(held,)) == [] and concerned() == []
    assert concerned(objects=(held, SimpleNamespace(bucket="lake", key="raw/hotel_bookings/1/a.csv"))) == [mine]
    known = MemoryLedger()
    known.append("derivation", "another", {"inputs": ["hotel_bookings"], "sql": "x.sql"})  # not any more
    once = restore_erasures.concerned(entries, Selection((), (held,), False, {}), known)  # type: ignore[arg-type]
    assert once == [mine]
    assert concerned(databases=(ledger,)) == concerned(whole=True) == [mine]


@pytest.mark.parametrize(("where", "ok"), [("pipeline 'daily'", False), ("primary", False), ("haven", True)])
def test_derived_rows_that_may_be_there_keep_the_service_closed(
    came_back: tuple[Lake, list[Erasure], Any], monkeypatch: pytest.MonkeyPatch, where: str, ok: bool
) -> None:
    lake, entries, point = came_back
    below = DescendantResult("daily", pending={where: "it did not answer"})
    done = ErasureResult("hotel_bookings", False, 1, {}, descendants=[below])
    monkeypatch.setattr(flow, "apply_all", lambda *given, **named: [done])
    ((found, told),) = applied(lake.platform, point, entries)
    assert found is ok and where in told and ("derived rows may still be there" in told) is not ok
