"""The page, the command, the run's note and the metrics: late data, the challenger, a model that tells apart."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from rempart.cli.monitoring import lines
from rempart.orchestration import run_notes
from rempart.web import charts, rendering
from rempart.web.metrics import exposition
from rempart.web.pages.monitoring import PAGE
from rempart.web.read_models.watched import drift
from rempart.web.wording import Language, Texts
from tests.cockpit import CHALLENGER, DOMAIN, NOW, Watched

NAME = "hotel_bookings"
LATE = {"what": "labels", "age": 900_000.0, "limit": 172_800.0, "state": "late"}
UNKNOWN = {"what": "rows", "age": None, "limit": None, "state": "unknown"}


def watched(**body: Any) -> Watched:
    made = Watched().healthy()
    made.monitoring(NAME, timedelta(days=1), **body)
    made.monitoring(NAME, **body)
    return made


def seen(made: Watched) -> drift.Watched:
    return next(each for each in drift.all_watched(made.facts(), NOW) if each.pipeline == NAME)


def page(made: Watched, language: Language = "en") -> str:
    given = {"t": Texts(language, PAGE.texts_in(language)), "base": "/rempart", "here": lambda _: "", "pages": (PAGE,)}
    given |= {"current": "monitoring", "evidence": True, "operate": False}
    return (
        rendering._templates()
        .get_template("monitoring.html")
        .render(found=drift.monitoring(made.facts(), NOW), **given)
    )


def figures(made: Watched) -> dict[str, float]:
    text = exposition(made.facts(), NOW)
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#"]
    return {name: float(value) for name, value in pairs if name.startswith(("rempart_data", "rempart_challenger"))}


def test_late_data_is_bad_where_it_is_shown_and_an_unknown_age_is_not_on_time() -> None:
    made = watched(outcome="unknown", reasons=["late: the newest label is 10.4 days old"], freshness=[UNKNOWN, LATE])
    shown = page(made)
    assert '<span class="badge bad">late</span>' in shown and "10 d 10 h" in shown and "2 d" in shown
    assert '<span class="badge unknown">unknown</span>' in shown and "on time" not in shown
    assert "en retard" in page(made, "fr")
    told = "\n".join(lines.verdict(seen(made)))
    assert "LATE" in told and "no limit" in told
    found = figures(made)
    labels = f'{{pipeline="{NAME}",what="labels"}}'
    assert found[f"rempart_data_late{labels}"] == 1 and found[f"rempart_data_age_limit_seconds{labels}"] == 172_800
    assert not [name for name in found if 'what="rows"' in name]
    assert figures(watched())[f"rempart_data_late{labels}"] == 0


def test_an_old_verdict_tells_no_age() -> None:
    old = Watched().healthy()
    old.monitoring(NAME, timedelta(days=3), freshness=[LATE])
    assert not figures(old)


@pytest.mark.parametrize(
    ("better", "words"), [("challenger", "is better than champion"), ("neither", "No difference beyond chance")]
)
def test_champion_and_challenger_stand_side_by_side_and_over_time(better: str, words: str) -> None:
    made = watched(challenger=CHALLENGER | {"better": better})
    shown = page(made)
    assert words in shown and "refused by the gate" in shown and "-1.5 (-2.1 to -0.9)" in shown
    assert shown.count('<polyline class="line other"') == 1
    assert "Prétendante" in page(made, "fr")
    found = seen(made)
    assert [(pair.champion, pair.challenger) for pair in found.pairs] == [(22.9, 21.4)] * 2
    chart = charts.pair_chart("<x>", found.pairs, Texts("en", PAGE.texts_in("en")))
    titles = [part.text for part in ElementTree.fromstring(chart).iter("title")]  # noqa: S314 - our own
    assert len(titles) == 4 and any("Challenger 2: 21.4" in str(title) for title in titles)
    assert ("BETTER" in "\n".join(lines.verdict(found))) == (better == "challenger")
    name = f'rempart_challenger_better{{pipeline="{NAME}",version="2",metric="mae"}}'
    assert figures(made)[name] == float(better == "challenger")
    body = made.ledger.find("monitoring", NAME)[0].body
    note = run_notes.note({"watch": body}, {})
    assert note and "Challenger 2 (refused): mae 21.4 beside 22.9 on 800 rows" in note


def test_a_challenger_that_was_not_compared_says_why_and_has_no_figure() -> None:
    nothing = dict.fromkeys(("champion", "challenger", "difference", "low", "high", "better"))
    made = watched(challenger=CHALLENGER | nothing | {"rows": 9, "why": "a file differs"})
    assert "They could not be compared: a file differs" in page(made) and "line other" not in page(made)
    assert "not compared, a file differs" in "\n".join(lines.verdict(seen(made)))
    assert not [name for name in figures(made) if "challenger" in name]
    note = run_notes.note({"watch": made.ledger.find("monitoring", NAME)[0].body}, {})
    assert note and "Challenger" not in note


def test_without_a_challenger_or_a_model_that_tells_apart_the_page_has_neither() -> None:
    shown = page(watched())
    assert "Challenger" not in shown and "tell the window" not in shown and "on time" in shown


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (DOMAIN, "Not more than 0.95, the most that 6 earlier windows"),
        (DOMAIN | {"moved": True, "area": 0.96}, "More than 0.95"),
        (DOMAIN | {"allowed": None, "spans": 0}, "too short to say what is usual"),
    ],
)
def test_what_a_model_tells_apart_stands_beside_what_is_usual(domain: dict[str, Any], words: str) -> None:
    made = watched(domain=domain)
    shown = page(made)
    assert words in shown and "own__amount" in shown and "(0.92 to 0.942)" in shown
    assert "told from the training data by a model: AUC" in "\n".join(lines.verdict(seen(made)))
    text = exposition(made.facts(), NOW)
    assert ("rempart_domain_auc_allowed" in text) == (domain["allowed"] is not None)


@pytest.mark.parametrize(
    ("covered", "short", "badge", "words", "line"),
    [
        (0.612, True, "bad", "They cover 61.2 % of 1,204 known true values, and promise 90.0 %", "TOO FEW"),
        (
            0.884,
            False,
            "good",
            "They cover 88.4 % of",
            "intervals: cover 88.4% of 1,204 known true values, promised 90.0%",
        ),
        (None, False, "unknown", "Too few true values are known", "intervals: not judged on 1,204 known true values"),
    ],
)
def test_what_intervals_cover_stands_beside_what_they_promise(
    covered: float | None, short: bool, badge: str, words: str, line: str
) -> None:
    made = watched(intervals={"promised": 0.9, "rows": 1204, "covered": covered, "p": 1e-9, "short": short})
    shown = page(made)
    assert f'Intervals of the predictions <span class="badge {badge}">' in shown and words in shown
    assert "Intervalles des prédictions" in page(made, "fr")
    assert line in "\n".join(lines.verdict(seen(made)))
    text = exposition(made.facts(), NOW)
    assert (f'rempart_interval_coverage{{pipeline="{NAME}"}} {covered}' in text) == (covered is not None)
    assert "Intervals of the predictions" not in page(watched()), "a model without intervals has no such part"


def test_a_verdict_of_before_intervals_were_watched_is_shown_without_them() -> None:
    made = watched()
    body = made.ledger.find("monitoring", NAME)[0].body
    made.record("monitoring", NAME, {key: value for key, value in body.items() if key != "intervals"}, timedelta(0))
    assert seen(made).intervals is None and "Intervals of the predictions" not in page(made)
    assert "rempart_interval_coverage{" not in exposition(made.facts(), NOW)
