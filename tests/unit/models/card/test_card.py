"""A model card tells what evidence tells, says what it does not know, and holds neither markup nor a rare value."""

import re
from html.parser import HTMLParser

import pytest

from rempart import canonical_json
from rempart.errors import IntegrityError
from rempart.models.card import facts, svg
from rempart.models.card.page import page
from rempart.models.card.wording import LIMITS, told
from rempart.models.explanations.figures import Dependence, ErrorGroup, ErrorSegment, Explanations, Importance, Point
from tests.unit.models.card import carded

EMPTY = Explanations("mae", 20, 20, 3, (), (), (), ErrorSegment("month", (), 1), ())


class Parsed(HTMLParser):
    """The page's elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.text = list[tuple[str, dict]](), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def limits(**changes):
    return {limit.code: told(limit) for limit in carded.card(**changes).limits}


def test_the_page_tells_the_evidence_and_what_the_gate_measured():
    text = " ".join(Parsed(page(carded.card())).text.split())
    for wanted in (
        "Model card: stays, version 3",
        "Price per room and night of a booking",
        "revenue@hotel.example",
        "22.5",  # the gate's figure, not the one of the registration
        "39.9",
        "passed: mae 22.5 is at most 25 (the limit) ",
        "record 5",
        "train_mae 11",
        "9,000 (SHA-256 " + "11" * 32,
        "site primary, run by Trial One in FR; seat of the operator: FR, of its ultimate owner: FR",
        "pool gpu; its operator is not declared in rempart.yaml",
        "scikit-learn 1.8.0",
        "cd" * 32,
        "column lead",
        "defined in another way today",
        "30.5 ± 1.2",
        "rempart model card stays 3",
    ):
        assert wanted.strip() in text, wanted
    assert "22.4" not in text


def test_the_page_runs_nothing_and_loads_nothing():
    found = Parsed(page(carded.card()))
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "form", "a", "base"}
    for tag, attributes in found.elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "style")}, tag
    (policy,) = [each["content"] for _, each in found.elements if each.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_markup_in_any_value_is_text():
    hostile = "<script>alert(1)</script>\"'"

    def poisoned(value):
        if isinstance(value, str):
            return hostile
        if isinstance(value, dict):
            return {hostile if key not in known else key: poisoned(each) for key, each in value.items()}
        return [poisoned(each) for each in value] if isinstance(value, list) else value

    plain = facts.as_json(carded.card())
    known = {key for each in walked(plain) for key in each} - {"stay__lead", "stay__room", "scikit-learn", "max_iter"}
    kept = {"standing", "what", "trained_at", "at", "code", "metric"}
    data = {key: value if key in kept else poisoned(value) for key, value in plain.items()}
    data |= {"places": [each | {"name": hostile, "operator": hostile} for each in plain["places"]]}
    data |= {"limits": plain["limits"], "judgement": plain["judgement"] | {"reasons": [hostile]}}
    found = Parsed(page(facts.from_json(data, "a test")))
    assert not {tag for tag, _ in found.elements} & {"script"} and hostile in found.text


def walked(value):
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from walked(each)
    elif isinstance(value, list):
        for each in value:
            yield from walked(each)


def test_a_card_is_the_same_after_the_ledger():
    made = carded.card(watched=[carded.record(9, "monitoring", {"version": "3", "outcome": "red", "reasons": ["x"]})])
    plain = facts.as_json(made)
    again = facts.from_json(canonical_json.read(canonical_json.encode(plain)), "record 9")
    assert again == made and page(again) == page(made)
    with pytest.raises(IntegrityError, match="record 4 has no model card"):
        facts.from_json({"model": "stays"}, "record 4")


def test_a_declared_value_that_no_group_tells_is_not_in_the_card():
    made = carded.card()
    assert "Erika" not in page(made) and "Erika" not in str(facts.as_json(made))


def test_what_is_not_known_is_said():
    assert {"period", "sample", "merged", "former", "unwatched", "groups", "cause"} == set(limits())
    assert limits()["merged"].startswith("By stay__room: 2 groups have fewer than 30 rows")
    assert limits()["period"] == "The held-out rows are of 2017-06 to 2017-07. No figure tells of other times."
    assert "not-explained" in limits(explanations=None)
    assert limits(explanations=EMPTY)["few-rows"].startswith("Only 20 rows are held out")
    assert "standing.refused" in limits(standing="refused")
    assert limits(standing="not judged", decisions=[])["standing.not-judged"].endswith("do not use it.")
    red = carded.record(9, "monitoring", {"version": "3", "outcome": "red", "reasons": ["lead moved"]})
    assert limits(watched=[red])["drift"] == "The watch’s newest verdict on this version is red (record 9)."
    green = carded.record(10, "monitoring", {"version": "3", "outcome": "green", "reasons": []})
    assert not {"drift", "unwatched"} & set(limits(watched=[green, red]))
    shown = page(carded.card(explanations=None, decisions=[], standing="not judged"))
    assert "The gate has not judged it yet." in shown and "This was not measured" in shown


def test_every_limit_has_a_text():
    codes = {limit.code for standing in ("refused", "not judged", "awaits approval", "rolled back")
             for limit in carded.card(standing=standing).limits}  # fmt: skip
    assert codes <= set(LIMITS)


def test_charts_of_classes_and_of_none_are_drawn():
    points = tuple(Point(at, (0.2, 0.5, 0.3), (0.1, 0.1, 0.1)) for at in (1.0, 2.0, None))
    drawn = svg.dependence_chart("t", Dependence("f", points), ("low", "fair", "high"), "no value", (0.2, 0.5))
    assert drawn.count("<polyline") == 3 and "no value: 0.3" in drawn
    two = tuple(Point(at, (0.2, 0.8), (0.1, 0.1)) for at in ("a", "b"))
    assert "0.8" in svg.dependence_chart("t", Dependence("f", two), ("no", "yes"), "no value", (0.2, 0.8))
    flat = tuple(Point(at, (5.0,), (0.0,)) for at in (1.0, 2.0))
    assert "<polyline" in svg.dependence_chart("t", Dependence("f", flat), (), "no value", (5.0, 5.0))


def test_charts_of_dependence_share_one_scale():
    """A feature that hardly counts is drawn as a nearly flat line."""
    strong, weak = (
        Dependence(name, tuple(Point(float(at), (at * slope,), (0.0,)) for at in (1, 2))) for name, slope in
        (("strong", 100.0), ("weak", 1.0))
    )  # fmt: skip
    ends = svg.span([strong, weak], ())
    assert ends == (1.0, 200.0)
    heights = []
    for each in (strong, weak):
        drawn = svg.dependence_chart("t", each, (), "no value", ends)
        points = drawn.split('points="')[1].split('"')[0].split()
        heights.append(abs(float(points[0].split(",")[1]) - float(points[1].split(",")[1])))
    assert heights[0] > 50 * heights[1] > 0


def test_what_intervals_cover_and_from_which_chance_on_a_class_is_answered_is_told():
    trainer = {"use": "linear", "params": {}, "seed": 1, "intervals": {"coverage": 0.9, "method": "scaled"}}
    covering = carded.candidate(trainer=trainer, metrics={"mae": 22.4, "coverage": 0.876, "width": 61.5})
    told = limits(candidate=covering)
    assert told["intervals"].startswith("Intervals are made for 90% of the true values")
    text = " ".join(Parsed(page(carded.card(candidate=covering, decisions=[], standing="not judged"))).text.split())
    assert re.search(r"coverage ?0.876", text) and re.search(r"width ?61.5", text)
    target = {"name": "late", "type": "category", "values": ["no", "yes"], "definition": ""}
    point = {"operating": {"positive": 1, "threshold": 0.21}}
    chosen = limits(candidate=carded.candidate(task="classification", target=target, validation=point))
    assert chosen["threshold"].startswith("The answer is yes from a probability of 0.21 on")
    point["operating"]["threshold"] = 1.0000000000000002  # no chance is as high
    never = limits(candidate=carded.candidate(task="classification", target=target, validation=point))
    assert never["never"].startswith("The answer is never yes") and "threshold" not in never
    assert not {"intervals", "threshold", "never"} & set(limits())


def drawn(chart: str) -> dict[str, float]:
    return {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]*)</text>', chart)}


def lines_of(chart: str) -> list[tuple[float, float]]:
    return [(float(x1), float(x2)) for x1, x2 in re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', chart)]


def test_features_that_differ_at_their_end_keep_it_and_no_line_crosses_a_figure():
    found = [Importance(f"vehicle_past__bearing_temp_c_mean_{w}", 0.03, 0.01) for w in ("28d", "12w")]
    chart = svg.importance_chart("What counts?", found)
    names = [text for text in drawn(chart) if text.startswith("vehicle")]
    assert [name[-4:] for name in names] == ["_28d", "_12w"] and {len(name) for name in names} == {34}
    assert "<title>vehicle_past__bearing_temp_c_mean_28d: 0.03</title>" in chart
    assert lines_of(chart) and all(drawn(chart)["0.03"] > end for _, end in lines_of(chart)), chart
    groups = [ErrorGroup(name, 600, error, None, None, {}) for name, error in (("NGT6", 0.25), ("T4D", 0.33))]
    chart = svg.segment_chart("Errors", ErrorSegment("series", tuple(groups), 0), 0.29, "others")
    ((line, _),) = lines_of(chart)
    assert drawn(chart)["0.25 (600)"] > line < drawn(chart)["0.33 (600)"]
