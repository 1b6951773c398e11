"""A draft of a file as a company's system exports it: rows of several lines, totals, units, an outcome that is open."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from rempart.errors import PipelineError
from rempart.ingestion.draft import draft_pipeline
from tests.unit.ingestion.drafts import folded
from tests.unit.ingestion.test_draft import load, write


def contracts(rows: int = 400, more: str = "") -> str:
    """Return renewals of contracts, of which the newest 60 days have no outcome; `more` stands at the end."""
    lines = []
    for n in range(rows):
        day = date(2025, 1, 1) + timedelta(days=n)
        left = ("ja" if n % 12 == 5 else "nein") if n < rows - 60 else ""
        note = '"zu teuer\nruft an"' if n % 40 == 0 else ""
        lines.append(f"V-{n};{day:%d.%m.%Y};{n % 5};{n % 90},50 €;{note};{left}")
    return "\n".join(["Vertrag;Datum;Stufe;Abschlag (€);Notiz;Gekündigt", *lines]) + f"\n{more}"


def test_a_first_row_of_several_lines_hides_no_header(tmp_path: Path) -> None:
    pipeline = load(draft_pipeline(write(tmp_path / "renewals.csv", contracts()), target="Gekündigt"))
    assert pipeline.source.header["Abschlag (€)"] == "abschlag" and pipeline.key == ["vertrag"]
    quoted = contracts().replace("Abschlag (€)", '"Abschlag\n(€)"')
    with pytest.raises(PipelineError, match="a quotation mark in its first line is not closed there"):
        draft_pipeline(write(tmp_path / "quoted.csv", quoted))
    with pytest.raises(PipelineError, match="lower case") as refused:
        draft_pipeline(write(tmp_path / "rows.csv", "\n".join(contracts().splitlines()[2:])))
    assert "If the file has no header, add one" in refused.value.hint


def test_a_line_of_totals_makes_no_column_nullable_and_is_told(tmp_path: Path) -> None:
    plain = draft_pipeline(write(tmp_path / "renewals.csv", contracts()), target="Gekündigt")
    with_totals = draft_pipeline(write(tmp_path / "renewals.csv", contracts(more="Summe;;;;;\n")), target="Gekündigt")
    told = "# 1 row has almost only empty cells, as a line of totals has: such rows go to quarantine."
    assert told in with_totals.splitlines() and told not in plain
    assert load(with_totals).columns == load(plain).columns
    many = draft_pipeline(write(tmp_path / "renewals.csv", contracts(more="x;;;;;\n" * 9)), target="Gekündigt")
    assert "almost only empty" not in many and load(many).columns["stufe"].nullable


def test_a_number_with_a_unit_is_a_number_and_an_identifier_is_none(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "renewals.csv", contracts()), target="Gekündigt")
    assert '    abschlag: "€"' in text.splitlines()
    pipeline = load(text)
    assert pipeline.source.units == {"abschlag": "€"} and pipeline.source.decimal == ","
    assert pipeline.columns["abschlag"].type == "number" and pipeline.columns["vertrag"].type == "string"
    assert "column: abschlag, min_value: 0, max_value: " in text and "column: vertrag, min_value" not in text


def test_a_cell_without_the_unit_of_its_column_is_counted(tmp_path: Path) -> None:
    body = contracts().replace(";3,50 €;", ";3,50;").replace(";4,50 €;", ";unbekannt;")
    text = draft_pipeline(write(tmp_path / "renewals.csv", body), target="Gekündigt")
    absent = body.count(";3,50;") + body.count(";unbekannt;")
    assert f'    abschlag: "€"    # {absent} cells do not have it; such rows go to quarantine' in text.splitlines()


def test_numbers_in_two_currencies_stay_text_and_the_draft_counts_both(tmp_path: Path) -> None:
    rows = [line.replace(",50 €", " CHF") if n % 3 == 1 else line for n, line in enumerate(contracts().splitlines())]
    text = draft_pipeline(write(tmp_path / "renewals.csv", "\n".join(rows)), target="Gekündigt")
    (amount,) = (line for line in folded(text).splitlines() if line.startswith("  abschlag:"))
    assert "type: string" in amount and "units:" not in text
    count = "\n".join(rows).count(" CHF")
    assert f'numbers in several units ({400 - count} with "€", {count} with "CHF")' in amount
    assert "#numbers-with-a-unit" in amount


def test_an_exponent_and_a_unit_with_a_digit_are_not_taken_off(tmp_path: Path) -> None:
    rows = [f"{n},2026-01-{n % 28 + 1:02d},{n + 10}.5E7,{n + 20} m2,{n + 30} EUR" for n in range(200)]
    text = draft_pipeline(write(tmp_path / "flats.csv", "\n".join(["flat,day,energy,area,price", *rows]) + "\n"))
    pipeline = load(text)
    assert pipeline.source.units == {"price": "EUR"}
    assert pipeline.columns["energy"].type == "number" and "max_value: 2100000000" in text
    (area,) = (line for line in folded(text).splitlines() if line.startswith("  area:"))
    assert "type: string" in area and 'numbers with "m2"' in area


def test_a_target_that_comes_later_is_told_and_leaves_rows_to_learn_from_and_to_measure(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "renewals.csv", contracts()), target="Gekündigt")
    moments = text.split("\nmoments:")[1].split("\npartition_by")[0]
    assert "No row of the newest 60 days has gekuendigt: it comes later than the row." in moments
    pipeline = load(text)
    assert pipeline.holdout and pipeline.holdout.last == timedelta(days=67)  # of those with a target
    assert pipeline.gate.positive == "ja"


def visits(offset: str = "+01:00") -> str:
    """Return appointments with their offset, a planned duration, and a category with a line break."""
    rows = [
        f"{n},2026-01-{n % 28 + 1:02d}T08:30:00{offset},{('1h 25min', '45min', '2h', '90 min')[n % 4]},"
        f"{('privat', QUOTED)[n % 2]},{n % 7}"
        for n in range(200)
    ]
    return "\n".join(["visit,starts,planned,insured,late_minutes", *rows]) + "\n"


QUOTED = '"selbst-\nzahlend\t""neu"""'


