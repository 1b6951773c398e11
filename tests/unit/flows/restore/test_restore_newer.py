"""What came after a restore point is listed from the ledger before somebody restores it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.points.points import HeldObject
from rempart.backup.points.restore_plan import Part, Selection, parse_part
from rempart.backup.points.sealing import SealedObject
from rempart.flows.restore import restore_newer
from rempart.flows.restore.restore_newer import NewerData
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from tests.restorable import NOW, House, house

CURRENT = "snapshots/bikes/current.json"


def delivery(sha256: str, accepted: int) -> dict[str, Any]:
    return {"deliveries": [{"sha256": sha256, "accepted": accepted}]}


@pytest.fixture
def ledger() -> MemoryLedger:
    """Two pipelines: a delivery of each an hour before NOW, and more of `bikes` an hour after."""
    hour = [-1]
    made = MemoryLedger(clock=lambda: NOW + timedelta(hours=hour[0]))
    for name in ("bikes", "trips"):
        made.append("deliveries", name, delivery("old", 40))
        made.append("candidate", name, {"version": "1"})
    hour[0] = 1
    made.append("deliveries", "bikes", delivery("new", 9))
    made.append("deliveries", "bikes", delivery("new", 12))
    made.append("snapshot", "bikes", {"rows": 50})
    made.append("snapshot", "bikes", {"rows": 52})
    made.append("candidate", "bikes", {"version": "2"})
    for version in ("1", "2", "1"):
        made.append("model-card", f"bikes/{version}", {"version": version})
    return made


def test_only_what_is_newer_is_told_and_a_delivery_counts_once(ledger: MemoryLedger) -> None:
    found = restore_newer.look(ledger, NOW)
    assert found == {"bikes": NewerData(1, 12, 52, ("2",), ("1",))}
    assert found["bikes"].told() == (
        "1 delivery (12 rows accepted), a snapshot of 52 rows, model version 2, the card of model version 1"
    )
    assert set(restore_newer.look(ledger, NOW - timedelta(hours=2))) == {"bikes", "trips"}


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("database:ledger", NewerData(1, 12, 52, ("2",), ("1",))),
        ("bucket:lake", NewerData(1, 12, 52)),
        ("dataset:bikes", NewerData(1, 12, 52)),
        ("bucket:artifacts", NewerData(versions=("2",), cards=("1",))),
        ("model:bikes", NewerData(versions=("2",), cards=("1",))),
        ("dataset:trips", None),
        ("model:trips", None),
    ],
)
def test_a_part_is_told_what_concerns_it(ledger: MemoryLedger, part: str, told: NewerData | None) -> None:
    assert restore_newer.look(ledger, NOW, [parse_part(part)]).get("bikes") == told


def _selection(*keys: str) -> Selection:
    sealed = SealedObject("s", "1", "k", "v", "0" * 64, 1, NOW)
    return Selection((), tuple(HeldObject("lake", key, 1, "0" * 64, None, sealed) for key in keys), False, {})


def test_a_current_snapshot_that_becomes_older_is_named() -> None:
    found = {"bikes": NewerData(1, 12, 52), "trips": NewerData(versions=("2",))}
    head, bikes, trips = restore_newer.lines(found)
    assert head == "newer     than this restore point, and not in it:"
    assert bikes == "newer       bikes: 1 delivery (12 rows accepted), a snapshot of 52 rows"
    assert trips == "newer       trips: model version 2"
    assert restore_newer.older(found, _selection(CURRENT, "snapshots/trips/current.json")) == ["bikes"]
    assert restore_newer.older(found, _selection("raw/bikes/a.csv")) == []
    assert list(restore_newer.lines({})) == [
        "newer     nothing: no delivery, snapshot or model came after this restore point"
    ]


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["deliveries", "snapshot", "candidate", "model-card"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
    ),
    max_size=12,
)


@given(RECORDS)
def test_every_pipeline_with_a_newer_record_is_named_and_no_other(drawn: list[tuple[str, str, int]]) -> None:
    bodies: dict[str, Callable[[int], dict[str, Any]]] = {
        "deliveries": lambda number: delivery(str(number), number),
        "snapshot": lambda number: {"rows": number},
        "candidate": lambda number: {"version": str(number)},
        "model-card": lambda number: {"version": str(number)},
    }
    records = [
        Evidence(i, NOW, kind, f"{name}/{number}" if kind == "model-card" else name, bodies[kind](number))
        for i, (kind, name, number) in enumerate(drawn)
    ]
    found = restore_newer.newer(records[::-1])
    assert found == restore_newer.newer(records) and set(found) == {name for _, name, _ in drawn}
    assert all(newer.told() for newer in found.values())
    kept = restore_newer.concerning(found, [Part("dataset", "a")])
    assert set(kept) <= {"a"} and all(not newer.versions for newer in kept.values())
    assert restore_newer.concerning(found, []) == found


def test_the_look_begins_at_the_moment_of_the_point() -> None:
    made: House = house()
    made.point()
    at: datetime = made.open().manifest.created_at
    made.platform.ledger.append("candidate", "bikes", {"version": "1"})
    assert restore_newer.look(made.platform.ledger, at) == {}, "the ledger's clock is before the point"
