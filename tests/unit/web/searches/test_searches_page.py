"""The page of searches: trials, the best value so far, plots, and the parameters that were found."""

from __future__ import annotations

import re
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.flows.search.records import Search, search_of, searches
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from rempart.web.details import search_charts
from rempart.web.read_models.searches import views
from rempart.web.read_models.searches.views import SHOWN, view
from rempart.web.wording import Texts
from tests import searched
from tests.cockpit import NOW, Watched
from tests.unit.web.test_routes import House, house

pytestmark = pytest.mark.airflow
__all__ = ["house"]  # the fixture
MODEL = "hotel_bookings"
T = Texts("en", {"searches.trial": "Trial {number}"})


def made(**changed: object) -> Search:
    return search_of(Evidence(4, NOW, "search", MODEL, searched.body(**changed)))


def test_a_record_is_read_as_it_was_written_and_the_newest_is_first() -> None:
    ledger = MemoryLedger()
    ledger.append("search", MODEL, searched.body(search="a" * 16))
    ledger.append("search", "other", searched.body())
    ledger.append("search", MODEL, searched.body(search="b" * 16))
    found = searches(ledger, MODEL)
    assert [each.search for each in found] == ["b" * 16, "a" * 16]
    assert [asdict(each) for each in found[0].trials] == searched.body()["trials"]
    assert found[0].best_trial() == found[0].trials[3]


def test_the_best_so_far_counts_complete_trials_alone_and_follows_the_direction() -> None:
    assert [step.best for step in views.history(made())] == [24.0, 24.0, 22.5, 21.25, 21.25]
    assert [step.best for step in views.history(made(direction="maximize"))] == [24.0] * 5
    nothing = made(trials=[searched.trial(0, 90.0, "pruned"), searched.trial(1, None, "failed")], best=None)
    assert [step.best for step in views.history(nothing)] == [None, None]


def test_what_is_pasted_trains_what_the_search_trained_whatever_the_file_says_by_now() -> None:
    pasted = yaml.safe_load(view(made(fixed={"max_iter": 900, "num_leaves": 5})).paste)
    best = searched.body()["trials"][3]["params"]
    assert pasted == {"trainer": {"use": "gradient_boosting", "params": {"max_iter": 900, **best}, "seed": 7}}
    assert view(made()).paste.startswith("# The other keys of the file's section, such as timeout, gpus")
    assert view(made(best=None)).paste == ""


def test_a_parameter_stands_where_its_range_has_it() -> None:
    leaves, rate, choice = (views.axis(made(), name) for name in searched.SPACE)
    assert [point.told for point in rate.points] == ["0.05", "0.05", "0.1", "0.05", "0.05"]
    middle = views.axis(made(trials=[searched.trial(0, 1.0, num_leaves=30)]), "num_leaves").points[0].at
    assert leaves.points[0].at == 0.0 and leaves.points[4].at == 1.0 and 0.49 < middle < 0.51  # 30² is about 7 × 127
    assert [point.at for point in choice.points] == [0.25, 0.25, 0.25, 0.75, 0.25]
    assert choice.ends == ((0.25, '""'), (0.75, '"*_trend__*_mean_*"')) and choice.best == '"*_trend__*_mean_*"'
    assert [axis.name for axis in view(made()).important] == ["learning_rate", "num_leaves", "leave_out"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_no_value_leaves_its_axis(value: float, is_log: bool) -> None:
    space = {"x": {"low": 1e-3, "high": 10.0, "log": is_log}}
    found = views.axis(made(space=space, trials=[searched.trial(0, 1.0, x=value)]), "x")
    assert 0.0 <= found.points[0].at <= 1.0


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(-1e9, 1e9)), st.sampled_from(["complete", "pruned", "failed"])))
)
def test_every_trial_is_drawn_once_within_the_picture(told: list[tuple[float | None, str]]) -> None:
    trials = [searched.trial(number, value, state) for number, (value, state) in enumerate(told)]
    found = view(made(trials=trials, best=None))
    drawn = str(search_charts.history(found, T))
    assert drawn.count('class="mark') == len(trials)
    heights = [float(y) for y in re.findall(r'c[xy]="[\d.]+" cy="(-?[\d.]+)"', drawn)]
    assert all(0 <= y <= 200 for y in heights)


