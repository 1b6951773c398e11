"""The champion by the ledger's decisions, and when another alias in MLflow raises an alarm."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from rempart.flows.backup.back_up import _SnapshotFacts
from rempart.flows.training import champions
from rempart.flows.training.validate import _champion_already, _differing_inputs
from rempart.ledger.attributed import KEY
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from rempart.models import registry
from rempart.models.encoding import Feature
from rempart.settings.config import Connection

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


def test_a_run_that_finds_the_champion_says_which_run_promoted_it() -> None:
    body = {"version": "1", "previous": None, "reasons": ["passed: mae 3 is below 5"], "metrics": {}, "baselines": {}}
    by = {"dag": "validate_model_m", "run": "asset__1", "task": "validate"}
    made = Evidence(7, NOW, "promotion", "m", {**body, KEY: by})
    told = "unchanged since 2026-11-26 12:00 UTC, promoted by validate_model_m, run asset__1, evidence 7"
    assert _champion_already("m", "1", [made]).reasons == (told, "passed: mae 3 is below 5")
    assert "promoted by a command" in _champion_already("m", "1", [Evidence(7, NOW, "promotion", "m", body)]).reasons[0]


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


class Registry:
    """MLflow's alias of one model. `asked`: called before each answer, as whoever decides meanwhile."""

    def __init__(self, alias: str | None) -> None:
        self.alias = alias
        self.asked: Callable[[], object] = object

    def champion(self, *_: object) -> str | None:
        self.asked()
        return self.alias

    def champions(self, *_: object) -> dict[str, str]:
        alias = self.champion()
        return {} if alias is None else {"m": alias}

    def promote(self, tracking: object, name: str, version: str, *_: object) -> None:
        self.alias = version

    def remove_champion(self, *_: object) -> None:
        self.alias = None


