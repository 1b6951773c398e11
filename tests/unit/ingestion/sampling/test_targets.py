"""By which groups a drafted pipeline guesses without a model."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.ingestion.sampling.files import of_file
from rempart.ingestion.sampling.survey import survey
from rempart.ingestion.sampling.targets import naive_groups
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sources import Dialect
from tests.unit.ingestion.drafts import folded

FIRST = date(2025, 1, 1)


def groups_of(rows: Sequence[tuple[str, str, str]], target: ColumnFacts, last_days: int = 60) -> Sequence[str] | None:
    """Return the groups by rows of shop, tariff and target, a row a day."""
    days = [str(FIRST + timedelta(days=number)) for number in range(len(rows))]
    shops, tariffs, values = zip(*rows, strict=True)
    table = pa.table({"day": days, "shop": shops, "tariff": tariffs, target.name: values})
    newest = FIRST + timedelta(days=len(rows) - 1)
    held_out = newest - timedelta(days=last_days - 1), newest
    return naive_groups(["shop", "tariff"], "day", target, table, Dialect(), held_out)


NUMBER = ColumnFacts("price", "number", nullable=False, unique=False)
CLASS = ColumnFacts("late", "category", nullable=False, unique=False, values=("no", "yes"))


def test_the_column_that_tells_most_groups_the_guess_and_a_second_one_only_if_it_adds() -> None:
    rows = [("ab"[n % 2], "xyz"[n % 3], str(10 * (n % 3) + 0.01 * (n % 11))) for n in range(200)]
    assert groups_of(rows, NUMBER) == ("tariff",)
    both = [(shop, tariff, str(float(price) + (50 if shop == "b" else 0))) for shop, tariff, price in rows]
    assert groups_of(both, NUMBER) == ("shop", "tariff")


def test_classes_are_guessed_by_their_shares() -> None:
    rows = [("ab"[n % 2], "xyz"[n % 3], "yes" if n % 3 == 0 or n % 5 == 0 else "no") for n in range(200)]
    assert groups_of(rows, CLASS) == ("tariff",)


def test_groups_that_tell_nothing_of_newer_rows_are_left_out_and_few_rows_tell_nothing() -> None:
    same = [("ab"[n % 2], "xyz"[n % 3], "7") for n in range(200)]
    assert groups_of(same, NUMBER) == ()
    turned = [("ab"[n % 2], "x", str(n % 2 if n < 140 else 1 - n % 2)) for n in range(200)]
    assert groups_of(turned, NUMBER) == ()
    assert groups_of(same[:70], NUMBER) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.floats(-1e308, 1e308)), max_size=90, min_size=1
    )
)
def test_any_numbers_give_at_most_two_groups_of_those_that_are_there(rows: list[tuple[str, str, float]]) -> None:
    found = groups_of([(shop, tariff, repr(value)) for shop, tariff, value in rows], NUMBER, last_days=30)
    assert len(set(found or ())) == len(found or ()) <= 2
    assert set(found or ()) <= {"shop", "tariff", "day.month", "day.day_of_week"}


@pytest.mark.parametrize(
    ("price", "drafted"),
    [
        (lambda n: 10 * (n % 3) + 0.01 * (n % 11), "  baseline_by: [tariff]    # "),
        (lambda n: 7, "  baseline_by: []    # "),
    ],
)
def test_the_draft_says_by_which_groups_it_guesses_and_what_its_trend_is(tmp_path, price, drafted) -> None:
    lines = [
        f"{n},{FIRST + timedelta(days=n)},{'north' if n % 2 else 'south'},{('day', 'night', 'flat')[n % 3]},{price(n)}"
        for n in range(300)
    ]
    file = tmp_path / "bills.csv"
    file.write_text("\n".join(["bill,day,region,tariff,price", *lines]))
    text = folded(draft_pipeline(file))
    assert drafted in text
    group = (survey(of_file(file)).naive or ["region"])[0]
    assert f"mean price of earlier rows of the same {group}. Remove the view if no model may use it" in text
    assert "CHECK" not in "".join(line for line in draft_pipeline(file).splitlines() if "# CHECK: " not in line)


def test_a_thing_with_a_row_each_day_is_guessed_by_itself(tmp_path) -> None:
    days = [FIRST + timedelta(days=number) for number in range(100)]
    rows = [f"{day},b{b},{'lab' if b < 2 else 'office'},{100 * b + day.day % 3}" for day in days for b in range(5)]
    file = tmp_path / "energy.csv"
    file.write_text("\n".join(["day,building,kind,kwh", *rows]))
    text = folded(draft_pipeline(file))
    assert "  baseline_by: [building]    # " in text and "\n    by: [building]\n" in text


def loaded(text: str) -> ModelPipeline:
    return ModelPipeline.model_validate(yaml.safe_load(text))


def test_a_target_that_is_empty_in_the_same_rows_as_a_date_is_drafted_with_open_rows(tmp_path: Path) -> None:
    rows = [
        f"{n},2025-01-{n % 28 + 1:02},{n % 7},{'' if n % 3 else f'2025-02-{n % 28 + 1:02}'},{'' if n % 3 else n % 5}"
        for n in range(99)
    ]
    file, other = tmp_path / "loans.csv", tmp_path / "other.csv"
    file.write_text("\n".join(["loan,lent,pages,back,days", *rows]))
    text = draft_pipeline(file, target="days")
    spec = loaded(text)
    assert (spec.moments["back"].column, spec.columns["days"].known, spec.columns["days"].nullable) == (
        "back",
        "back",
        True,
    )
    assert spec.conflict_rule == "newest" and "CHECK: is days known from back on" in folded(text)
    other.write_text(file.read_text().replace("2025-02-", "2024-12-"))
    assert not loaded(draft_pipeline(other, target="days")).columns["days"].nullable, (
        "a date before the row tells no outcome"
    )
