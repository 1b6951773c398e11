"""Hour files of the prediction log: equal entries give equal bytes, and an erased subject leaves nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.serving import hour_files, records
from rempart.serving.hour_files import Row
from tests.logged import AT, entry


def row(number: int, *, subject: str | None = None, version: str = "3", label: str | None = None) -> Row:
    output = {"prediction": label, "probability_dear": 0.25} if label else {"prediction": 80.0}
    made = entry(number, version=version, output=output)
    inputs, features = (records.as_json(part) for part in (made.inputs, made.features))
    return Row(made, subject, "k 0001" if subject else None, "f" * 64, inputs, features)


@given(st.permutations(range(6)))
def test_the_files_of_entries_do_not_depend_on_their_order(order: list[int]) -> None:
    made = hour_files.files(row(number) for number in order)
    assert made == hour_files.files(row(number) for number in range(6))
    assert [file.entries for file in made] == [2, 4]  # the hour ends after the second
    keys = [file.key.rpartition("/") for file in made]
    assert [key[0] for key in keys] == [
        f"predictions-log/hotel_bookings/date=2099-03-01/hour={hour}" for hour in (10, 11)
    ]
    assert [key[2] for key in keys] == [f"{file.sha256}.parquet" for file in made]
    assert hour_files.hour_of(made[0].key) == AT.replace(minute=0)


def test_each_version_has_files_of_its_own_with_its_columns() -> None:
    made = hour_files.files([row(2), row(3, version="4", label="dear")])
    regression, classification = (hour_files.read(file.body) for file in made)
    assert hour_files.output_columns(regression.column_names) == ["prediction"]
    assert classification.select(["prediction", "probability_dear"]).to_pylist() == [
        {"prediction": "dear", "probability_dear": 0.25}
    ]
    assert regression["features"].to_pylist() == ['{"stay__adults":2.0,"stay__lead":null}']


def test_a_file_loses_the_entries_of_an_erased_subject_alone() -> None:
    (file,) = hour_files.files([row(2, subject="a"), row(3, subject="b"), row(4), row(5, subject="a")])
    assert hour_files.without(file.body, lambda key, subject: key == "k 0002") == (None, 0, 1)
    after, rows, nameless = hour_files.without(file.body, lambda key, subject: (key, subject) == ("k 0001", "a"))
    assert after is not None and (rows, nameless) == (2, 1)
    (same,) = hour_files.files([row(3, subject="b"), row(4)])
    assert after == same.body


@given(st.integers(1, 400), st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_no_entry_goes_before_its_days_are_over(days: int, at: datetime) -> None:
    key = f"{hour_files.hour_folder('trips', at)}x.parquet"
    assert not hour_files.is_expired(key, days, at + timedelta(days=days))
    assert hour_files.is_expired(key, days, at + timedelta(days=days, hours=1))
    assert not hour_files.is_expired("predictions-log/trips/notes.txt", days, at + timedelta(days=days, hours=1))
