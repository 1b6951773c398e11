"""The gate's rules as the pages show them: a table, a bar for each subgroup, the calibration."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from rempart.models.gates.candidate_figures import Band, CandidateFigures, Subgroup
from rempart.models.gates.verdict import judge
from rempart.settings.pipeline import Gate
from rempart.web import charts, rendering
from rempart.web.read_models import models, runs
from rempart.web.read_models.gate.rules import DRAWN, rules
from rempart.web.wording import LANGUAGES, Texts
from tests.cockpit import NOW, Watched

RUN = "manual__2026-03-01T12:00:00+00:00"
GATE = Gate.model_validate(
    {
        "metric": "pr_auc",
        "limit": 0.4,
        "baseline_by": [],
        "rules": [
            {"kind": "calibration", "limit": 0.1},
            {"kind": "subgroups", "columns": ["carrier"], "min_rows": 100, "ratio": 1.2, "metric": "log_loss"},
            {"kind": "latency"},
        ],
    }
)
GROUPS = [("AA", 700, 0.45), ("EV", 200, 0.7), ("HA", 30, None)]


def refusal(groups: Any = GROUPS) -> dict[str, Any]:
    figures = {"pr_auc": 0.5, "log_loss": 0.5, "calibration_error": 0.04}
    shown = CandidateFigures(
        figures,
        {**figures, "pr_auc": 0.3, "overall_pr_auc": 0.3},
        subgroups={4: tuple(Subgroup(("carrier",), (name,), rows, value) for name, rows, value in groups)},
        calibration=(Band("true", 400, 0.2, 0.25), Band("true", 530, 0.6, 0.57)),
    )
    verdict = judge(shown, GATE)
    assert not verdict.passed
    return {
        "version": "2",
        "metrics": figures,
        "baselines": {"pr_auc": 0.3},
        "champion_metrics": None,
        "reasons": list(verdict.reasons),
        "rules": [result.as_json() for result in verdict.results],
        "gate": GATE.model_dump(mode="json"),
        "written_by": {"dag": "validate_model_flights", "run": RUN, "task": "validate"},
    }


def test_refused_rules_come_first_and_an_unknown_one_is_no_success() -> None:
    found = rules(refusal())
    assert [(row.rule, row.state) for row in found] == [
        ("subgroups", "bad"),
        ("latency", "unknown"),
        ("limit", "good"),
        ("beats_baseline", "good"),
        ("calibration", "good"),
    ]
    assert [(group.name, group.state) for group in found[0].subgroups] == [
        ("carrier=EV", "bad"),
        ("carrier=AA", "good"),
        ("carrier=HA", "unknown"),
    ]
    assert rules({"reasons": ["refused: mae"]}) == ()


def test_the_charts_name_each_subgroup_with_its_rows_and_each_band() -> None:
    (subgroups, *_, calibration) = rules(refusal())
    for language in LANGUAGES:
        text = Texts(language)
        drawn = ElementTree.fromstring(str(charts.subgroup_chart("a<b", subgroups, text)))  # noqa: S314 # ours
        told = " ".join(drawn.itertext())
        assert drawn.get("aria-label") == "a<b" and all(
            name in told for name in ("carrier=EV", "200", "carrier=HA", "30")
        )
        assert len([element for element in drawn.iter() if element.tag.endswith("rect")]) == 2
        curve = str(charts.calibration_chart("c", calibration.bands, text))
        ElementTree.fromstring(curve)  # noqa: S314 # ours
        assert curve.count("<title>") == 2 and "400" in curve


def test_of_very_many_subgroups_the_chart_draws_the_refused_and_the_largest() -> None:
    many = [(f"g{i}", 100 + i, 0.9 if i == 3 else 0.1) for i in range(60)]
    (row, *_) = rules(refusal(many))
    assert (len(row.subgroups), row.more, row.subgroups[0].name) == (DRAWN, 60 - DRAWN, "carrier=g3")


def test_the_pages_of_the_run_and_of_the_models_show_the_subgroup_that_refused() -> None:
    watched = Watched()
    watched.record("refusal", "flights", refusal())
    facts = watched.facts()
    left = runs.of_run(facts, "validate_model_flights", RUN, None, NOW)
    (section,) = left.sections
    assert section.topic == "gate" and section.records[0].rules == models.models(facts, NOW).judgements[0].rules
    for language in LANGUAGES:
        texts = Texts(language)
        page = str(rendering._templates().get_template("gate.html").module.rules(section.records[0].rules, texts, 7))  # type: ignore[attr-defined] # a macro
        assert "carrier=EV (200 rows) with log_loss 0.7" in page and page.count("<svg") == 2
        assert all(texts(f"rule.{row.rule}") in page for row in section.records[0].rules)
