"""A few broken cells change the comments of a draft, and nothing else."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.ingestion.draft import draft_pipeline
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.drafts import folded, unbroken

RANGE = "- {expect: expect_column_values_to_be_between, column: minuten"
HEADER = ["auftragnr", "eingang_am", "faellig", "ort", "preis", "minuten"]


def orders() -> list[list[str]]:
    """400 rows as a German export has them."""
    draw = random.Random(1)  # noqa: S311
    return [
        [
            f"A{1000 + n}",
            f"{1 + n % 28:02d}.{1 + n // 28 % 12:02d}.{2024 + n // 336} {n % 24:02d}:30",
            f"{1 + n % 28:02d}.03.2024",
            draw.choice(["Köln", "Bonn", "Ulm"]),
            f"{draw.randint(150, 48000) / 10:.1f}".replace(".", ","),
            str(15 + n % 100),
        ]
        for n in range(400)
    ]


def draft(folder: Path, rows: list[list[str]]) -> str:
    file = folder / "orders.csv"
    file.write_bytes("\r\n".join(";".join(row) for row in [HEADER, *rows, []]).encode("cp1252"))
    text = draft_pipeline(file)
    ModelPipeline.model_validate(yaml.safe_load(text))
    return text


def decided(text: str) -> str:
    """Return the lines of a draft without its comments."""
    return re.sub(r" {4}# .*", "", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE))


def comment(text: str, line: str) -> str:
    return next(found for found in folded(text).splitlines() if found.strip().startswith(line)).partition("# ")[2]


@pytest.mark.parametrize(
    ("column", "cell", "line", "says"),
    [
        ("faellig", "31.02.2024", "faellig:", "CHECK: 1 of 400 cells is no date; such rows go to quarantine"),
        (
            "faellig",
            "2024-03-01",
            "faellig:",
            "CHECK: 1 of 400 cells is written YYYY-MM-DD; `source.dates` takes one form: correct the file",
        ),
        ("eingang_am", "gestern", "eingang_am:", "CHECK: 1 of 400 cells is no timestamp; such rows go to quarantine"),
        (
            "preis",
            "k.A.",
            "preis:",
            'CHECK: 1 of 400 cells is no number; such rows go to quarantine (such as "k.A.": to read',
        ),
        ("minuten", "15 min", "minuten:", "CHECK: 1 of 400 cells is no whole number; such rows go to quarantine"),
        ("auftragnr", "", "key:", "auftragnr: 1 cell is empty; such rows go to quarantine."),
        (
            "auftragnr",
            "A1001",
            "key:",
            "auftragnr: 1 row repeats the key of an earlier row; such rows go to quarantine.",
        ),
        (
            "minuten",
            "-45",
            RANGE,
            "CHECK: 1 of 400 is outside 0 to 120, the farthest at about -45; such rows go to quarantine",
        ),
        (
            "minuten",
            "9999",
            RANGE,
            "CHECK: 1 of 400 is outside 0 to 120, the farthest at about 10000; such rows go to quarantine",
        ),
    ],
)
def test_one_broken_cell_is_told(tmp_path: Path, column: str, cell: str, line: str, says: str) -> None:
    rows = orders()
    whole = draft(tmp_path, rows)
    rows[200][HEADER.index(column)] = cell
    text = draft(tmp_path, rows)
    assert says in comment(text, line) and says not in comment(whole, line)
    assert decided(text).splitlines() == decided(whole).splitlines()


def test_a_second_date_far_in_the_future_gets_a_range_and_a_long_text_is_not_quoted(tmp_path: Path) -> None:
    rows = orders()
    rows[200][HEADER.index("faellig")] = "01.03.2204"
    rows[201][HEADER.index("preis")] = "call Mrs Example"
    text = draft(tmp_path, rows)
    (rule,) = (line for line in folded(text).splitlines() if "faellig is out of range" in line)
    assert "min_value: 1900-01-01, max_value: 2100-12-31" in rule
    assert rule.endswith("# CHECK: 1 is outside; such rows go to quarantine")
    assert "1 of 400 cells is no number; such rows go to quarantine" in comment(text, "preis:")
    assert "Mrs" not in text
    assert "faellig is out of range" not in draft(tmp_path, orders())


broken = st.tuples(st.integers(0, 399), st.sampled_from([0, 2, 5]), st.sampled_from(["?", "31.02.2024", "x y"]))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(broken, max_size=8))
def test_a_few_broken_cells_change_comments_only(tmp_path: Path, faults: list[tuple[int, int, str]]) -> None:
    rows = orders()
    whole = draft(tmp_path, rows)
    for row, column, cell in faults:
        rows[row][column] = cell
    assert decided(draft(tmp_path, rows)).splitlines() == decided(whole).splitlines()


def test_cells_of_another_form_are_told_apart_from_other_cells(tmp_path: Path) -> None:
    rows = orders()
    for number, cell in enumerate(["2024-03-01"] * 12 + ["03/31/2024", "offen", "31.02.2024"]):
        rows[number][2] = cell
    assert (
        "3 of 400 cells are no date; such rows go to quarantine; 12 of 400 cells are written YYYY-MM-DD; `source.dates`"
        " takes one form: correct the file, or these rows go to quarantine"
    ) in comment(draft(tmp_path, rows), "faellig:")


def test_more_than_a_few_make_another_column(tmp_path: Path) -> None:
    rows = orders()
    for row in rows[:21]:
        row[2] = "offen"
    assert "  faellig: {type: string" in draft(tmp_path, rows)


def test_a_missing_value_stays_one_beside_a_broken_date(tmp_path: Path) -> None:
    rows = orders()
    rows[7][2], rows[8][2] = "NA", "31.02.2024"
    text = draft(tmp_path, rows)
    assert 'null_values: ["", "NA"]' in text
    assert "  faellig: {type: date, known: event, nullable: true}" in text
    assert "CHECK: 1 of 399 cells is no date" in comment(text, "faellig:")


def test_rows_that_cannot_be_split_are_counted(tmp_path: Path) -> None:
    rows = orders()
    assert draft(tmp_path, rows).startswith("# Drafted from all 400 rows of orders.csv. ")
    told = "cannot be read (such as too many or too few fields). "
    first = unbroken(draft(tmp_path, [*rows, ["A1", "x"]]))
    assert first.startswith(f"# Drafted from all 400 readable rows of orders.csv, without 1 row that {told}")
    first = unbroken(draft(tmp_path, [["A1"], *rows, ["a"] * 9]))
    assert first.startswith(f"# Drafted from all 400 readable rows of orders.csv, without 2 rows that {told}")
    file = tmp_path / "x.jsonl"
    file.write_text("".join(f'{{"day": "2025-01-{n:02d}", "size": {n}}}\n' for n in range(1, 29)) + "no\n")
    assert "of x.jsonl, without 1 row that cannot be read (no JSON object). " in unbroken(draft_pipeline(file))


def limit(text: str) -> float:
    return ModelPipeline.model_validate(yaml.safe_load(text)).gate.limit


@pytest.mark.parametrize(("column", "cell"), [("preis", "480000000,0"), ("minuten", "9999"), ("auftragnr", "")])
def test_the_limit_is_that_of_rows_that_the_draft_accepts(tmp_path: Path, column: str, cell: str) -> None:
    rows = orders()
    rows[200][HEADER.index(column)] = cell
    if column != "preis":
        rows[200][HEADER.index("preis")] = "4800,0"
    found = limit(draft(tmp_path, rows))
    del rows[200]
    assert found == limit(draft(tmp_path, rows))


def test_a_number_beyond_a_float_is_a_broken_cell(tmp_path: Path) -> None:
    rows = orders()
    rows[200][HEADER.index("preis")] = "1e400"
    assert "1 of 400 cells is no number; such rows go to quarantine" in comment(draft(tmp_path, rows), "preis:")


def test_dates_after_the_drafted_range_do_not_set_the_hold_out(tmp_path: Path) -> None:
    rows = orders()
    whole = draft(tmp_path, rows)
    rows[200][1] = "31.12.9999 10:30"
    assert decided(draft(tmp_path, rows)).splitlines() == decided(whole).splitlines()


def test_a_column_that_is_empty_with_a_later_one_is_asked_about(tmp_path: Path) -> None:
    rows = orders()
    for row in rows[50:90]:
        row[HEADER.index("faellig")] = row[HEADER.index("minuten")] = ""
    text = draft(tmp_path, rows)
    assert "empty in the same rows as faellig: known only with it?" in comment(text, "minuten:")
    rows[50][HEADER.index("minuten")] = "30"
    assert "empty in the same rows" not in draft(tmp_path, rows)