class _Texts(HTMLParser):
    """The text of a page, and whether each chart has a name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.charts = "", list[str]()
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.words += data + " "

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "svg":
            self.charts.append(dict(attrs)["aria-label"] or "")


def shown(house: House, path: str = "/searches") -> _Texts:
    answer = house.call("GET", path, "viewer")
    assert answer.status_code == 200 and "style=" not in answer.text, answer.text[:500]
    return _Texts(answer.text)


@pytest.fixture
def recorded(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    from rempart.web import sources

    house.watched.record("search", MODEL, searched.body(search="a" * 16, best=None))
    house.watched.record("search", MODEL, searched.body())
    found = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)
    return house


def test_the_page_shows_a_search_with_named_plots_and_all_its_trials_as_a_table(recorded: House) -> None:
    page = shown(recorded)
    for wanted in ("5 trials: 3 complete, 1 pruned, 1 failed.", "Best mae: 21.25, in trial 3", "learning_rate: 0.05"):
        assert wanted in page.words
    assert page.charts[:5] == [
        "mae by trial",
        "Importance of the parameters",
        "mae over learning_rate",
        "mae over leave_out",
        "mae over num_leaves",
    ]
    table = recorded.call("GET", "/searches", "viewer").text.partition('id="search-0123456789abcdef"')[2]
    assert table.partition("</table>")[0].count("<tr>") == 6
    assert "Meilleur mae : 21,25, à l’essai 3" in shown(recorded, "/searches?lang=fr").words
    assert "No trial was complete" in page.words


def test_the_page_of_models_leads_there_if_there_are_searches(recorded: House, house: House) -> None:
    recorded.watched.record("candidate", "never_searched", {"version": "1"})
    link = '/rempart/searches#hotel_bookings">'
    assert link in recorded.call("GET", "/models", "viewer").text


def test_without_a_search_the_page_says_how_to_start_one(house: House) -> None:
    assert "rempart model search NAME --start" in shown(house).words
    assert "/searches#" not in house.call("GET", "/models", "viewer").text


def test_the_json_has_the_series_of_the_plots(recorded: House) -> None:
    told = recorded.call("GET", "/api/searches", "viewer").json()["pipelines"][0]
    newest = told["searches"][0]
    assert [step["best"] for step in newest["history"]] == [24.0, 24.0, 22.5, 21.25, 21.25]
    assert yaml.safe_load(newest["paste"])["trainer"]["params"]["num_leaves"] == 97


def test_markup_in_a_record_is_shown_as_text(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from rempart.web import sources

    hostile = "<script>alert(1)</script>"
    trials = [searched.trial(0, 1.0, **{hostile: hostile}) | {"place": hostile, "run": hostile}]
    told = searched.body(
        space={hostile: {"choose": [hostile]}}, trials=trials, metric=hostile, trainer=hostile, search=hostile, best=0,
        importances={hostile: 1.0},
    )  # fmt: skip
    house.watched.record("search", MODEL, told)
    found = house.watched.facts()
    monkeypatch.setattr(sources, "newest", lambda *within: found)
    text = house.call("GET", "/searches", "viewer").text
    assert hostile not in text and "&lt;script&gt;alert(1)" in text


def test_only_the_newest_searches_are_drawn_and_the_rest_is_named() -> None:
    watched = Watched()
    for number in range(SHOWN + 1):
        watched.record("search", MODEL, searched.body(search=f"{number:016x}"))
    (found,) = views.page(watched.facts(), NOW).pipelines
    assert len(found.searches) == SHOWN and found.more and found.searches[0].search.search == f"{SHOWN:016x}"
