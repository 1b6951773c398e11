"""A draft asks what only a person can decide, says the rest without a question, and lists no people."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.training import check_pipeline
from rempart.ingestion.draft import draft_pipeline, reminder, undecided
from rempart.ingestion.drafting.writing import comment_lines, list_lines
from rempart.ingestion.sampling.sample import Declared, Sample
from rempart.settings import plain_yaml
from rempart.settings.config import project_root
from rempart.settings.sources import Dialect
from tests.unit.ingestion.drafts import folded, unbroken
from tests.unit.ingestion.test_draft import load, write

HEADER = (
    "Permit No;Filed on;District;Kind of work;Floor area (m2);Estimated cost EUR;Caseworker;Listed building;Remarks;"
    "Days to decision;Weekly meetings"
)


def permits(rows: int = 400) -> str:
    """Building permits of a town hall: 11 columns, in the German form of numbers and dates."""
    draw = random.Random(3)  # noqa: S311 - test data
    lines = [HEADER]
    for n in range(rows):
        day, area = date(2023, 1, 2) + timedelta(days=n), f"{draw.uniform(10, 400):.1f}".replace(".", ",")
        kind = draw.choice(["extension", "new house", "roof"])
        clerk = draw.choice(["D. Kovacs", "A. Rossi", "B. Silva"])
        lines.append(
            f"P-{n:05d};{day:%d.%m.%Y};{draw.choice(['north', 'south'])};{kind};{area};{area};{clerk};"
            f"{draw.choice(['yes', 'no'])};note {n};{draw.randint(20, 90)};{draw.randint(1, 4)}"
        )
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = write(tmp_path_factory.mktemp("permits") / "permits.csv", permits())
    return folded(draft_pipeline(file, target="days_to_decision"))


def test_a_file_of_eleven_columns_has_nine_questions_and_each_is_one(text: str) -> None:
    lines = text.splitlines()
    asked = [lines[number - 1].split(":")[0].strip() for number in undecided(text)]
    places = ["classification", "key", "on_conflict", "moments", "caseworker", "expectations", "own", "prediction"]
    assert asked == [*places, "limit"]
    assert load(text).description == "Predicts days_to_decision of each row at filed_on, from what is known then."


def test_no_person_of_a_list_is_named_and_no_model_reads_the_column(text: str) -> None:
    pipeline = load(text)
    assert pipeline.columns["caseworker"].type == "string"
    assert "caseworker" not in pipeline.features["own"].columns  # type: ignore[union-attr] # a row view
    assert "Kovacs" not in text and "Silva" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("  caseworker:"))
    assert "# CHECK: does it name people (its name says so)? Its values are not listed" in line
    assert "If it does not, write `type: category` with all its `values`, and add it to `columns`" in line
    assert "If it does, and a model may use it all the same, name it in `by` of a trailing view" in line


def test_people_are_found_by_their_names_and_never_guessed_as_the_target(tmp_path: Path) -> None:
    body = permits().replace("Caseworker", "Handled").replace(";Days to decision;Weekly meetings", "")
    rows = [line.rsplit(";", 2)[0] for line in body.splitlines()[1:]]
    swapped = [";".join([*cells[:6], *cells[7:], cells[6]]) for cells in (row.split(";") for row in rows)]
    header = HEADER.replace("Caseworker;", "").replace("Days to decision;Weekly meetings", "Handled")
    file = write(tmp_path / "permits.csv", "\n".join([header, *swapped, ""]))
    text = draft_pipeline(file)
    assert "does it name people (most values look like names)?" in text and "Kovacs" not in text
    assert load(text).prediction.target != "handled"
    chosen = draft_pipeline(file, target="Handled")
    assert load(chosen).columns["handled"].values == ["A. Rossi", "B. Silva", "D. Kovacs"]
    assert "# CHECK: it seems to name people (most values look like names): their list stands in this file" in folded(
        chosen
    )


@pytest.mark.parametrize("known", ["outcome", "event"])
def test_the_outcome_of_the_same_day_is_one_line_to_uncomment(text: str, known: str) -> None:
    changed = text.replace("  # outcome: {", "  outcome: {")
    target = "  days_to_decision: {type: integer, known: "
    assert changed != text and f"{target}event}}" in text
    pipeline = load(changed.replace(f"{target}event", f"{target}{known}"))
    assert list(pipeline.moments) == ["event", "outcome"]
    check_pipeline.check(pipeline, thorough=False)


def unbroken_moments(text: str) -> str:
    """Return the section `moments` with each comment on one line."""
    section = text.split("\nmoments:")[1].split("\npartition_by")[0]
    return " ".join(line.strip().removeprefix("#").strip() for line in section.splitlines())


def test_the_moments_begin_with_what_the_two_times_are_and_an_example(text: str) -> None:
    told = unbroken_moments(text)
    first, then, example = (
        told.index("`event` is when you ask for the prediction, and a model reads only what is known by then."),
        told.index("The outcome is when days_to_decision is known."),
        told.index("Example: a loan is granted on 1 March, its `event`, and repaid or not on 1 June, its outcome."),
    )
    assert first < then < example < told.index("event: {column: filed_on}")


@pytest.mark.parametrize(
    ("event", "outcome"), [("", ", plus: 14 days"), (", minus: 3 days", ""), (", minus_days: weekly_meetings", "")]
)
def test_each_way_to_move_a_time_that_a_draft_names_is_valid(text: str, event: str, outcome: str) -> None:
    assert re.findall("`((?:plus|minus)[^`]*)`", unbroken_moments(text)) == [
        "plus: 14 days",
        "minus: 3 days",
        "minus_days",
    ]
    for line, changed in (
        ("  event: {column: filed_on}", f"  event: {{column: filed_on{event}}}"),
        ("  # outcome: {column: filed_on}", f"  outcome: {{column: filed_on{outcome}}}"),
        ("  days_to_decision: {type: integer, known: event", "  days_to_decision: {type: integer, known: outcome"),
    ):
        assert text.count(line) == 1
        text = text.replace(line, changed)
    pipeline = load(text)
    assert list(pipeline.moments) == ["event", "outcome"]
    check_pipeline.check(pipeline, thorough=False)


def test_the_moment_of_an_outcome_has_a_name_of_its_own(tmp_path: Path) -> None:
    rows = "".join(f"{n},2025-01-{n % 28 + 1:02},2025-03-{n % 28 + 1:02},{n}.5\n" for n in range(99))
    text = draft_pipeline(write(tmp_path / "loans.csv", f"loan,lent,outcome,fee\n{rows}"))
    pipeline = load(re.sub(r"  # (outcome\w*: \{)", r"  \1", text))
    assert list(pipeline.moments) == ["event", "outcome_of_the_row", "outcome"]


def test_a_date_that_is_called_event_is_no_second_moment_of_that_name(tmp_path: Path) -> None:
    rows = "".join(f"{n},2025-01-{n % 28 + 1:02},2025-03-{n % 28 + 1:02},{n}.5\n" for n in range(99))
    text = draft_pipeline(write(tmp_path / "tickets.csv", f"ticket,sold,event,fee\n{rows}"))
    pipeline = load(text.replace("  # event", "  event"))
    assert {name: moment.column for name, moment in pipeline.moments.items()} == {
        "event": "sold",
        "event_itself": "event",
    }


def lists(values: int, columns: int) -> dict[str, list[str]]:
    return {f"list_{n}": [f"{chr(97 + row % values)}{n}" for row in range(300)] for n in range(columns)}


def drafted(columns: dict[str, list[str]], *, whole: bool = True) -> str:
    days = [f"2025-{n % 12 + 1:02}-{n % 28 + 1:02}" for n in range(300)]
    table = pa.table({"day": days, **columns, "size": [f"{n * 7 % 300}.5" for n in range(300)]})
    return folded(draft_pipeline(Sample("x.csv", table, Dialect(), {"format": "csv"}, 300, whole)))


def asked_in(text: str) -> list[str]:
    """Return the columns whose lists are a question; "" for the line of the schema itself."""
    lines = text.split("\nschema:")[1].split("\nexpectations:")[0].splitlines()
    return [re.split("[:#]", line)[0].strip() for line in lines if "# CHECK: " in line and "complete?" in line]


@pytest.mark.parametrize(
    ("values", "columns", "whole", "places"),
    [
        (12, 5, True, []),
        (13, 2, True, ["list_0", "list_1"]),
        (13, 4, True, [""]),
        (3, 1, False, ["list_0"]),
        (3, 4, False, [""]),
    ],
)
def test_a_list_is_a_question_only_if_it_may_be_incomplete(
    values: int, columns: int, whole: bool, places: list[str]
) -> None:
    text = drafted(lists(values, columns), whole=whole)
    assert asked_in(text) == places
    assert "goes to quarantine" in text.split("\nschema:")[0].rsplit("\n\n", 1)[1], "said once, above the schema"


def test_the_list_of_an_enumeration_is_complete_also_in_a_sample() -> None:
    table = pa.table({"day": ["2025-01-01", "2025-02-01"], "state": ["open", "paid"], "size": ["1.5", "2.5"]})
    sample = Sample("shop.orders", table, Dialect(), {"format": "csv"}, 900, False)
    declared = {"state": Declared("category", ("open", "paid"))}
    assert not asked_in(folded(draft_pipeline(replace(sample, declared=declared))))


def test_a_wide_file_has_no_endless_line() -> None:
    text = drafted(lists(19, 60))
    assert max(map(len, text.splitlines())) < 250
    columns = load(text).columns
    assert len(columns) == 62 and all(len(columns[f"list_{n}"].values or ()) == 19 for n in range(60))
    assert len(undecided(text)) <= 9


@given(st.lists(st.text(max_size=30)), st.integers(0, 90))
def test_a_list_on_several_lines_is_the_same_list(values: list[str], before: int) -> None:
    name = "k" * before + "ey"
    told = list_lines(f"  {name}: {{a: 1, values: ", values, "}")
    assert plain_yaml.load(f"top:\n{told}\n")["top"][name]["values"] == values
    longest = max((len(line) for line in comment_lines(" ".join(["word"] * len(values)), "    ")), default=0)
    assert longest <= 100


def listed(*values: str) -> str:
    """The draft of a file with a category of these values, and its text."""
    days = [f"2025-01-{i % 28 + 1:02d}" for i in range(90)]
    table = pa.table({"day": days, "place": [values[i % len(values)] for i in range(90)], "size": ["1.5", "2.5"] * 45})
    return draft_pipeline(Sample("shop.csv", table, Dialect(), {"format": "csv"}, 90, True))


def test_values_that_are_spelt_alike_are_asked_about() -> None:
    (line,) = (line for line in folded(listed("Mill Lane", "mill-lane", "Market")).splitlines() if "  place:" in line)
    assert 'CHECK: spelt alike: "Mill Lane" and "mill-lane". The same?' in line


@pytest.mark.parametrize("columns", [3, 4, 90])
def test_values_that_are_spelt_alike_in_many_columns_are_asked_about_in_three_and_named_once(columns: int) -> None:
    places = {
        f"place_{n}": [("Mill Lane", "mill-lane", "Market")[row % 3] for row in range(300)] for n in range(columns)
    }
    lines = drafted(places).splitlines()
    asked = [line.split(":")[0].strip() for line in lines if "# CHECK: spelt alike: " in line]
    assert asked == ["place_0", "place_1", "place_2"]
    (schema,) = (line for line in lines if line.startswith("schema:"))
    more = [f"place_{n}" for n in range(3, columns)]
    count = "1 more column has" if columns == 4 else f"{len(more)} more columns have"
    told = f"As place_0, place_1, place_2 below, {count} values that are spelt alike: {', '.join(more)}"
    assert schema == (f"schema:    # CHECK: {told}" if more else "schema:")


@pytest.mark.parametrize("values", [("<=50K", ">50K"), ("A+", "A-"), ("C", "C#", "C++"), ("1-2", "12", "1/2")])
def test_signs_that_tell_values_apart_are_no_spelling(values: tuple[str, ...]) -> None:
    assert "spelt alike" not in listed(*values)


@pytest.mark.parametrize("bad", ["\x07", "\x85", "\u2028", "\u202e", "\n", "\r"])
def test_no_value_of_the_data_becomes_a_line_of_the_draft(bad: str) -> None:
    text = listed(f"a{bad}  b: {{type: string}} # CHECK it", f"A{bad}  B: {{type: string}} # CHECK it", "other")
    assert sorted(load(text).columns) == ["day", "place", "size"]
    assert not undecided("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))


def test_one_wrong_date_makes_no_season() -> None:
    days = ["1970-01-01", *(str(date(2024, 1, 1) + timedelta(days=i)) for i in range(300))]
    table = pa.table({"day": days, "size": [str(i % 7) for i in range(301)]})
    assert "[day_of_week]" in draft_pipeline(Sample("shop.csv", table, Dialect(), {"format": "csv"}, 301, True))


def test_a_pipeline_may_be_named_like_a_word_of_yaml() -> None:
    table = pa.table({"day": [f"2025-01-{i % 28 + 1:02d}" for i in range(90)], "size": ["1.5", "2.5", "4"] * 30})
    assert load(draft_pipeline(Sample("null.csv", table, Dialect(), {"format": "csv"}, 90, True))).name == "null"


@pytest.mark.parametrize(("rows", "parts"), [(400, "day_of_week"), (800, "month, day_of_week, day_of_year")])
def test_a_season_is_a_feature_once_the_rows_to_learn_from_span_a_year(rows: int, parts: str) -> None:
    days = [str(date(2024, 1, 1) + timedelta(days=i)) for i in range(rows)]
    table = pa.table({"day": days, "size": [str(i % 7) for i in range(rows)]})
    text = draft_pipeline(Sample("shop.csv", table, Dialect(), {"format": "csv"}, rows, True))
    assert f"calendar: {{day: [{parts}]}}" in text


@pytest.mark.parametrize("shows", [["3", "5", "7"], ["3.5", "5.5", "7"], ["7"]])
def test_whole_numbers_may_name_rows_or_things(shows: list[str]) -> None:
    told = drafted({"show": [shows[n % len(shows)] for n in range(300)]})
    assert ("One that names a thing, such as a vehicle, is no quantity" in unbroken(told)) is (shows[1:2] == ["5"])


def test_whole_numbers_that_name_places_are_asked_about(tmp_path: Path) -> None:
    header, *rows = permits().splitlines()
    numbered = [f"{row};{1010 + 10 * (i % 9)}" for i, row in enumerate(rows)]
    text = draft_pipeline(write(tmp_path / "permits.csv", "\n".join([f"{header};Postcode", *numbered, ""])))
    (line,) = (line for line in folded(text).splitlines() if line.startswith("  postcode:"))
    assert "type: integer" in line and "# CHECK: a code or a quantity?" in line


def test_each_question_begins_a_line_above_what_it_asks_about(tmp_path: Path) -> None:
    """A screen shows the first 100 characters of a line, and no editor breaks a line of YAML."""
    texts = [draft_pipeline(write(tmp_path / "permits.csv", permits()))]
    texts += [draft_pipeline(project_root() / "data" / "hotel_bookings.csv.gz", "bookings")]
    for text in texts:
        lines = text.splitlines()
        assert all(line.strip().startswith("# CHECK: ") for line in lines if "CHECK" in line)
        assert max(len(line) for line in lines if line.strip().startswith("#")) <= 100
        below = [line.split("    # CHECK: ")[0].split(":")[0] for line in folded(text).splitlines() if "CHECK" in line]
        keys = ["classification", "key", "on_conflict", "moments", "expectations", "  own", "prediction", "  limit"]
        assert [line for line in below if line in keys] == keys, below
        without = "\n".join(line for line in lines if "# CHECK: " not in line)
        assert load(without) == load(text) and reminder(without) is None
