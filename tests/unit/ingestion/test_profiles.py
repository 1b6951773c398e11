"""A profile tells figures of columns, and no value of a person; its page is one file without scripts."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ObjectMissing
from rempart.flows.ingestion import profile as flow
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.profiles.measures import (
    BARS,
    FEWEST,
    MOST_BARS,
    Bar,
    ColumnProfile,
    Profile,
    profile,
    rounded,
    shown,
    step,
)  # fmt: skip
from rempart.ingestion.profiles.page import page, plot
from rempart.ingestion.snapshots import commit
from tests.snapshots_of_tables import Drawing
from tests.unit.training.stage import memory_site, pipeline

CANARY = "CANARY-guest-91c4"
TYPES = {
    "stay_id": "integer",
    "price": "number",
    "paid": "decimal(9,2)",
    "room": "category",
    "breakfast": "boolean",
    "agent": "string",
    "arrival": "date",
    "taken": "timestamp",
    "tags": "array(string)",
}


def table(rows: int = 400) -> pa.Table:
    dice = random.Random(1)  # noqa: S311 - test data
    days = [date(2026, 1, 1) + timedelta(days=i % 90) for i in range(rows)]
    return pa.table(
        {
            "stay_id": pa.array(range(rows), pa.int64()),
            "price": pa.array([None if i % 10 == 0 else dice.gauss(100, 15) for i in range(rows - 1)] + [987654.25]),
            "paid": pa.array([f"{i % 50}.25" for i in range(rows)]).cast(pa.decimal128(9, 2)),
            "room": pa.array(["<plain>" if i % 2 else "sea" for i in range(rows - 3)] + ["royal"] * 3),
            "breakfast": pa.array([i % 3 == 0 for i in range(rows)]),
            "agent": pa.array([CANARY if i == 5 else f"agent-{i % 7}" for i in range(rows)]),
            "arrival": pa.array(days, pa.date32()),
            "taken": pa.array([datetime(2026, 1, 1, i % 24, tzinfo=UTC) for i in range(rows)]),
            "tags": pa.array([["a", CANARY]] * rows, pa.list_(pa.string())),
        }
    )


def measured(folder: Path, classification: str, rows: int = 400) -> Profile:
    whole = table(rows)
    halves = [whole.slice(0, rows // 2), whole.slice(rows // 2)]
    parts = [folder / f"{i}.parquet" for i in range(2)]
    for part, half in zip(parts, halves, strict=True):
        pq.write_table(half, part)
    return profile(
        parts,
        TYPES,
        ["stay_id"],
        Resources(memory=128 << 20, threads=1, spill=folder / "spill"),
        pipeline="stays",
        snapshot="s1",
        classification=classification,
    )


def test_figures_of_an_internal_data_set(tmp_path: Path) -> None:
    found = measured(tmp_path, "internal")
    columns = {column.name: column for column in found.columns}
    assert (found.rows, found.guarded) == (400, False)
    assert (columns["price"].nulls, columns["price"].high) == (40, "987654.25")
    assert columns["stay_id"].bars == () and columns["stay_id"].low is None
    assert abs(columns["stay_id"].distinct - 400) < 60
    assert {bar.label: bar.rows for bar in columns["room"].bars} == {"<plain>": 198, "sea": 199, "royal": 3}
    assert {bar.label: bar.rows for bar in columns["breakfast"].bars} == {"true": 134, "false": 266}
    assert (columns["agent"].shortest, columns["agent"].longest) == (len("agent-0"), len(CANARY))
    assert [bar.label for bar in columns["arrival"].bars] == ["2026-01", "2026-02", "2026-03"]
    assert [bar.label for bar in columns["taken"].bars][:2] == ["2026-01-01 00:00", "2026-01-01 01:00"]
    assert sum(bar.rows for bar in columns["paid"].bars) + (columns["paid"].left_out or 0) == 400
    assert columns["price"].left_out == 360 - sum(bar.rows for bar in columns["price"].bars) > 0


@pytest.mark.parametrize("classification", ["personal", "sensitive"])
def test_nothing_rare_of_personal_data_is_told(tmp_path: Path, classification: str) -> None:
    found = measured(tmp_path, classification)
    text = page(found)
    assert found.guarded and all(column.low is None and column.high is None for column in found.columns)
    assert all(bar.rows >= FEWEST for column in found.columns for bar in column.bars)
    room = next(column for column in found.columns if column.name == "room")
    # 3 rows are royal: with all others shown, the total would tell it
    assert {bar.label: bar.rows for bar in room.bars} == {"sea": 200} and room.left_out == 200
    for secret in (CANARY, "agent-", "987654", "royal"):
        assert secret not in text and secret not in str(found.as_json())
    assert f"fewer than {FEWEST} rows" in text and f"rounded to {FEWEST}" in text
    counts = [n for c in found.columns for n in (c.nulls, c.left_out, *(bar.rows for bar in c.bars))]
    assert all(count % FEWEST == 0 for count in [found.rows, *counts])
    assert all(column.mean_length is None for column in found.columns) and room.longest is None


BARS_OF = st.lists(st.integers(1, 40), max_size=6).map(lambda rows: [Bar(str(i), n) for i, n in enumerate(rows)])


@given(BARS_OF, st.integers(0, 40))
def test_what_no_bar_shows_is_nothing_or_many_rows(bars: list[Bar], rest: int) -> None:
    kept, left = shown(bars, rest)
    assert left + sum(bar.rows for bar in kept) == rest + sum(bar.rows for bar in bars)
    assert set(kept) <= set(bars) and all(bar.rows >= FEWEST for bar in kept)
    assert left == 0 or left >= FEWEST or not kept


@given(st.integers(0, 10**9))
def test_a_rounded_count_is_near_and_tells_no_single_row(rows: int) -> None:
    assert rounded(rows) % FEWEST == 0 and abs(rounded(rows) - rows) <= FEWEST // 2


def profile_of(folder: Path, column: pa.Array, type_: str) -> ColumnProfile:
    pq.write_table(pa.table({"v": column}), folder / "v.parquet")
    resources = Resources(memory=128 << 20, threads=1, spill=folder / "spill")
    told = {"pipeline": "stays", "snapshot": "s1", "classification": "internal"}
    return profile([folder / "v.parquet"], {"v": type_}, [], resources, **told).columns[0]


WIDEST = 1.7e308


@pytest.mark.parametrize(
    "values",
    [
        [-WIDEST] * 300 + [WIDEST] * 300 + [i * 1.5 for i in range(5000)],
        [i / 1e9 for i in range(5000)] + [WIDEST],
        [float(10**17 + 16 * i) for i in range(1000)],
        [5e-324 * i for i in range(50)],
        [0.0] * 50 + [1e-322] * 50,
    ],
)
def test_a_distribution_of_any_numbers_has_few_bars(tmp_path: Path, values: list[float]) -> None:
    found = profile_of(tmp_path, pa.array(values), "number")
    assert 0 < len(found.bars) <= BARS + 2 and sum(bar.rows for bar in found.bars) + found.left_out == len(values)
    assert not [bar for bar in found.bars if "inf" in bar.label]


def test_a_distribution_over_all_years_has_few_bars(tmp_path: Path) -> None:
    found = profile_of(tmp_path, pa.array([date(year, 1, 1) for year in range(1, 10_000)], pa.date32()), "date")
    assert 0 < len(found.bars) <= MOST_BARS and sum(bar.rows for bar in found.bars) == 9999


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_without_scripts_or_addresses(tmp_path: Path) -> None:
    text = page(measured(tmp_path, "internal"))
    read = Page()
    read.feed(text)
    assert not {tag for tag, _ in read.tags} & {"script", "img", "link", "iframe", "object", "a"}
    assert not [a for _, a in read.tags if {"src", "href", "onclick", "onload"} & set(a)]
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "<plain>" not in text and "&lt;plain&gt;" in text
    assert len([tag for tag, _ in read.tags if tag == "svg"]) == 6


def test_no_rows_are_a_page_too(tmp_path: Path) -> None:
    found = profile(
        [],
        TYPES,
        [],
        Resources(memory=64 << 20, threads=1, spill=tmp_path),
        pipeline="stays",
        snapshot="s0",
        classification="public",
    )
    assert found.rows == 0 and "no rows" in page(found)


@given(st.floats(-WIDEST, WIDEST), st.floats(-WIDEST, WIDEST))
def test_a_distribution_has_few_bars_of_round_width(first: float, second: float) -> None:
    low, high = sorted((first, second))
    width = step(low, high, whole=False)
    assert width > 0 and high / width - low / width <= BARS * (1 + 1e-6)


def test_a_plot_of_one_bar_names_it() -> None:
    drawn = plot([Bar("a & b", 1)], "kind")
    assert "a &amp; b: 1 rows" in drawn and 'aria-label="Rows by kind: 1 bars, the largest 1 rows"' in drawn


def test_a_profile_is_stored_beside_its_snapshot(tmp_path: Path) -> None:
    site, spec = memory_site(), pipeline()
    rows = table(60).select(["stay_id", "room", "breakfast", "agent", "arrival", "price"])
    rows = rows.append_column("lead", pa.array([1] * 60, pa.int64())).append_column("nights", pa.nulls(60, pa.int64()))
    rows = rows.append_column("season", pa.array(["cheap"] * 60)).select(list(spec.columns))
    rows = rows.set_column(rows.column_names.index("price"), "price", pc.fill_null(rows["price"], 1.0))
    snapshot, added = Drawing(spec, tmp_path).add(None, rows)
    commit(site, "lake", snapshot, added)
    at_hand = tmp_path / "part.parquet"
    at_hand.write_bytes(added[0][1].read_bytes())
    found = flow.measured(site, "lake", snapshot, {added[0][0].key: at_hand})
    key = flow.store(site, "lake", snapshot, page(found).encode())
    assert key == f"profiles/stays_test/{snapshot.classification}/{snapshot.id}.html"
    body = site.read("lake", key).decode()
    assert "60 rows" in body and CANARY not in body
    assert site.head("lake", key).metadata["retain-until"] == "2027-01-01"
    site.delete("lake", added[1][0].key)
    with pytest.raises(ObjectMissing):
        flow.measured(site, "lake", snapshot)
