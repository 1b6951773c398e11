"""The champion by the ledger's decisions, and when another alias in MLflow raises an alarm."""

from datetime import UTC, datetime, timedelta

import pytest

from rempart.flows.backup.back_up import _SnapshotFacts
from rempart.flows.training import champions
from rempart.flows.training.validate import _differing_inputs
from rempart.ledger.port import Evidence
from rempart.models.encoding import Feature

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def promoted(version: str, previous: str | None = None, at: datetime = NOW - timedelta(days=1)) -> Evidence:
    return Evidence(int(version), at, "promotion", "m", {"version": version, "previous": previous, "reasons": []})


def rolled_back(champion: str, replaces: str, at: datetime) -> Evidence:
    return Evidence(100, at, "rollback", "m", {"champion": champion, "replaces": replaces})


@pytest.mark.parametrize("found", ["9", "1", None])
def test_an_alias_elsewhere_is_an_alarm_that_names_both_versions(found: str | None) -> None:
    told = champions.alarm(found, [promoted("1"), promoted("2", "1")], NOW)
    assert told is not None and f"version {found or 'none'}," in told and "version 2:" in told


def test_a_champion_is_compared_only_where_each_of_its_inputs_is_there_with_its_definition() -> None:
    features = [Feature("own__ratio", "number", definition="a"), Feature("own__lead", "number", definition="b")]
    same = {"own__lead": "b", "own__ratio": "a", "own__more": "c"}
    assert _differing_inputs(features, same, same) == ""
    assert _differing_inputs(features, same, same | {"own__ratio": "d"}) == (
        "reads feature 'own__ratio' by another definition than the training set"
    )
    assert "'own__lead', which the training set no longer has" in _differing_inputs(features, ["own__ratio"], same)


def test_an_alias_at_the_champion_on_record_is_none() -> None:
    assert champions.alarm("2", [promoted("1"), promoted("2", "1")], NOW) is None
    assert champions.alarm(None, [], NOW) is None
    assert champions.alarm("1", [], NOW) is not None


def test_a_look_compares_every_model_that_either_side_knows() -> None:
    decided = {"m": [promoted("1"), promoted("2", "1")], "n": [promoted("1")]}
    assert list(champions.compared({"m": "2", "n": "1"}, decided, NOW)) == []
    moved = list(champions.compared({"m": "1", "o": "7"}, decided, NOW))
    assert [line.split()[3] for line in moved] == ["m:", "n:", "o:"], moved
    assert all(line.startswith(champions.MOVED) for line in moved)


def test_a_run_that_was_cut_off_a_moment_ago_is_no_alarm_and_another_version_is_one() -> None:
    just = NOW - timedelta(minutes=5)
    assert champions.alarm(None, [promoted("1", at=just)], NOW) is None
    assert champions.alarm("1", [promoted("1"), promoted("2", "1", at=just)], NOW) is None
    assert champions.alarm("9", [promoted("1"), promoted("2", "1", at=just)], NOW) is not None
    back = [promoted("1"), promoted("2", "1"), rolled_back("1", "2", just)]
    assert champions.alarm("2", back, NOW) is None
    assert champions.alarm("2", back, NOW + timedelta(hours=2)) is not None


def test_a_restore_point_names_the_champions_on_record_and_not_mlflow_s_aliases() -> None:
    found = _SnapshotFacts(
        aliases={"m": "3", "theirs": "1"},
        models=[("m", "2", "s"), ("m", "3", "s"), ("theirs", "1", "s")],
        candidates=[("m", {"version": "3"})],
        decided={"m": "2", "gone": "1"},
    )
    assert found.champions == {"m": "2"}
    assert found.moved() == ["m"]


def test_a_team_s_own_model_in_mlflow_is_left_alone() -> None:
    found = _SnapshotFacts(aliases={"theirs": "1"}, models=[("theirs", "1", "s")])
    assert found.moved() == []
