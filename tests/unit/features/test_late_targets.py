"""A target of the own rows that became known after the hold-out began: its row is not learned from."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.features import in_memory
from rempart.features.label_feed import told_late
from rempart.flows.training.labelled import split
from rempart.flows.training.train import without_late
from rempart.settings.pipeline import ModelPipeline

FIRST = date(2026, 1, 1)
START = 31
"""Days after the first one at which the hold-out begins."""


def claims(closed: str = "date", **keys: Any) -> ModelPipeline:
    spec = {
        "name": "claims",
        "classification": "internal",
        "source": {"prefix": "claims/"},
        "key": ["claim"],
        "moments": {"declared": {"column": "declared_on"}, "closed": {"column": "closed_on"}},
        "partition_by": "declared_on",
        "schema": {
            "claim": {"type": "integer", "known": "declared"},
            "declared_on": {"type": "date", "known": "declared"},
            "rooms": {"type": "integer", "known": "declared"},
            "closed_on": {"type": closed, "known": "closed", "nullable": True},
            "paid": {"type": "number", "known": "closed"},
            "seen": {"type": "timestamp", "known": "declared"},
        },
        "features": {"own": {"kind": "row", "at": "declared", "columns": ["rooms"]}},
        "prediction": {"target": "paid", "task": "regression", "at": "declared"},
        "holdout": {"column": "declared_on", "start": FIRST + timedelta(days=START)},
        "gate": {"metric": "mae", "limit": 10, "baseline_by": []},
    }
    return ModelPipeline.model_validate(spec | keys)


def claim(number: int, declared: int, closed: float | None, *, paid: float = 1.0, seen: int = 0) -> dict[str, Any]:
    """A claim that was declared and closed so many days after the first one."""
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "claim": number,
        "declared_on": FIRST + timedelta(days=declared),
        "rooms": number % 5,
        "closed_on": None if closed is None else begun + timedelta(days=closed),
        "paid": paid,
        "seen": begun + timedelta(days=seen),
    }


def table(rows: list[dict[str, Any]], closed: str = "date") -> pa.Table:
    kinds = {"claim": pa.int64(), "declared_on": pa.date32(), "rooms": pa.int64()}
    instant = pa.timestamp("us", "UTC")
    schema = pa.schema([*kinds.items(), ("closed_on", instant), ("paid", pa.float64()), ("seen", instant)])
    made = pa.Table.from_pylist(rows, schema=schema)
    return (
        made.set_column(3, "closed_on", made["closed_on"].cast(pa.date32(), safe=False)) if closed == "date" else made
    )


def learned(pipeline: ModelPipeline, rows: pa.Table) -> set[int]:
    return set(without_late(pipeline, in_memory.training_set(pipeline, rows))["claim"].to_pylist())


QUARTERS = st.integers(0, 200).map(lambda quarter: quarter / 4)


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 50), st.none() | QUARTERS), min_size=20, max_size=60),
    closed=st.sampled_from(["date", "timestamp"]),
)
def test_a_row_before_the_hold_out_counts_if_its_target_was_known_when_it_began(
    rows: list[tuple[int, float | None]], closed: str
) -> None:
    def in_time(on: float | None) -> bool:
        return on is not None and (on < START if closed == "date" else on <= START)

    made = table([claim(n, declared, on) for n, (declared, on) in enumerate(rows)], closed)
    wanted = {n for n, (declared, on) in enumerate(rows) if in_time(on) or (declared >= START and on is not None)}
    assert learned(claims(closed), made) == wanted


def test_the_newest_version_of_a_row_says_when_its_target_became_known() -> None:
    versions = [claim(1, 5, None, paid=0, seen=5), claim(1, 5, 20, paid=7, seen=20), claim(2, 6, None, seen=6)]
    versions += [claim(2, 6, 40, paid=9, seen=40), claim(3, 35, None, seen=35)]
    pipeline = claims(on_conflict="history", version_by="seen")
    made = without_late(pipeline, in_memory.training_set(pipeline, table(versions))).to_pylist()
    assert [(row["claim"], row["paid"]) for row in made] == [(1, 7.0)], "nothing tells when the claim 3 was closed"


@pytest.mark.parametrize(
    "keys",
    [
        {"moments": {"declared": {"column": "declared_on"}, "closed": {"column": "declared_on"}}},
        {"holdout": {"column": "closed_on", "last": "10d"}, "schema_closed": False},
    ],
)
def test_a_target_that_is_known_by_the_hold_out_s_own_date_adds_no_column(keys: dict[str, Any]) -> None:
    spec = claims()
    if "schema_closed" in keys:
        schema = spec.model_dump(by_alias=True, exclude_unset=True)["schema"]
        keys = {"holdout": keys["holdout"], "schema": schema | {"closed_on": {"type": "date", "known": "closed"}}}
    made = in_memory.training_set(claims(**keys), table([claim(n, n, n + 40) for n in range(40)]))
    assert "_known_at" not in made.column_names and made.num_rows == 40


def test_the_rows_that_are_not_learned_from_are_no_training_rows() -> None:
    rows = table([claim(n, n, n + 10) for n in range(40)])
    made = in_memory.training_set(claims(), rows)
    parts = split(claims(), without_late(claims(), made))
    assert (parts.learn.num_rows, parts.held_out.num_rows) == (21, 9), (
        "claims 21 to 30 were closed after the hold-out had begun"
    )
    assert told_late(10, "paid") == "10 rows not used: paid became known only after the hold-out began"


def test_a_target_that_a_later_version_corrected_is_known_from_that_version_on() -> None:
    versions = {"on_conflict": "history", "version_by": "seen"}
    pipeline = claims("timestamp", **versions)
    early, late = claim(1, 5, 20, paid=1.0, seen=20), claim(1, 5, 20, paid=99.0, seen=60)
    others = [claim(number, 5, 20, seen=20) for number in range(2, 6)]
    assert learned(pipeline, table([early, *others], "timestamp")) == {1, 2, 3, 4, 5}
    assert learned(pipeline, table([early, late, *others], "timestamp")) == {2, 3, 4, 5}


HOLD_OUT_BEGINS = [
    (None, "2026-02-01", datetime(2026, 2, 1, 0, tzinfo=UTC)),
    ("Asia/Tokyo", "2026-02-01", datetime(2026, 1, 31, 15, tzinfo=UTC)),
    ("America/New_York", "2026-02-01", datetime(2026, 2, 1, 5, tzinfo=UTC)),
    ("America/Sao_Paulo", "2018-11-04", datetime(2018, 11, 4, 3, tzinfo=UTC)),  # clocks went from 23:59 to 1:00
    ("America/Havana", "2025-11-02", datetime(2025, 11, 2, 4, tzinfo=UTC)),  # they showed 0:00 twice
]
"""Time zone of the source, the hold-out's `start`, and the instant (UTC) at which it begins."""


