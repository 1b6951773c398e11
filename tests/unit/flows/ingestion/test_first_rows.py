"""The first rows of a delivery are judged by the pipeline's types before its upload: a warning, never a refusal."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rempart.cli import app
from rempart.cli.views import delivery
from rempart.flows.ingestion import deliver, first_rows, ingest_run
from rempart.flows.shared import platform
from rempart.ingestion.engine.batches import LINE, RAW, RefusedRow, TextRows
from rempart.ingestion.engine.limits import Limits
from rempart.settings import config, pipelines
from tests.unit.training import stage

PIPELINE = stage.pipeline()
HEADER = "stay_id,lead,nights,breakfast,room,season,agent,arrival,price\n"
CANARY = "CANARY-7f3a"


def line(i: int, lead: str = "3", room: str = "plain") -> str:
    return f"{i},{lead},2,true,{room},fair,{CANARY},2026-01-{i % 28 + 1:02d},80\n"


def judged(file: Path, body: str) -> first_rows.FirstRows:
    file.write_bytes(gzip.compress(body.encode()) if file.suffix == ".gz" else body.encode())
    (found,) = first_rows.judge(PIPELINE, [file], Limits())
    return found


@pytest.mark.parametrize("name", ["stays.csv", "stays.csv.gz"])
def test_rows_that_would_go_to_quarantine_are_told_with_their_lines(tmp_path: Path, name: str) -> None:
    rows = [line(i) for i in range(200)]
    rows[8], rows[18], rows[28] = line(8, lead="soon"), line(18, room="attic"), "a,b\n"
    found = judged(tmp_path / name, HEADER + "".join(rows))
    assert (found.rows, found.refused, found.fault) == (200, 3, None)
    shown = list(delivery.warnings([found], PIPELINE))
    assert shown[0] == f"WARNING: {name}: 3 of its 200 rows would go to quarantine:"
    assert "        1 x lead: not a whole number (line 10)" in shown and "(line 20)" in "\n".join(shown)
    assert CANARY not in "\n".join(shown) and len(shown) == 4


def test_good_rows_give_no_line_and_rows_behind_the_first_are_not_read(tmp_path: Path) -> None:
    rows = [line(i, lead="3" if i < first_rows.MOST else "soon") for i in range(3 * first_rows.MOST)]
    found = judged(tmp_path / "stays.csv", HEADER + "".join(rows))
    assert (found.rows, found.refused) == (first_rows.MOST, 0) and not list(delivery.warnings([found], PIPELINE))
    rows[5] = line(5, lead="soon")
    (told, *_) = delivery.warnings([judged(tmp_path / "stays.csv", HEADER + "".join(rows))], PIPELINE)
    assert told == "WARNING: stays.csv: 1 of its first 1,000 rows would go to quarantine:"


def test_more_than_the_pipeline_allows_would_be_held_back(tmp_path: Path) -> None:
    found = judged(tmp_path / "stays.csv", HEADER + "".join(line(i, lead="soon" if i % 2 else "3") for i in range(20)))
    assert "held back: more than 5 % (`max_quarantined`)" in list(delivery.warnings([found], PIPELINE))[-1]


def test_a_file_without_rows_and_one_that_is_gone(tmp_path: Path) -> None:
    (told,) = delivery.warnings([judged(tmp_path / "stays.csv", HEADER)], PIPELINE)
    assert told.endswith("ingestion would refuse this file as a whole: the file has a header but no rows")
    (gone,) = first_rows.judge(PIPELINE, [tmp_path / "none.csv"], Limits())
    assert not list(delivery.warnings([gone], PIPELINE)), "the upload says why it cannot be read"


BATCHES = st.lists(st.lists(st.booleans(), max_size=6), max_size=5)


@given(BATCHES, st.integers(1, 12))
def test_the_first_rows_are_those_with_the_lowest_lines(batches: Sequence[Sequence[bool]], most: int) -> None:
    made, number = [], 1
    for rows in batches:
        lines = {number + i: good for i, good in enumerate(rows)}
        number += len(rows)
        kept = [n for n, good in lines.items() if good][::-1]
        table = pa.table({LINE: pa.array(kept, pa.int64()), RAW: pa.nulls(len(kept), pa.string())})
        made.append(TextRows(table, [RefusedRow(n, ("x",), "") for n, good in lines.items() if not good]))
    found = list(first_rows._first(made, most))
    taken = [n for b in found for n in [*b.table[LINE].to_pylist(), *(row.line for row in b.refused)]]
    assert sorted(taken) == list(range(1, min(most, number - 1) + 1))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_formats_are_judged_too(tmp_path: Path, kind: str) -> None:
    pipeline = stage.pipeline(source={"prefix": "stays/", "format": kind})
    row = dict(zip(HEADER.strip().split(","), line(1).strip().split(","), strict=True))
    rows = [row | {"stay_id": str(i)} for i in range(3)]
    rows[1] |= {"room": "attic"}
    file = tmp_path / f"stays.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    (found,) = first_rows.judge(pipeline, [file], Limits())
    assert (found.rows, found.refused, found.fault) == (3, 1, None)
    assert dict(found.reasons) == {"room: not among the declared values": [2]}


LINES = st.lists(st.sampled_from(["typed", "text", "refused"]), min_size=1, max_size=60)


@settings(max_examples=12)
@given(LINES, st.integers(1, 30), st.integers(200, 4_000))
def test_rows_of_several_kinds_in_json_lines_are_judged_by_their_lines(
    kinds: Sequence[str], most: int, block: int
) -> None:
    """Lines of numbers and lines of texts are read one kind after the other."""
    pipeline = stage.pipeline(source={"prefix": "stays/", "format": "jsonl"})
    names = HEADER.strip().split(",")
    made = []
    for i, kind in enumerate(kinds):
        row: dict[str, object] = dict(zip(names, line(i).strip().split(","), strict=True))
        row["lead"] = {"typed": 3, "text": "3", "refused": "soon"}[kind]
        made.append(json.dumps(dict(sorted(row.items(), reverse=i % 2 == 1))) + "\n")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(first_rows, "_BLOCK", block)
        (file := Path(folder, "stays.jsonl")).write_text("".join(made))
        (found,) = first_rows.judge(pipeline, [file], Limits(), most)
    wrong = [number for number, kind in enumerate(kinds[:most], 1) if kind == "refused"]
    assert (found.rows, found.refused) == (min(most, len(kinds)), len(wrong))
    assert sorted(number for lines in found.reasons.values() for number in lines) == wrong


def test_a_file_is_refused_by_the_limits_of_the_ingestion_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = dict(zip(HEADER.strip().split(","), line(1).strip().split(","), strict=True))
    pq.write_table(pa.Table.from_pylist([row] * 3), file := tmp_path / "stays.parquet")
    pipeline = stage.pipeline(source={"prefix": "stays/", "format": "parquet"})
    assert first_rows.judge(pipeline, [file], Limits(rows=3))[0].fault is None
    assert first_rows.judge(pipeline, [file], Limits(rows=2))[0].fault == "the file has more than 2 rows"

    asked: list[object] = []

    def judge(spec: object, files: object, given: Limits) -> list[first_rows.FirstRows]:
        asked.append(given)
        return []

    monkeypatch.setattr(pipelines, "named", lambda name: pipeline)
    monkeypatch.setattr(deliver, "check", lambda spec, files, largest: asked.append(largest))
    monkeypatch.setattr(first_rows, "judge", judge)
    monkeypatch.setattr(platform, "open_platform", lambda: sys.exit(3))
    assert CliRunner().invoke(app, ["pipeline", "deliver", "hotel_bookings", str(file)]).exit_code == 3
    limits = ingest_run.limits(config.load())
    assert asked == [limits.bytes, limits] and limits.rows > Limits().rows