def test_durations_are_told_also_where_they_look_like_a_closed_list(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "visits.csv", visits()))
    text = folded(text)
    (planned,) = (line for line in text.splitlines() if line.startswith("  planned:"))
    assert "type: category" in planned and "CHECK: durations: a text has no order" in planned
    assert "#numbers-with-a-unit" in planned
    (insured,) = (line for line in text.splitlines() if line.startswith("  insured:"))
    assert "durations" not in insured


def test_a_line_break_and_a_tab_of_a_category_can_be_read_in_the_draft(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "visits.csv", visits()))
    assert r'"selbst-\nzahlend\t\"neu\""' in text
    assert load(text).columns["insured"].values == ["privat", 'selbst-\nzahlend\t"neu"']


@pytest.mark.parametrize(("offset", "asked"), [("+01:00", True), ("-0530", True), ("Z", False), ("+00:00", False)])
def test_times_with_an_offset_ask_in_which_zone_their_hours_count(tmp_path: Path, offset: str, asked: bool) -> None:
    text = draft_pipeline(write(tmp_path / "visits.csv", visits(offset)))
    assert load(text).source.time_zone is None
    assert ("\n  # time_zone: Europe/Berlin    # CHECK: " in folded(text)) is asked
    chosen = text.replace("  # time_zone: Europe/Berlin", "  time_zone: Europe/Berlin")
    assert load(chosen).source.time_zone == ("Europe/Berlin" if asked else None)


def test_a_column_of_one_value_is_told_and_no_input(tmp_path: Path) -> None:
    body = contracts().replace("Vertrag;", "Mandant;Vertrag;").replace("\nV-", "\n001;V-")
    text = draft_pipeline(write(tmp_path / "renewals.csv", body), target="Gekündigt")
    (client,) = (line for line in folded(text).splitlines() if line.startswith("  mandant:"))
    assert "the same value in all these rows" in client and text.count("the same value") == 1
    pipeline = load(text)
    assert "mandant" not in pipeline.features["own"].columns and "mandant" not in pipeline.gate.baseline_by


@pytest.mark.parametrize(("columns", "in_each"), [(3, 3), (4, 0)])
def test_the_same_question_of_many_columns_is_asked_once(tmp_path: Path, columns: int, in_each: int) -> None:
    names = [f"Sensor {n}" for n in range(columns)]
    rows = [
        f"M{n:04};{date(2025, 1, 1) + timedelta(days=n)};"
        + ";".join([f"{-n % 90 if n > 8 else -3 if n > 6 else 9}"] * columns)
        for n in range(400)
    ]
    file = tmp_path / "readings.csv"
    file.write_text("\n".join([";".join(["Meldung", "Tag", *names]), *rows, ""]))
    text = folded(draft_pipeline(file))
    lines = [line for line in text.splitlines() if "is out of range" in line and "2 of 400 are negative" in line]
    assert len(lines) == columns
    assert sum("# CHECK: 2 of 400 are negative: is that right?" in line for line in lines) == in_each
    assert (f"{columns} columns have a few negative numbers: is that right?" in text) is (not in_each)
