"""The engine accepts and refuses the rows that today's ingestion accepts and refuses: `judge_rows` is the oracle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.ingestion import reading
from rempart.ingestion import refused as refused_rows
from rempart.ingestion.engine import staging
from rempart.ingestion.engine.batches import LINE, RAW, TextRows
from rempart.ingestion.engine.database import opened
from rempart.ingestion.engine.deliveries import ERASED, HeldRows, StagedDelivery, TakenIn, take_in
from rempart.ingestion.engine.limits import Limits, Resources
from rempart.ingestion.judging import typed_rows
from rempart.ingestion.snapshots import arrow_schema, snapshot_columns
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.conftest import HEADER, READINGS
from tests.unit.ingestion.oracle.judge_rows import judge_within_limit

# the expectations have tests of their own; here a pattern, which needs no Great Expectations, stands for all of them
PIPELINE = ModelPipeline.model_validate(
    yaml.safe_load(READINGS)
    | {
        "max_quarantined": 0.6,
        "expectations": [
            {
                "expect": "expect_column_values_to_not_match_regex",
                "column": "note",
                "regex": "bad",
                "reason": "bad note",
            }
        ],
    }
)
LIMITS = Limits()


def broken(table: pa.Table) -> Mapping[int, Sequence[str]]:
    from rempart.ingestion import expectations

    return expectations.broken(PIPELINE.expectations, table)


def taken_in(folder: Path, bodies: Mapping[str, bytes], known: Sequence[Path] = (), limits: Limits = LIMITS) -> TakenIn:
    files = []
    for name, body in bodies.items():
        files.append(folder / name)
        files[-1].write_bytes(body)
    resources = Resources(200 << 20, 1, folder / "spill")
    return take_in(files, known, PIPELINE, folder, resources, limits, broken, part_bytes=1000)


def accepted(outcome: TakenIn) -> list[tuple[object, ...]]:
    rows = []
    for part in outcome.parts:
        table = pq.read_table(part.file)
        assert table.num_rows == part.rows
        assert {f"{day:%Y-%m}" for day in table["day"].to_pylist()} == {part.partition}
        rows += [tuple(row.values()) for row in table.to_pylist()]
    return sorted(rows, key=repr)


cell = partial(st.sampled_from)
line = st.builds(
    ",".join,
    st.tuples(
        cell(["m1", "m2", "m3", "", '"m,1"', '"m""2"']),
        cell(["2026-01-01", "2026-02-01", "2026-02-30", "01.02.2026", ""]),
        cell(["1", "1.5", "-0", "0", "1,5", "nan", "1e999", "x", "", ".5", "1e3"]),
        cell(["1", "", "1.0", "9" * 19, "-7"]),
        cell(["base", "night", "day", ""]),
        cell(["", "a", "bad", '"a\nb"', '"', "\x00", '"never']),
    ),
)
delivery = st.lists(line, min_size=1, max_size=8).map(lambda rows: (HEADER + "".join(f"{r}\n" for r in rows)).encode())


@settings(max_examples=25, deadline=None)
@given(st.lists(delivery, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_the_same_rows_are_accepted_and_refused_for_the_same_reasons(
    bodies: list[bytes], some_known: bool, on_disk: bool
) -> None:
    schema = arrow_schema(snapshot_columns(PIPELINE))
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        folder = Path(place)
        if on_disk:
            patch.setattr(refused_rows, "_SMALL", 0)
        current, known = None, []
        if some_known:
            first = _judged(None, bodies[:1])
            current = first.accepted.cast(schema)
            known = [folder / "known.parquet"]
            pq.write_table(current, known[0])
        want = _judged(current, bodies)
        found = taken_in(folder, {f"{i}.csv": body for i, body in enumerate(bodies)}, known)
        assert found.held == want.held
        resources = Resources(200 << 20, 1, folder / "spill")
        assert accepted(found) == sorted((tuple(row.values()) for row in want.accepted.to_pylist()), key=repr)
        for number, (ours, theirs) in enumerate(zip(found.deliveries, want.refused, strict=True)):
            assert ours.judged == want.judged[number]
            refused = HeldRows.on_disk(ours, resources) if number in found.held else ours.refused
            assert list(refused) == list(theirs) and len(refused) == len(theirs)


def _judged(current: pa.Table | None, bodies: Sequence[bytes]):  # type: ignore[no-untyped-def] # the oracle's own type
    rows = [reading.read("x.csv", body, PIPELINE.source, list(PIPELINE.columns)) for body in bodies]
    return judge_within_limit(PIPELINE, current, rows)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [("m1", "2026-01-01", 1.5, 2, "base", None), ("m2", "2026-02-01", 0.25, None, "night", 'é,"')]
    names = HEADER.strip().split(",")
    text = HEADER + "m1,2026-01-01,1.5,2,base,\n" + 'm2,2026-02-01,0.25,,night,"é,"""\n'
    lines = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), sink)
    found = []
    for name, body in {"a.csv": text.encode(), "a.jsonl": lines.encode(), "a.parquet": bytes(sink.getvalue())}.items():
        folder = tmp_path / name
        folder.mkdir()
        outcome = taken_in(folder, {name: body})
        assert [delivery.refused for delivery in outcome.deliveries] == [[]]
        found.append(accepted(outcome))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2


