"""`on_conflict: newest` and `history`, held to a dictionary: in whatever runs the rows come, the same ones stand."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import IntegrityError
from rempart.ingestion.acceptance import CONFLICT
from rempart.ingestion.content import growth
from rempart.ingestion.content.growth import KnownRows
from rempart.ingestion.engine.deliveries import TakenIn, take_in
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.snapshots import Snapshot
from rempart.settings.pipeline import ModelPipeline

ORDERS = """
name: orders
classification: internal
source: {prefix: orders/}
key: [number]
moments: {ordered: {column: day}}
partition_by: day
on_conflict: newest
schema:
  number: {type: integer, known: ordered}
  day: {type: date, known: ordered}
  price: {type: number, known: ordered, nullable: true}
  version: {type: integer, known: ordered}
max_quarantined: 1
features: {own: {kind: row, at: ordered, columns: [price]}}
prediction: {target: version, task: regression, at: ordered}
holdout: {column: day, start: 2026-02-01}
gate: {metric: mae, limit: 10, baseline_by: [number]}
"""
Row = tuple[int, str, float | None, int]
BY_PLACE = ModelPipeline.model_validate(yaml.safe_load(ORDERS))
BY_VERSION = ModelPipeline.model_validate(yaml.safe_load(ORDERS) | {"version_by": "version"})


HISTORY = ModelPipeline.model_validate(yaml.safe_load(ORDERS) | {"on_conflict": "history", "version_by": "day"})


class Store:
    """The snapshots of runs, one after the other, on disk."""

    def __init__(self, pipeline: ModelPipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder
        self.snapshot: Snapshot | None = None
        self.files: dict[str, Path] = {}
        self.resources = Resources(200 << 20, 1, folder / "spill")
        self.runs = 0

    def run(self, deliveries: Sequence[Sequence[Row]]) -> TakenIn:
        self.runs += 1
        place = self.folder / f"run-{self.runs}"
        place.mkdir()
        files = []
        for i, rows in enumerate(deliveries):
            files.append(place / f"{i}.csv")
            lines = (",".join("" if value is None else str(value) for value in row) for row in rows)
            files[-1].write_text("number,day,price,version\n" + "".join(f"{line}\n" for line in lines))
        before = self.snapshot
        files_of = {part.sha256: self.files[part.sha256] for part in before.parts} if before else {}
        taken = take_in(
            files, [*files_of.values()], self.pipeline, place, self.resources, Limits(), lambda table: {}, part_bytes=1
        )
        if taken.accepted:
            known = growth.without(before, KnownRows(files_of), taken.displaced, self.resources)
            self.snapshot, added = growth.draw_up(
                self.pipeline,
                before,
                known,
                taken.parts,
                folder=place,
                resources=self.resources,
                now=datetime(2026, 3, 1, tzinfo=UTC),
                retain_until=date(2027, 1, 1),
                small_parts=2,
            )
            self.files |= {part.sha256: file for part, file in added}
        return taken

    def rows(self) -> list[Row]:
        found: list[Any] = []
        for part in self.snapshot.parts if self.snapshot else ():
            for row in pq.read_table(self.files[part.sha256]).to_pylist():
                assert f"{row['day']:%Y-%m}" == part.partition
                found.append((row["number"], row["day"].isoformat(), row["price"], row["version"]))
        return sorted(found)


def oracle(rows: Sequence[Row], by_version: bool) -> list[Row]:
    stands: dict[int, Row] = {}
    for row in rows:
        if row[0] not in stands or not by_version or row[3] >= stands[row[0]][3]:
            stands[row[0]] = row
    return sorted(stands.values())


rows = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sampled_from(["2026-01-03", "2026-01-04", "2026-02-01"]),
        st.sampled_from([None, 0.5, 1.0]),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=12,
)


def in_runs(pipeline: ModelPipeline, runs: Sequence[Sequence[Sequence[Row]]]) -> tuple[str, list[Row]]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(pipeline, Path(folder))
        for run in runs:
            taken = store.run(run)
            assert not any(len(delivery.refused) for delivery in taken.deliveries)
            good = sum(delivery.good for delivery in taken.deliveries)
            repeated = sum(delivery.repeated for delivery in taken.deliveries)
            assert taken.accepted == good - repeated == sum(map(len, run)) - repeated
        assert store.snapshot is not None
        return store.snapshot.id, store.rows()


@settings(max_examples=8, deadline=None)
@given(rows, st.booleans(), st.data())
def test_the_newest_row_of_each_key_stands_in_whatever_runs_they_come(
    delivered: list[Row], by_version: bool, data: st.DataObject
) -> None:
    pipeline = BY_VERSION if by_version else BY_PLACE
    cut = data.draw(st.integers(0, len(delivered)))
    parts = [part for part in (delivered[:cut], delivered[cut:]) if part]
    at_once = in_runs(pipeline, [[delivered]])
    assert at_once[1] == oracle(delivered, by_version)
    assert at_once == in_runs(pipeline, [parts]) == in_runs(pipeline, [[part] for part in parts])


@settings(max_examples=8, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_with_a_version_the_order_of_deliveries_makes_no_difference(delivered: list[Row], chance: Any) -> None:
    distinct = [(number, day, price, i) for i, (number, day, price, _) in enumerate(delivered)]
    shuffled = [*distinct]
    chance.shuffle(shuffled)
    assert in_runs(BY_VERSION, [[distinct]]) == in_runs(BY_VERSION, [[[row]] for row in shuffled])


JANUARY, FEBRUARY, MOVED = (1, "2026-01-03", 1.0, 1), (2, "2026-02-01", 2.0, 1), (1, "2026-03-01", 1.0, 2)


def test_a_row_that_moves_leaves_its_partition_and_others_keep_their_parts(tmp_path: Path) -> None:
    store = Store(BY_PLACE, tmp_path)
    store.run([[JANUARY, FEBRUARY]])
    assert store.snapshot is not None
    before = {part.partition: part.sha256 for part in store.snapshot.parts}
    (delivery,) = store.run([[MOVED]]).deliveries
    assert (delivery.good, delivery.replaced, delivery.repeated) == (1, 1, 0)
    after = {part.partition: part.sha256 for part in store.snapshot.parts}
    assert sorted(after) == ["2026-02", "2026-03"] and after["2026-02"] == before["2026-02"]
    assert [content.partition for content in store.snapshot.partitions] == sorted(after)


def test_what_stands_already_or_is_older_is_passed_over_and_changes_nothing(tmp_path: Path) -> None:
    store = Store(BY_VERSION, tmp_path)
    store.run([[MOVED, FEBRUARY]])
    before = store.snapshot
    (delivery,) = store.run([[JANUARY, FEBRUARY, FEBRUARY]]).deliveries
    assert store.snapshot == before
    assert (delivery.good, delivery.replaced, delivery.repeated, len(delivery.refused)) == (3, 0, 3, 0)


def test_a_part_that_does_not_match_its_hash_is_not_rewritten(tmp_path: Path) -> None:
    store = Store(BY_PLACE, tmp_path)
    store.run([[JANUARY, (3, "2026-01-04", 1.0, 1)]])
    assert store.snapshot is not None
    (part,) = store.snapshot.parts
    pq.write_table(pq.read_table(store.files[part.sha256]).slice(0, 1), store.files[part.sha256])
    with pytest.raises(IntegrityError, match="do not match the hash"):
        store.run([[MOVED]])


@settings(max_examples=8, deadline=None)
@given(rows, st.data())
def test_history_keeps_each_version_once_and_refuses_two_of_one_time(delivered: list[Row], data: st.DataObject) -> None:
    stands: dict[tuple[int, str], Row] = {}
    conflicts = equal = 0
    for row in delivered:
        first = stands.setdefault(row[:2], row)
        conflicts += first != row
        equal += first == row
    cut = data.draw(st.integers(0, len(delivered)))
    parts = [part for part in (delivered[:cut], delivered[cut:]) if part]
    ids = set()
    for runs in ([[delivered]], [parts], [[part] for part in parts]):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(HISTORY, Path(folder))
            taken = [delivery for run in runs for delivery in store.run(run).deliveries]
            assert store.rows() == sorted(stands.values())
            assert sum(len(delivery.refused) for delivery in taken) == conflicts
            assert {reason for d in taken for row in d.refused for reason in row.reasons} <= {CONFLICT}
            assert sum(delivery.repeated for delivery in taken) == equal - len(stands)
            assert sum(delivery.replaced for delivery in taken) == 0
            assert store.snapshot is not None and store.snapshot.key == ("number", "day")
            ids.add(store.snapshot.id)
    assert len(ids) == 1
