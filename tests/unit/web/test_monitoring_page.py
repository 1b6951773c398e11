"""The page, the command and the metrics of the watch: green, red, old, of another version, never made."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from rempart.cli.monitoring import lines
from rempart.cli.root import app
from rempart.cli.views import facts as gathered
from rempart.cli.views import models
from rempart.ledger.attributed import KEY
from rempart.settings.champions.retraining import Retraining
from rempart.web import rendering
from rempart.web.facts import Unknown
from rempart.web.metrics import exposition
from rempart.web.pages.monitoring import PAGE
from rempart.web.read_models import runs
from rempart.web.read_models.lineage import lineages
from rempart.web.read_models.model_versions import model_states
from rempart.web.read_models.watched import drift
from rempart.web.read_models.watched.drift import Watched as Watch
from rempart.web.read_models.watched.retraining import AlarmChain, chains
from rempart.web.wording import Language, Texts
from tests.cockpit import NOW, Watched

NAME = "hotel_bookings"
REASON = "mae is 47.1 on 900 rows, and was 22.4 on the hold-out"


def seen(watched: Watched) -> Watch:
    (found,) = [each for each in drift.all_watched(watched.facts(), NOW) if each.pipeline == NAME]
    return found


def figures(watched: Watched) -> dict[str, float]:
    text = exposition(watched.facts(), NOW)
    lines_ = [
        line.rsplit(" ", 1)
        for line in text.splitlines()
        if line.startswith(("rempart_drift", "rempart_champion_metric"))
    ]
    return {name.partition("{")[0]: float(value) for name, value in lines_}


def test_a_verdict_has_columns_errors_and_a_history() -> None:
    watched = Watched().healthy()
    watched.monitoring(NAME, timedelta(days=1))
    watched.monitoring(NAME)
    found = seen(watched)
    assert (found.state, found.outcome, found.is_current) == ("good", "green", True)
    assert [(part.value, part.recorded) for part in found.measured] == [(22.9, 22.4)]
    assert [len(found.errors), len(found.movements)] == [2, 2] and found.errors[0][0] < found.errors[1][0]
    assert figures(watched) == {
        "rempart_drift_known": 1,
        "rempart_drift_red": 0,
        "rempart_drift_columns": 0,
        "rempart_champion_metric": 22.9,
        "rempart_champion_metric_recorded": 22.4,
    }
    told = "\n".join(lines.verdict(found))
    assert told.startswith("hotel_bookings: green, version 1, 900 rows, 2026-03-01 11:00 UTC") and "own__amount" in told


def test_a_red_verdict_is_bad_and_one_line_of_the_run() -> None:
    watched = Watched().healthy()
    watched.monitoring(NAME, outcome="red", reasons=[REASON])
    found = seen(watched)
    assert (found.state, found.reasons) == ("bad", (REASON,)) and figures(watched)["rempart_drift_red"] == 1
    (section,) = runs.of_dag(watched.facts(), f"monitor_{NAME}", NOW).sections[-1:]
    (told,) = section.records
    assert (section.topic, told.state, told.message.code, told.why) == (
        "monitoring",
        "bad",
        "told.monitoring",
        (REASON,),
    )


def test_an_old_verdict_and_one_on_another_version_are_unknown() -> None:
    old = Watched().healthy()
    old.monitoring(NAME, timedelta(days=3))
    other = Watched().healthy()
    other.monitoring(NAME, version="0")
    for watched in (old, other):
        found = seen(watched)
        assert (found.state, found.outcome, found.is_current) == ("unknown", "green", False)
        assert figures(watched)["rempart_drift_known"] == 0
        assert any("The verdict was green" in line for line in lines.verdict(found))
    assert "rempart_drift_red" not in figures(other)


def test_without_a_verdict_without_performance_and_without_a_ledger() -> None:
    watched = Watched().healthy()
    assert (seen(watched).state, figures(watched)) == ("unknown", {"rempart_drift_known": 0})
    assert [*lines.verdict(seen(watched))][1].startswith(
        "No verdict is on record. Start the DAG monitor_hotel_bookings"
    )
    few = ["too few rows: 9 since the training data, 200 are needed"]
    watched.monitoring(NAME, outcome="unknown", reasons=few, performance=None, columns=[])
    found = seen(watched)
    assert (found.state, found.is_current, found.measured, found.columns) == ("unknown", True, (), ())
    assert few[0] in "\n".join(lines.verdict(found))
    silent = Watched().facts(evidence=Unknown("no answer"))
    assert [each.state for each in drift.monitoring(silent, NOW).pipelines] == ["unknown"]
    assert [*lines.verdict(seen(Watched()))] == [f"{NAME}: unknown", "The model has no champion yet."]


@pytest.mark.parametrize(("outcome", "code"), [("green", 0), ("red", 1), ("unknown", 2), (None, 2)])
def test_the_commands_exit_code_is_the_verdict(outcome: str | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched().healthy()
    if outcome:
        watched.monitoring(NAME, outcome=outcome)
    monkeypatch.setattr(gathered, "gather", watched.facts)
    done = CliRunner().invoke(app, ["model", "drift", NAME, "--json"])
    assert done.exit_code == code, done.output
    assert json.loads(done.stdout)["outcome"] == outcome


def test_a_training_that_drift_started_is_told_and_an_alarm_if_it_gave_no_better_champion() -> None:
    watched = Watched().healthy()
    verdict = watched.monitoring(NAME, timedelta(hours=4), "red", reasons=[REASON])
    watched.retraining(NAME, timedelta(hours=3), verdict)
    assert "rempart_retraining_refused" in exposition(watched.facts(), NOW)
    begun = "\n".join(lines.verdict(seen(watched)))
    assert f"a training was started because of verdict {verdict}" in begun
    watched.retraining(NAME, timedelta(hours=2), verdict, "2")
    refused = {"version": "2", "reasons": ["refused: mae 26 is above 25"], "metrics": {}, "baselines": {}}
    watched.record("refusal", NAME, refused | {"verdict": verdict}, timedelta(hours=1))
    found = seen(watched)
    assert found.retrained is not None and found.retrained.refused == ("refused: mae 26 is above 25",)
    told = "\n".join(lines.verdict(found))
    assert f"version 2 was trained because of verdict {verdict}" in told and "NO BETTER CHAMPION" in told
    assert 'rempart_retraining_refused{pipeline="hotel_bookings"} 1' in exposition(watched.facts(), NOW)
    watched.monitoring(NAME, timedelta(minutes=5))
    assert seen(watched).retrained is not None
    assert 'rempart_retraining_refused{pipeline="hotel_bookings"} 0' in exposition(watched.facts(), NOW)


def test_a_version_names_the_verdict_that_it_was_trained_for() -> None:
    watched = Watched().healthy()
    dataset = {"sha256": "d" * 64, "rows_train": 8, "rows_holdout": 2}
    watched.record("candidate", NAME, {"version": "9", "dataset": dataset, "snapshot": "s1", "verdict": 41})
    state = model_states(watched.facts())[NAME]
    assert any("verdict 41 on the champion" in line for line in models.state_lines(state))
    (found,) = lineages(watched.facts())
    assert (found.version, found.verdict) == ("9", 41)


@pytest.mark.parametrize(("language", "heading"), [("en", "Monitoring"), ("fr", "Surveillance")])
def test_the_page_shows_the_verdict_or_that_there_is_none(language: Language, heading: str) -> None:
    texts = Texts(language, PAGE.texts_in(language))
    template = rendering._templates().get_template("monitoring.html")
    given = {"t": texts, "base": "/rempart", "here": lambda _: "", "pages": (PAGE,), "current": "monitoring"}
    watched = Watched().healthy()

    def shown() -> str:
        return template.render(found=drift.monitoring(watched.facts(), NOW), evidence=True, operate=False, **given)

    assert heading in shown() and f"monitor_{NAME}" in shown()
    watched.monitoring(NAME, timedelta(hours=3))
    watched.monitoring(NAME, outcome="red", reasons=[REASON])
    page = shown()
    assert REASON in page and "own__amount" in page and page.count("<svg") == 2 and 'class="badge bad"' in page


RUN = "asset_triggered__2026-03-01T11:00:00.000001+00:00_ab12cd34"


def task(dag: str) -> dict[str, dict[str, str]]:
    """What a task of a run of a DAG adds to its records."""
    return {KEY: {"dag": f"{dag}_{NAME}", "run": RUN, "task": "t"}}


class Moved(Watched):
    """A world that moved: the champion, version 1, has a red verdict, and a training was started by it."""

    def __init__(self) -> None:
        super().__init__()
        self.promotion()
        self.alarm = self.monitoring(NAME, timedelta(hours=5), "red", reasons=[REASON], **task("monitor"))
        begun = {"verdict": self.alarm, "champion": "1", "version": None} | task("train")
        self.began = self.record("retraining", NAME, begun, timedelta(hours=4))

    def trained(self, version: str = "2") -> int:
        return self.retraining(NAME, timedelta(hours=3), self.alarm, version)

    def decided(self, kind: str, version: str = "2", **body: Any) -> int:
        told = {"version": version, "metrics": {}, "baselines": {}, "reasons": ["passed: mae 20 is at most 25"]}
        found = told | {"verdict": self.alarm} | task("validate_model") | body
        return self.record(kind, NAME, found, timedelta(hours=2))

    def chain(self) -> AlarmChain:
        return seen(self).chains[0]

    def page(self, language: Language = "en") -> str:
        texts = Texts(language, PAGE.texts_in(language))
        given = {"t": texts, "base": "/rempart", "here": lambda _: "", "pages": (PAGE,), "current": "monitoring"}
        found = drift.monitoring(self.facts(), NOW)
        return (
            rendering._templates()
            .get_template("monitoring.html")
            .render(found=found, evidence=True, operate=False, **given)
        )


def test_alarm_training_gate_and_service_are_one_chain_of_linked_records() -> None:
    moved = Moved()
    assert (moved.chain().state, moved.chain().trained, moved.chain().declined) == ("unknown", None, "")
    moved.trained()
    promoted = moved.decided("promotion")
    chain = moved.chain()
    assert (chain.verdict, chain.champion, chain.version, chain.state) == (moved.alarm, "1", "2", "good")
    assert chain.served is not None and (chain.served.seq, chain.served.until) == (promoted, None)
    page = moved.page()
    assert f'id="alarm-{moved.alarm}"' in page and f"/rempart/models#{NAME}-2" in page and REASON in page
    for dag, record in (("monitor", moved.alarm), ("train", moved.began), ("validate_model", promoted)):
        assert f'href="/dags/{dag}_{NAME}/runs/{quote(RUN)}"' in page and f'href="/rempart/ledger/{record}"' in page
    assert "version 2 became champion" in "\n".join(lines.verdict(seen(moved)))
    assert "à cause" not in page and "Ce que l’alarme a déclenché" in moved.page("fr")
    moved.record("rollback", NAME, {"champion": "1", "replaces": "2", "alias_was": "2"}, timedelta(hours=1))
    ended = moved.chain().served
    assert ended is not None and ended.until is not None


def test_a_chain_without_a_better_candidate_is_an_alarm_in_its_place() -> None:
    refused = Moved()
    refused.trained()
    refused.decided("refusal", reasons=["refused: mae 26 is above 25"])
    same = Moved()
    same.trained("1")
    for moved, why in ((refused, "refused: mae 26 is above 25"), (same, "there was nothing new to learn from")):
        assert (moved.chain().state, moved.chain().served) == ("bad", None)
        assert why in moved.chain().refused[0]
        assert why in moved.page() and "stays champion" in moved.page() and 'class="badge bad"' in moved.page()


def test_a_chain_waits_where_a_person_approves() -> None:
    moved = Moved()
    moved.trained()
    moved.decided("approval")
    assert (moved.chain().state, moved.chain().judgement, moved.chain().served) == ("unknown", "approval", None)
    assert "awaits approval" in moved.page() and "not yet" in moved.page()
    assert f"awaits approval: `rempart model show {NAME}` tells whose" in "\n".join(lines.verdict(seen(moved)))


def test_a_further_alarm_says_why_it_starts_no_training() -> None:
    moved = Moved()
    file = moved.facts().pipelines[NAME]  # type: ignore[index]  # the shipped pipelines are readable
    further = moved.monitoring(NAME, outcome="red", reasons=[REASON])
    assert moved.chain().declined == "`retrain.on_drift` is off"
    for rules, why in (
        (
            {"on_drift": True},
            f"verdict {moved.alarm} started a training on 2026-03-01 08:00 UTC: the cool-down ends on",
        ),
        ({"on_drift": True, "cool_down": "1h", "at_most": {"trainings": 1}}, "as many as `retrain.at_most` allows"),
    ):
        learning = file.model_copy(update={"retrain": Retraining.model_validate(rules)})  # type: ignore[union-attr]
        (newest, before, *_) = chains(moved.facts(pipelines={NAME: learning}), NOW)[NAME]
        assert (newest.verdict, newest.started, before.verdict) == (
            further,
            None,
            moved.alarm,
        ) and why in newest.declined
    assert "No training was started" in moved.page() and f'id="alarm-{further}"' in moved.page()
    assert "no training was started: `retrain.on_drift` is off" in "\n".join(lines.verdict(seen(moved)))
