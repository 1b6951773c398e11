"""A draft loads unchanged, names a person's decisions, and holds no free text of the file."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.errors import PipelineError
from rempart.ingestion.draft import draft_pipeline, reminder, save_draft, undecided
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.drafts import folded, unbroken


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def load(text: str) -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(text))


ENERGY = "".join(
    f"{i},m{i % 3}-site,2025-{1 + i // 28:02d}-{1 + i % 28:02d},{i * 0.37 + 1:.2f},{i % 4},{'yes' if i % 2 else 'no'},"
    f"{'true' if i % 5 else 'false'},{'NA' if i == 7 else i},written by person {i}\n"
    for i in range(84)
)
ENERGY_HEADER = "reading_id,meter,day,kwh,people,heated,holiday,dew,remark\n"


def test_types_key_time_and_target_are_guessed_and_it_loads(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "Energy use 2025.csv", ENERGY_HEADER + ENERGY))
    pipeline = load(text)
    assert pipeline.name == "energy_use_2025"
    assert pipeline.key == ["reading_id"]
    assert {name: column.type for name, column in pipeline.columns.items()} == {
        "reading_id": "integer",
        "meter": "category",
        "day": "date",
        "kwh": "number",
        "people": "integer",
        "heated": "category",
        "holiday": "boolean",
        "dew": "integer",
        "remark": "string",
    }
    assert pipeline.columns["heated"].values == ["no", "yes"]
    assert pipeline.columns["dew"].nullable
    assert pipeline.source.null_values == ["", "NA"]
    assert (pipeline.partition_by, pipeline.prediction.target, pipeline.prediction.task) == ("day", "kwh", "regression")
    assert pipeline.classification == "personal"
    assert text.count("# CHECK") > 8


def test_dates_before_the_row_become_ages_and_later_ones_do_not(tmp_path: Path) -> None:
    days = [f"2025-01-{day:02d}" for day in range(1, 29)]
    rows = [f"{i},{day},2024-12-{day[-2:]},2025-02-{day[-2:]},2024-11-01,{i}" for i, day in enumerate(days)]
    text = draft_pipeline(
        write(tmp_path / "visits.csv", "id,day,last_visit,paid_on,end,kwh\n" + "\n".join(rows) + "\n")
    )
    assert load(text).features["own"].features()[-1] == "days_since_last_visit"
    above, line = text.split("    calendar:")[1].splitlines()[1:3]
    assert above == "    # days from these dates to the row's time"
    assert line == "    expressions: {days_since_last_visit: days_since(last_visit)}", "no later date, no word of SQL"


def test_the_draft_holds_out_the_newest_days_so_that_later_deliveries_are_learned_from(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "energy.csv", ENERGY_HEADER + ENERGY))
    holdout = load(text).holdout
    assert (holdout.start, holdout.last) == (None, timedelta(days=16)), "a fifth of 84 days"
    told = unbroken(text).split("\nholdout:")[0].rsplit("CHECK", 1)[1]
    assert "newest 16 days, and do not learn from them" in told and "fixes the first tested day" in told
    one_day = load(draft_pipeline(write(tmp_path / "day.csv", "day,kwh\n2025-01-01,1\n")))
    assert one_day.holdout.last == timedelta(days=1)


def test_the_draft_says_how_strict_the_limit_is_and_which_key_column_may_be_an_input(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "energy.csv", ENERGY_HEADER + ENERGY))
    (line,) = [line for line in folded(text).splitlines() if line.strip().startswith("limit: ")]
    assert line.endswith(
        "# CHECK: from which mae on is a model of no use to you? Drafted generously: a quarter worse than always "
        "guessing the mean"
    )
    told = " ".join(text.replace("    # ", " ").split())
    assert "Left out: reading_id, kwh, remark. A number that names a row, such as that of an invoice" in told
    assert "One that names a thing, such as a vehicle, is no quantity: use it in `by` of a trailing view" in told
    rows = "".join(f"{station},2025-01-{day:02},{day}.5\n" for station in ("a_b", "c_d") for day in range(1, 29))
    stations = draft_pipeline(write(tmp_path / "stations.csv", "station,day,hours\n" + rows))
    assert " Left out: station, day, hours. Add station if" in unbroken(stations)


def test_names_of_a_header_are_mapped_and_a_first_row_is_never_quoted(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "x.csv", 'day,"Site, Name",Énergie (kWh)\n2025-01-01,Lyon,1.5\n'))
    assert load(text).source.header == {"Site, Name": "site_name", "Énergie (kWh)": "energie_kwh"}
    assert list(load(text).columns) == ["day", "site_name", "energie_kwh"]
    for rows in ("Mustermann,Köln,x\nMeier,Bonn,y\n", "Mustermann,NA,x\nMeier,3,y\n", "Mustermann,,x\nMeier,3,y\n"):
        with pytest.raises(PipelineError) as error:
            draft_pipeline(write(tmp_path / "x.csv", rows))
        assert "Mustermann" not in f"{error.value.what} {error.value.hint}"


def test_no_free_text_of_the_file_enters_the_draft(tmp_path: Path) -> None:
    assert "person" not in draft_pipeline(write(tmp_path / "e.csv", ENERGY_HEADER + ENERGY)).replace("personal", "")
    assert "devin_rivera" not in draft_pipeline(project_root() / "data" / "hotel_bookings.csv.gz")


def test_the_sample_drafts_into_a_pipeline_that_loads() -> None:
    pipeline = load(draft_pipeline(project_root() / "data" / "hotel_bookings.csv.gz", "bookings"))
    assert (pipeline.name, pipeline.key, pipeline.prediction.target) == (
        "bookings",
        ["booking_id"],
        "avg_price_per_room",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("day,kwh\n", "a header but no rows"),
        ("1 Day,Kwh\n2025-01-01,1\n", "names of columns 1, 2 have"),
        ("a,b\n1,2\n", "no column holds dates"),
        ("day\n2025-01-01\n2025-01-02\n", "to predict"),
        ("day,kwh,kwh,kwh (2)\n2025-01-01,1,2,3\n", "occur twice"),
    ],
)
def test_a_file_of_which_no_pipeline_can_come_says_why(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says) as error:
        draft_pipeline(write(tmp_path / "x.csv", text))
    assert error.value.hint


def test_a_file_without_a_header_is_refused_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as error:
        draft_pipeline(write(tmp_path / "x.csv", "Mustermann,2025-01-01,3\n"))
    assert "Mustermann" not in str(error.value)


def test_a_spreadsheet_is_told_how_it_becomes_a_delivery(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="it is a spreadsheet") as refused:
        draft_pipeline(write(tmp_path / "Parcels.XLSX", "PK"))
    assert refused.value.hint.startswith("Save the sheet as CSV in UTF-8")


def test_a_missing_file_and_a_bad_name_say_so(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there is no such file") as refused:
        draft_pipeline(tmp_path / "none.csv")
    assert refused.value.hint.startswith("Correct the path")
    with pytest.raises(PipelineError, match="name a pipeline after"):
        draft_pipeline(write(tmp_path / "x.csv", ENERGY_HEADER + ENERGY), "../x")


def test_a_draft_is_never_written_over_a_pipeline(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", ENERGY_HEADER + ENERGY)
    file = save_draft(source, "energy", tmp_path)
    assert file == tmp_path / "energy.yaml"
    file.write_text("mine")
    with pytest.raises(PipelineError, match="already exists"):
        save_draft(source, "energy", tmp_path)
    assert file.read_text() == "mine"


def test_delimiter_encoding_and_gzip_are_found(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    rows = "".join(f"2025-01-{d:02d};{d},5;{'é' if d % 2 else 'a'}\n" for d in range(1, 29))
    file.write_bytes(gzip.compress(("day;kwh;kind\n" + rows.replace(",5", ".5")).encode("cp1252")))
    pipeline = load(draft_pipeline(file))
    assert (pipeline.source.delimiter, pipeline.source.encoding) == (";", "cp1252")
    assert pipeline.columns["kind"].values == ["a", "é"]
    for ending in ("tsv", "TXT.gz"):
        body = file.read_bytes() if ending.endswith("gz") else gzip.decompress(file.read_bytes())
        (other := tmp_path / f"x.{ending}").write_bytes(body)
        assert load(draft_pipeline(other)) == pipeline


def test_a_german_export_is_recognised(tmp_path: Path) -> None:
    rows = "".join(f"{d:02d}.01.2025 {d % 24:02d}:30;{d}.000,5;{d};Köln {d}\n" for d in range(1, 29))
    file = tmp_path / "x.csv"
    file.write_bytes(("taken;price;n;remark\n" + rows).encode("latin-1"))
    text = draft_pipeline(file)
    source = load(text).source
    assert (source.encoding, source.delimiter) == ("cp1252", ";")
    assert (source.decimal, source.thousands, source.dates, source.time_zone) == (",", ".", "DD.MM.YYYY", "UTC")
    assert {name: column.type for name, column in load(text).columns.items()} == {
        "taken": "timestamp",
        "price": "number",
        "n": "integer",
        "remark": "string",
    }
    assert "# CHECK: in which time zone are these times, such as Europe/Berlin?" in text


def test_iso_timestamps_with_an_offset_need_no_zone(tmp_path: Path) -> None:
    rows = "".join(f"2025-01-{d:02d}T{d % 24:02d}:30:00+01:00,{d}.5\n" for d in range(1, 29))
    pipeline = load(draft_pipeline(write(tmp_path / "x.csv", "taken,price\n" + rows)))
    assert (pipeline.columns["taken"].type, pipeline.source.time_zone) == ("timestamp", None)


def test_an_order_of_day_and_month_that_the_file_does_not_show_is_a_question(tmp_path: Path) -> None:
    rows = "".join(f"{d:02d}/{d % 5 + 1:02d}/2025,{d}.5\n" for d in range(1, 13))
    text = draft_pipeline(write(tmp_path / "x.csv", "day,price\n" + rows))
    assert '  dates: "DD/MM/YYYY"    # CHECK' in folded(text)


def test_several_columns_may_be_the_key_together(tmp_path: Path) -> None:
    rows = "".join(f"m{m},2025-01-{d:02d},{m * d * 0.5}\n" for m in range(3) for d in range(1, 29))
    assert load(draft_pipeline(write(tmp_path / "x.csv", "meter,day,kwh\n" + rows))).key == ["meter", "day"]


names = st.sampled_from(["yes", "no", "on", "null", "true", "y", "id", "day", "price", "kind", "e1"])
cells = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6),
    st.sampled_from(["", "1", "-2.5", "yes", "null", "true", "NA", "2025-01-01", "a: b", "# x", "{", "é", "\x85"]),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.lists(names, min_size=1, max_size=5, unique=True), data=st.data())
def test_whatever_the_file_a_draft_loads(tmp_path: Path, header: list[str], data: Any) -> None:
    row = st.tuples(*(cells for _ in header))
    pool = data.draw(st.lists(row, min_size=1, max_size=4))
    rows = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=12))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*header, "at", "size"])
    writer.writerows((*cells, f"2025-01-{i + 1:02d}", i) for i, cells in enumerate(rows))
    load(draft_pipeline(write(tmp_path / "x.csv", text.getvalue())))


def test_lines_that_nobody_decided_are_found(tmp_path: Path) -> None:
    assert undecided("# Each line marked CHECK is a guess\nkey: [a]  # CHECK: unique?\nname: CHECK\n") == [2]
    file = tmp_path / "trips.csv"
    file.write_text("day,id,hours\n" + "".join(f"2026-01-{n:02},{n},{n}\n" for n in range(1, 29)))
    text = draft_pipeline(file)
    assert len(undecided(text)) >= 5 and "rempart pipeline check trips" in text.splitlines()[0]


VISITS = "visit_id,day,clinic,waited,no_show\n" + "".join(
    f"{n},2025-01-{n % 28 + 1:02},{'a_b' if n % 3 else 'c_d'},{n * 0.5},{'yes' if n % 4 else 'no'}\n" for n in range(84)
)


def test_a_class_in_the_last_column_is_predicted_and_no_feature(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "visits.csv", VISITS))
    pipeline = load(text)
    assert (pipeline.prediction.target, pipeline.prediction.task) == ("no_show", "classification")
    assert pipeline.gate.metric == "log_loss"
    assert "no_show" not in text.split("columns: ")[1].split("]")[0]
    assert "draft again with `--target COLUMN`" in folded(text)


def test_the_line_of_the_target_says_where_its_moment_is_set(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "energy.csv", ENERGY_HEADER + ENERGY))
    lines = folded(text).splitlines()
    assert "moments:    # CHECK: when is kwh known, and is any other value known later than `event`?" in lines
    assert "such as `known: outcome`, at kwh" in text and "  kwh: {type: number, known: event}    # the target" in lines
    trend = lines[next(n for n, line in enumerate(lines) if line.startswith("  trend:")) :]
    assert all("known" not in line for line in trend[:6]), "a view has no key `known`"


def test_a_date_that_is_empty_in_some_rows_can_be_made_a_moment_as_it_is(tmp_path: Path) -> None:
    rows = [f"{n},2025-01-{n % 28 + 1:02},{'' if n % 9 == 0 else f'2025-02-{n % 28 + 1:02}'},{n}.5" for n in range(99)]
    text = draft_pipeline(write(tmp_path / "claims.csv", "\n".join(["claim,declared,closed,paid", *rows])))
    (line,) = [line for line in folded(text).splitlines() if line.startswith("  closed: ")]
    assert "nullable: true}" in line and "It may be the moment of an outcome as it is" in line
    data = yaml.safe_load(text)
    data["schema"]["closed"]["known"] = "closed"
    data["schema"]["paid"]["known"] = "closed"
    data["moments"]["closed"] = {"column": "closed"}
    assert list(ModelPipeline.model_validate(data).moments) == ["event", "closed"]
    data["prediction"]["at"] = "closed"
    with pytest.raises(ValidationError, match=r"moments\.closed: column 'closed' is nullable"):
        ModelPipeline.model_validate(data)


def test_the_target_can_be_chosen(tmp_path: Path) -> None:
    file = write(tmp_path / "visits.csv", VISITS)
    text = draft_pipeline(file, target="waited")
    pipeline = load(text)
    assert (pipeline.prediction.target, pipeline.prediction.task, pipeline.gate.metric) == (
        "waited",
        "regression",
        "mae",
    )
    assert "waited" not in text.split("columns: ")[1].split("]")[0] and "as you chose it" in text
    for name, says in (("no_shw", "no such column"), ("visit_id", "part of the key"), ("day", "its type is date")):
        with pytest.raises(PipelineError, match=says) as error:
            draft_pipeline(file, target=name)
        assert "--target no_show" in error.value.hint or "Pass one of: clinic, waited, no_show" in error.value.hint


def test_the_target_can_be_chosen_by_its_name_in_the_file(tmp_path: Path) -> None:
    rows = "".join(f"r{n},{1 + n % 28:02d}.03.2025,{n % 7}\n" for n in range(90))
    file = write(tmp_path / "hires.csv", f"Vertrag Nr,Tag,Größe\n{rows}")
    assert load(draft_pipeline(file, target="Größe")).prediction.target == "groesse"
    assert draft_pipeline(file, target="Größe") == draft_pipeline(file, target="groesse")


def test_the_draft_has_the_days_between_dates_and_the_margin_of_the_gate(tmp_path: Path) -> None:
    rows = "".join(f"{n},2025-01-{1 + n % 20:02d},2025-02-{1 + n % 20:02d},{n % 7}.5\n" for n in range(90))
    text = draft_pipeline(write(tmp_path / "hires.csv", f"hire_id,start_day,end_day,price\n{rows}"))
    hint = 'expressions: {start_day_to_end_day: "days_between(end_day, start_day)"}'
    note = "    # days between dates, for a view at a moment when both are known"
    assert f"{note}\n    # {hint}\n" in text
    added = load(text.replace(f"    # {hint}", f"    {hint}"))
    assert added.features["own"].expressions == {"start_day_to_end_day": "days_between(end_day, start_day)"}  # type: ignore[union-attr] # a row view
    assert added.gate.baseline_margin == 0.1 and "baseline_margin: 0.1    #" in text
    assert "partition_by: start_day    # snapshots are stored by its months; other dates: end_day" in text


def test_the_reminder_of_a_draft_counts_the_lines_to_decide() -> None:
    assert reminder("key: [a]\n") is None
    line = "key: [a]  # CHECK: unique?\n"
    told = "1 question marked CHECK is open in the pipeline file (line 1): decide it, and delete its comment. "
    told += "Until then the gate refuses every model."
    assert reminder(line) == told
    assert str(reminder(line * 7)).startswith(
        "7 questions marked CHECK are open in the pipeline file (lines 1, 2, 3, 4, 5, 6, 7): decide each"
    )
    assert "(lines 1, 2, " in str(reminder(line * 22)) and ", 20 and 2 more)" in str(reminder(line * 22))


def test_a_few_cells_that_are_no_numbers_leave_a_column_of_numbers(tmp_path: Path) -> None:
    cells = ["forty", "12km", *(str(20 + n % 50) for n in range(98))]
    rows = [f"{n},2026-01-{1 + n % 28:02},{cell},{n % 7}.5" for n, cell in enumerate(cells)]
    file = tmp_path / "visits.csv"
    file.write_text("\n".join(["visit,day,age,minutes", *rows, ""]))
    text = draft_pipeline(file)
    assert "  age: {type: integer, known: event}    # CHECK: 2 of 100 cells are no whole number;" in folded(text)
    assert "columns: [age]" in text and "column: age, min_value: 0, max_value: 69" in text
    file.write_text("\n".join(["visit,day,age,minutes", *rows[:20], ""]))
    assert "  age: {type: string" in draft_pipeline(file)


def test_a_file_asks_whether_deliveries_repeat_rows(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "energy.csv", ENERGY_HEADER + ENERGY))
    lines = folded(text).splitlines()
    line = lines[lines.index("on_conflict: refuse    # CHECK: " + REPEATS)]
    assert folded(text).index("\nkey: ") < folded(text).index(line) < folded(text).index("\nmoments:")
    assert load(text).on_conflict == "refuse"


REPEATS = "does a delivery repeat rows, its own or earlier ones, as a full export does? Then write newest"


def test_a_pipeline_is_named_after_a_file_with_umlauts_in_full(tmp_path: Path) -> None:
    text = draft_pipeline(write(tmp_path / "Größe der Straße.csv", ENERGY_HEADER + ENERGY))
    assert load(text).name == "groesse_der_strasse"
    text = draft_pipeline(write(tmp_path / "x.csv", "Größe der Straße,ÜBERSTUNDEN,day\n1,2,2025-01-01\n"))
    assert load(text).source.header == {"Größe der Straße": "groesse_der_strasse", "ÜBERSTUNDEN": "ueberstunden"}


def test_digits_that_begin_with_zero_stay_text_and_few_rows_get_small_trees(tmp_path: Path) -> None:
    rows = [f"{i},{i % 28 + 1:02}/01/2025,0{1000 + i},{'yes' if i % 4 == 0 else 'no'}" for i in range(200)]
    text = draft_pipeline(write(tmp_path / "customers.csv", "\n".join(["no,begins,postcode,cancelled", *rows])))
    pipeline = load(text)
    assert pipeline.columns["postcode"].type == "string" and "digits that begin with 0" in text
    assert pipeline.trainer.params["max_leaf_nodes"] == 6
    assert pipeline.gate.limit == pytest.approx(1.25 * 0.562, abs=0.005)  # of a quarter, not of equally likely classes


def test_a_comma_within_quotes_is_no_end_of_a_field_where_a_header_is_looked_for(tmp_path: Path) -> None:
    rows = [f'{i},{i % 28 + 1:02}/01/2025,"{1000 + i:,}",{i % 7}' for i in range(200)]
    text = draft_pipeline(write(tmp_path / "bills.csv", "\n".join(["Bill No,Sent,kWh Last Year,Reminders", *rows])))
    assert load(text).source.header["kWh Last Year"] == "kwh_last_year"


def test_two_forms_of_dates_in_a_file_are_told(tmp_path: Path) -> None:
    rows = [f"{i},{i % 28 + 1:02}/01/2025,2025-02-{i % 28 + 1:02} 08:{i % 60:02}:00,{i % 7}" for i in range(200)]
    text = draft_pipeline(write(tmp_path / "readings.csv", "\n".join(["no,begins,taken_at,value", *rows])))
    assert "dates written DD/MM/YYYY, but `dates` is YYYY-MM-DD" in text


def test_another_date_is_proposed_as_a_moment_and_empty_cells_of_the_target_are_told(tmp_path: Path) -> None:
    rows = "".join(
        f"{n},2025-0{n % 9 + 1}-11,2025-11-0{n % 9 + 1},{n % 7},{'' if n == 5 else ('no', 'yes')[n % 2]}\n"
        for n in range(60)
    )
    text = draft_pipeline(
        write(tmp_path / "visits.csv", "visit,ordered_on,planned_on,floors,late\n" + rows), target="late"
    )
    assert "  # outcome: {column: ordered_on}\n  # planned_on: {column: planned_on}\n" in text
    assert "A column tells when: uncomment its line above." in text
    (line,) = [line for line in folded(text).splitlines() if line.startswith("  late: ")]
    assert "nullable" not in line and "empty in some rows, which go to quarantine" in line