def test_a_faulty_json_line_costs_that_line_only(tmp_path: Path) -> None:
    good = '{"meter": "m1", "day": "2026-01-01", "kwh": 1, "tariff": "base"}'
    bad = ['{"meter": ', "[1]", '{"other": 1}', '{"meter": {"a": 1}}', '{"kwh": 1, "kwh": 2}', '{"meter": "\\ud800"}']
    body = "\n".join([good, *bad, good.replace("m1", "m2"), good.replace("m1", "m3"), ""]).encode()
    found = taken_in(tmp_path, {"a.jsonl": body}).deliveries[0]
    assert [(row.line, row.raw) for row in found.refused] == list(enumerate(bad, 2))
    assert [row.reasons[0] for row in found.refused] == [
        "not a JSON value",
        "not a JSON object",
        "has a field that is not in the schema",
        "meter: not a plain value",
        "has a field twice",
        "meter: not Unicode text",
    ]


def test_a_delivery_with_too_many_repeated_keys_is_refused_as_a_whole(tmp_path: Path) -> None:
    row = "m1,2026-01-01,1,1,base,\n"
    found = taken_in(
        tmp_path, {"a.csv": (HEADER + row * 5).encode(), "b.csv": (HEADER + row).encode()}, limits=Limits(refused=3)
    )
    assert "same key" in (found.deliveries[0].fault or "")
    assert [delivery.good for delivery in found.deliveries] == [0, 1]
    assert len(accepted(found)) == 1


def test_a_delivery_whose_rows_of_repeated_keys_are_too_long_is_refused_as_a_whole(tmp_path: Path) -> None:
    row = f"m1,2026-01-01,1,1,base,{'x' * 100}\n"
    bodies = {"a.csv": (HEADER + row * 5).encode(), "b.csv": (HEADER + row).encode()}
    found = taken_in(tmp_path, bodies, limits=Limits(refused_text=300))
    assert "too long to be stored" in (found.deliveries[0].fault or "")
    assert [delivery.good for delivery in found.deliveries] == [0, 1]


def test_fewer_rows_are_judged_together_where_they_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_rows, "_BYTES", 5_000)
    rows = pa.table({"note": ["x" * 1000] * 20, LINE: pa.array(range(20), pa.int64()), RAW: [""] * 20})
    pq.write_table(rows, tmp_path / "staged", row_group_size=2)
    seen: list[int] = []

    def judge(table: pa.Table) -> Mapping[int, Sequence[str]]:
        seen.append(table.num_rows)
        return {}

    (found,) = typed_rows.judged([StagedDelivery(tmp_path / "staged", 20)], judge, LIMITS, tmp_path / "judged")
    assert (found.good, seen) == (20, [6, 6, 6, 2])


def test_batches_of_long_rows_are_typed_before_many_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_BYTES", 5_000)
    batch = TextRows(pa.table({"note": ["x" * 1000] * 2}))
    assert [gathered.table.num_rows for gathered in staging._gathered([batch] * 10)] == [6, 6, 6, 2]


@pytest.mark.parametrize("group", [2, 100])
def test_judged_rows_stay_in_their_file_and_the_refused_ones_are_left_out(tmp_path: Path, group: int) -> None:
    numbers = list(range(1, 13))
    staged = pa.table(
        {"n": numbers, LINE: pa.array([n + 1 for n in numbers], pa.int64()), RAW: [f"r{n}" for n in numbers]}
    )
    pq.write_table(staged, tmp_path / "staged", row_group_size=group)
    seen: list[int] = []

    def judge(table: pa.Table) -> Mapping[int, Sequence[str]]:
        seen.extend(table["n"].to_pylist())
        return {place: ["even"] for place, n in enumerate(table["n"].to_pylist()) if n % 2 == 0}

    read = typed_rows.without(StagedDelivery(tmp_path / "staged", 12), [3, 13], tmp_path / "left")
    assert (read.good, list(read.refused)) == (10, [])
    (found,) = typed_rows.judged([read], judge, LIMITS, tmp_path / "judged", [[6]], columns=["n"])
    assert seen == [1, 3, 4, 6, 7, 8, 9, 10, 11]
    assert [(row.line, row.reasons, row.raw) for row in found.refused] == [
        (5, ("even",), "r4"),
        (6, (ERASED,), ""),
        *((n + 1, ("even",), f"r{n}") for n in (6, 8, 10)),
    ]
    assert (found.good, found.judged) == (5, 9)
    resources = Resources(64 << 20, 1, tmp_path / "spill")
    with opened(resources, sorted(found.folders)) as connection:
        assert connection.execute(f"SELECT n FROM {found.rows} ORDER BY n").fetchall() == [
            (n,) for n in (1, 3, 7, 9, 11)
        ]