def in_zone(zone: str | None) -> dict[str, Any]:
    return {"source": {"prefix": "claims/", "time_zone": zone}}


@pytest.mark.parametrize(("zone", "start", "begins"), HOLD_OUT_BEGINS)
def test_the_date_of_a_hold_out_begins_at_midnight_in_the_source_s_time_zone(
    zone: str | None, start: str, begins: datetime
) -> None:
    pipeline = claims(holdout={"column": "seen", "start": start}, **in_zone(zone))
    seen = [begins - timedelta(microseconds=1), begins, begins + timedelta(days=1)]
    rows = split(pipeline, pa.table({"seen": pa.array(seen, pa.timestamp("us", "UTC"))}))
    assert (rows.learn["seen"].to_pylist(), rows.held_out["seen"].to_pylist()) == (seen[:1], seen[1:])


@pytest.mark.parametrize(("zone", "hours"), [("Asia/Tokyo", -9), ("America/New_York", 5), (None, 0)])
@pytest.mark.parametrize("column", ["declared_on", "seen"])
def test_a_target_must_be_known_before_that_midnight(zone: str | None, hours: int, column: str) -> None:
    holdout = {"column": column, "start": FIRST + timedelta(days=START)}
    begun, tick = START + hours / 24, 1 / 24 / 3600
    instants = [claim(1, 5, begun - tick), claim(2, 5, begun), claim(3, 5, begun + tick)]
    made = claims("timestamp", holdout=holdout, **in_zone(zone))
    assert learned(made, table(instants, "timestamp")) == {1, 2}
    dates = [claim(1, 5, START - 2), claim(2, 5, START - 1), claim(3, 5, START)]
    assert learned(claims(holdout=holdout, **in_zone(zone)), table(dates)) == {1, 2}, "dates are compared as dates"