@pytest.fixture
def aliased(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry("2")
    for name in ("champion", "champions", "promote", "remove_champion"):
        monkeypatch.setattr(registry, name, getattr(found, name))
    return found


def decided_ledger(*versions: str) -> MemoryLedger:
    """Versions that were trained and promoted, and a later record."""
    ledger = MemoryLedger(clock=lambda: NOW - timedelta(days=1))
    for version in versions:
        ledger.append("candidate", "m", {"version": version})
        ledger.append("promotion", "m", {"version": version, "previous": None, "reasons": []})
    ledger.append("drill", "another", {})
    return ledger


def alter(ledger: MemoryLedger, seq: int) -> None:
    """As somebody with the rights of the database's owner does: the record has no valid signature any more."""
    entry = ledger.chain[seq - 1]
    ledger.chain[seq - 1] = replace(entry, text=entry.text.replace('"reasons":[]', '"reasons":["x"]'))
    ledger.records = [record for record in ledger.records if record.seq != seq]


def settled(ledger: MemoryLedger) -> str | None:
    tracking = Connection("mlflow", "http")
    return champions.settle(tracking, ledger, "m", NOW).alias


@pytest.mark.parametrize("versions", [("2",), ("1", "2")])
def test_an_alias_stays_while_a_newer_record_is_altered_and_a_newer_decision_counts(
    versions: tuple[str, ...], aliased: Registry
) -> None:
    ledger = decided_ledger(*versions)
    promotion = ledger.find("promotion", limit=1)[0].seq
    alter(ledger, promotion)
    assert settled(ledger) == aliased.alias == "2"
    assert settled(ledger) == "2"
    (told,) = ledger.find("denial", "m")
    assert f"record {promotion} was altered or deleted" in told.body["reasons"][0], "told once"
    (line,) = champions.compared({"m": "2"}, {"m": champions.decisions_on(ledger, "m")}, NOW, lambda _: promotion)
    assert line.startswith(champions.MOVED) and "stays at version 2" in line
    ledger.append("promotion", "m", {"version": "3", "previous": "2", "reasons": []})
    assert settled(ledger) == aliased.alias == "3"


def test_an_alias_that_was_moved_by_hand_is_put_back_also_beside_an_altered_record(aliased: Registry) -> None:
    ledger = decided_ledger("1")
    assert settled(ledger) == aliased.alias == "1", "no record is altered"
    aliased.alias = "9"
    alter(ledger, ledger.find("promotion", limit=1)[0].seq)
    assert settled(ledger) is aliased.alias is None, "version 9 was never trained here"


def test_a_rollback_names_its_champion_although_an_older_promotion_was_altered() -> None:
    assert champions.intended([promoted("1"), promoted("2", "1"), rolled_back("2", "3", NOW)]) == "2"


def test_no_way_back_leads_to_a_version_that_was_rolled_back_although_records_between_were_altered() -> None:
    # of 1, 2 and 3, one after the other, then back to 2 and back to 1: two records are altered
    known = [promoted("2", "1"), promoted("3", "2"), rolled_back("1", "2", NOW)]
    assert champions.succession(known) == ["1"] and champions.return_to(known) is None
    assert champions.succession([promoted("1"), promoted("3", "2"), rolled_back("2", "3", NOW)]) == ["1", "2"]
    assert champions.succession([promoted("1"), promoted("2", "1"), rolled_back("2", "3", NOW)]) == ["1", "2"]


def platform_of(ledger: MemoryLedger) -> Any:
    return SimpleNamespace(ledger=ledger, tracking=lambda: None, clock=lambda: NOW)


def sites() -> Any:
    return SimpleNamespace(active=lambda: None, committing=lambda _: nullcontext())


def settled_by_a_backup(ledger: MemoryLedger) -> list[str]:
    return list(champions.settle_all(lambda: Connection("mlflow", "http"), ledger, sites(), lambda: NOW, ["m"]))


def test_a_champion_that_is_promoted_during_a_look_is_no_alarm_and_is_not_taken_back(aliased: Registry) -> None:
    ledger = decided_ledger("1")

    def promote() -> None:
        if aliased.alias == "1":
            ledger.append("candidate", "m", {"version": "2"})
            ledger.append("promotion", "m", {"version": "2", "previous": "1", "reasons": []})
            aliased.alias = "2"

    aliased.alias, aliased.asked = "1", promote
    assert champions.lines(platform_of(ledger)) == []
    ledger, aliased.alias = decided_ledger("1"), "1"
    assert settled(ledger) == aliased.alias == "2" and not ledger.find("denial")
    aliased.alias = "1"
    assert settled_by_a_backup(ledger) and aliased.alias == "2" and not ledger.find("denial")
    aliased.alias = "9"
    (line,) = champions.lines(platform_of(ledger))
    assert line.startswith(champions.MOVED), "an alias that nobody decided about is one as before"


def test_the_alias_of_a_pipeline_that_is_being_removed_is_no_alarm(aliased: Registry) -> None:
    ledger, body = decided_ledger("1", "2"), {"id": "r", "what": "remove"}
    for state in ("began", "deleting"):
        ledger.append("removal", "m", {**body, "state": state})
        assert champions.lines(platform_of(ledger)) == ["model m is being removed; its alias champion goes last"]
        assert settled_by_a_backup(ledger) == [] and aliased.alias == "2" and not ledger.find("denial")
    ledger.append("removal", "m", {**body, "state": "ended"})
    (line,) = champions.lines(platform_of(ledger))
    assert line.startswith(champions.MOVED), "afterwards no alias is left, so somebody made it"


def test_a_reset_keeps_the_models_and_the_alarm(aliased: Registry) -> None:
    ledger = decided_ledger("1", "2")
    ledger.append("removal", "m", {"id": "r", "what": "reset", "state": "began"})
    assert champions.lines(platform_of(ledger)) == []
    aliased.alias = "9"
    (line,) = champions.lines(platform_of(ledger))
    assert line.startswith(champions.MOVED)
