"""Stores that a restore point does not hold: how they are named, and which champions need them."""

from __future__ import annotations

import pytest

from rempart.backup.databases.not_held import (
    NotHeld,
    Registry,
    champions_lacking,
    from_json,
    is_whole,
    of_locations,
    of_tracking,
)

OURS = Registry(frozenset({("0", 1000), ("1", 2000)}), frozenset({("hotel_bookings", "1", 3000)}))


def test_a_server_on_the_dumped_database_is_held_also_when_the_dump_is_newer() -> None:
    newer = Registry(OURS.experiments | {("2", 9000)}, OURS.versions | {("hotel_bookings", "2", 9000)})
    assert of_tracking(OURS, newer, "http://here") is None


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (Registry(frozenset({("0", 7)}), frozenset({("hotel_bookings", "1", 8)})), "hotel_bookings version 1"),
        (Registry(OURS.experiments, frozenset({("hotel_bookings", "1", 8)})), "hotel_bookings version 1"),
        (Registry(frozenset({("0", 7)}), frozenset()), "another database"),
        (Registry(frozenset(), frozenset()), "unknown"),
        ("no answer", "unknown"),
    ],
    ids=["another", "a-copy-that-went-on", "no-models", "nothing", "silent"],
)
def test_any_other_answer_is_named(server: Registry | str, told: str) -> None:
    fact = of_tracking(server, OURS, "https://mlflow.example")
    assert fact is not None and told in fact and "https://mlflow.example" in fact


def test_a_champion_that_the_dump_lacks_is_named_and_one_that_it_holds_is_not() -> None:
    versions = [("hotel_bookings", "1")]
    assert champions_lacking({"hotel_bookings": "1"}, versions) is None
    found = champions_lacking({"hotel_bookings": "2"}, versions)
    assert found and found.needed_by == ("hotel_bookings version 2",)


def test_artifacts_outside_of_the_platforms_buckets_are_named_once_for_each_store() -> None:
    located = [
        ("Default", "mlflow-artifacts:/0"),
        ("own", "s3://artifacts/mlflow/1"),
        *((f"run {number}", f"s3://theirs/{number}") for number in range(5)),
        ("local", "/srv/mlruns"),
    ]
    found = of_locations(located, ["artifacts", "lake"])
    assert [not_held.store for not_held in found] == ["artifacts file://", "artifacts s3://theirs"]
    assert "run 0, run 1, run 2 and 2 more" in found[1].fact


def test_a_point_is_whole_while_no_champion_needs_what_it_lacks() -> None:
    idle, needed = NotHeld("mlflow", "elsewhere"), NotHeld("mlflow", "elsewhere", ("hotel_bookings version 1",))
    assert is_whole({"dangling": [], "not_held": [idle.as_json()]})
    assert not is_whole({"dangling": [], "not_held": [needed.as_json()]})
    assert not is_whole({"dangling": ["x"], "not_held": []})
    assert from_json(needed.as_json()) == needed
