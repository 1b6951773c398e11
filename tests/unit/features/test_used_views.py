"""Views of other pipelines: what a training set shows of them, by brute force, and what the check refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.cli import feature_lines
from rempart.cli.views import derivations
from rempart.errors import PipelineError
from rempart.features import in_memory
from rempart.features.catalogue.entries import CatalogueFacts, ChampionInputs, catalogue
from rempart.features.plan import view_tables
from rempart.flows.removal import facts
from rempart.models import definitions
from rempart.models.encoding import features_of
from rempart.settings import pipelines
from tests.derived_project import write_project
from tests.used_project import (
    PROJECT,
    READINGS,
    SALES,
    STATIONS,
    Row,
    after,
    reading,
    sale,
    spec,
    station,
    table,
)

QUARTERS = st.integers(0, 40).map(lambda quarter: quarter / 4)
NAMES = st.sampled_from(["a", "b"])
READ = st.lists(st.tuples(QUARTERS, NAMES, st.integers(-20, 30).map(float)), max_size=10)
CHANGED = st.dictionaries(st.tuples(NAMES, QUARTERS), st.tuples(st.integers(0, 10), st.floats(0, 9)), max_size=8)
SOLD = st.lists(st.tuples(QUARTERS, NAMES | st.none()), min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path, *PROJECT, sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return tmp_path


def joined(sales: list[Row], readings: list[Row], stations: list[Row]) -> list[Row]:
    used = {"readings": table("readings", readings), "stations": table("stations", stations)}
    return in_memory.build(spec("sales"), table("sales", sales), None, used).table.to_pylist()


def rows_of(read: list[Any], changed: dict[Any, Any]) -> tuple[list[Row], list[Row]]:
    readings = [reading(number, *values) for number, values in enumerate(read)]
    return readings, [
        station(name, opened, day, height, "hills" if height > 4 else "coast")
        for (name, day), (opened, height) in changed.items()
    ]


def known(version: Row) -> float:
    """Days after the first one from which others know a version: not before the day after its opening has begun."""
    opened = (version["opened"] - after(0).date()).days
    return max(opened + 1, (version["changed_at"] - after(0)).total_seconds() / 86400)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sold=SOLD, read=READ, changed=CHANGED)
def test_a_row_has_the_values_that_were_known_at_its_moment(
    sold: list[Any], read: list[Any], changed: dict[Any, Any]
) -> None:
    readings, stations = rows_of(read, changed)
    made = joined([sale(number, *values) for number, values in enumerate(sold)], readings, stations)
    for row, (day, nearest) in zip(made, sold, strict=True):
        for window in (1, 3):
            of = [celsius for at, name, celsius in read if name == nearest and day - window <= at < day]
            found = row[f"weather__celsius_mean_{window}d"]
            assert found == (pytest.approx(sum(of) / len(of)) if of else None)
        versions = [version for version in stations if version["station"] == nearest and known(version) <= day]
        newest = max(versions, key=lambda version: version["changed_at"], default={"height": None, "zone": None})
        assert (row["place__height"], row["place__zone"]) == (newest["height"], newest["zone"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(day=QUARTERS, read=READ, changed=CHANGED, later=READ, others=CHANGED)
def test_nothing_that_is_known_after_the_moment_changes_a_row(
    day: float, read: list[Any], changed: dict[Any, Any], later: list[Any], others: dict[Any, Any]
) -> None:
    """What came by the moment stays; what comes later is something else, or nothing."""
    now = [values for values in read if values[0] < day]
    readings, versions = rows_of(read, changed)
    others = {key: value for key, value in others.items() if key not in changed}
    other_readings, other_versions = rows_of(now + [(day + at, *rest) for at, *rest in later], others)
    early = [version for version in versions if known(version) <= day]
    late = [version for version in other_versions if known(version) > day]
    sales = [sale(number, day, nearest) for number, nearest in enumerate(["a", "b", None])]
    assert joined(sales, readings, versions) == joined(sales, other_readings, [*early, *late])


CORRECTED = READINGS.replace("key: [reading]", "key: [reading]\non_conflict: RULE\nversion_by: corrected").replace(
    "  celsius:", "  corrected: {type: TYPE, known: measured}\n  celsius:"
)
VERSIONS = st.dictionaries(
    st.tuples(st.integers(1, 3), QUARTERS), st.tuples(QUARTERS, NAMES, st.integers(-20, 30).map(float)), max_size=8
)


@settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=st.sampled_from(["newest", "history"]),
    kind=st.sampled_from(["date", "timestamp"]),
    zone=st.sampled_from(["UTC", "America/New_York"]),
    sold=SOLD,
    read=VERSIONS,
)
def test_a_window_has_the_versions_that_were_known_and_ends_where_it_ends_at_the_source(
    project: Path, rule: str, kind: str, zone: str, sold: list[Any], read: dict[Any, Any]
) -> None:
    """A date is known from the end of its day where the source is, in January five hours later in New York."""
    text = CORRECTED.replace("RULE", rule).replace("TYPE", kind)
    write_project(project, text.replace("prefix: readings/", f"prefix: readings/, time_zone: {zone}"), sql={})
    versions: dict[int, list[tuple[float, Any]]] = {}
    rows: dict[Any, Row] = {}
    for (number, corrected), values in sorted(read.items()):
        told = after(corrected) if kind == "timestamp" else after(corrected).date()
        known = corrected if kind == "timestamp" else int(corrected) + 1 + (5 / 24 if "York" in zone else 0)
        if (number, told) in rows:
            versions[number].pop()
        rows[number, told] = {**reading(number, *values), "corrected": told}
        versions.setdefault(number, []).append((known, values))
    if rule == "newest":
        versions = {number: of[-1:] for number, of in versions.items()}
        rows = {number: row for (number, _), row in rows.items()}
    made = joined([sale(number, *values) for number, values in enumerate(sold)], [*rows.values()], [])
    for row, (day, nearest) in zip(made, sold, strict=True):
        shown = [[values for known, values in of if known <= day][-1:] for of in versions.values()]
        for window in (1, 3):
            of = [
                celsius
                for (at, name, celsius), *_ in filter(None, shown)
                if name == nearest and day - window <= at < day
            ]
            found = row[f"weather__celsius_mean_{window}d"]
            assert found == (pytest.approx(sum(of) / len(of)) if of else None)


def test_the_check_says_that_corrections_show_before_they_came(project: Path) -> None:
    told = {}
    for rule in ("on_conflict: newest", "on_conflict: newest\nversion_by: measured_at", "on_conflict: refuse"):
        write_project(project, READINGS.replace("key: [reading]", f"key: [reading]\n{rule}"), sql={})
        told[rule] = "Caution: a corrected row of 'readings'" in "\n".join(derivations.all_lines(spec("sales")))
    assert [*told.values()] == [True, False, False]


def test_a_date_counts_from_the_next_day_and_a_value_from_its_own_instant() -> None:
    stations = [station("a", 2, 0.5, 7.0)]
    made = joined([sale(1, 2.9), sale(2, 3.0)], [], stations)
    assert [row["place__height"] for row in made] == [None, 7.0]
    made = joined([sale(1, 2.0), sale(2, 2.25)], [reading(1, 2.0, "a", 5.0)], [])
    assert [row["weather__celsius_mean_1d"] for row in made] == [None, 5.0]
    assert made[1]["expressions__warmer"] == 0.0


def test_a_day_ends_where_the_source_is(project: Path) -> None:
    west = "source: {prefix: stations/, time_zone: America/New_York}"
    write_project(project, READINGS, STATIONS.replace("source: {prefix: stations/}", west), SALES, sql={})
    made = joined([sale(1, 3.1), sale(2, 3.25)], [], [station("a", 2, 0.5, 7.0)])
    assert [row["place__height"] for row in made] == [None, 7.0], "until 5:00 UTC it is the day before in New York"


def test_the_same_view_of_another_pipeline_is_another_feature(project: Path) -> None:
    before = definitions.of_pipeline(spec("sales"))
    sauna = READINGS.replace("name: readings", "name: sauna").replace("prefix: readings/", "prefix: sauna/")
    write_project(project, *PROJECT[:-1], sauna, SALES.replace("readings.lately", "sauna.lately"), sql={})
    after = definitions.of_pipeline(spec("sales"))
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert changed == {"expressions__warmer", *(name for name in before if name.startswith("weather__"))}


def test_a_row_that_was_replaced_is_not_shown_before_its_replacement(project: Path) -> None:
    newest = STATIONS.replace("on_conflict: history", "on_conflict: newest")
    write_project(project, newest, sql={})
    made = joined([sale(1, 4), sale(2, 6)], [], [station("a", 0, 5.0, 7.0)])
    assert [row["place__height"] for row in made] == [None, 7.0]


def test_used_features_enter_the_model_with_their_types() -> None:
    found = {feature.name: (feature.type, feature.values) for feature in features_of(spec("sales"))}
    assert found["place__zone"] == ("category", ("coast", "hills"))
    assert found["weather__rows_1d"] == found["expressions__warmer"] == ("number", ())
    of_sales = {table.view: table for table in view_tables(spec("sales"))}
    assert (of_sales["weather"].table, of_sales["weather"].join_key) == ("sales__weather", "nearest")
    assert of_sales["place"].primary_key == ("nearest", "event_timestamp")


def changed_file(text: str, **views: Any) -> str:
    content = yaml.safe_load(text)
    return yaml.safe_dump(content | {"features": content["features"] | views}, sort_keys=False)


WEATHER = {"kind": "used", "from": "readings.lately", "key": {"station": "nearest"}}


@pytest.mark.parametrize(
    ("view", "wanted"),
    [
        ({"from": "reading.lately"}, r"there is no pipeline 'reading' \(did you mean 'readings'\?\)"),
        ({"from": "readings.latly"}, r"pipeline 'readings' has no view 'latly' \(did you mean 'lately'\?\)"),
        ({"from": "sales.own"}, "it names this pipeline"),
        ({"key": {"stations": "nearest"}}, r"'stations' is not in the key of .* station \(did you mean 'station'\?\)"),
        ({"key": {"stations": "nearest"}}, "key: it lacks 'station' of 'readings'; write `station:`"),
        ({"key": {"station": "sale"}}, "key.station: it is string in 'readings', but 'sale' is integer"),
        ({"key": {"station": "neerest"}}, r"features.weather.key: .*\(did you mean 'nearest'\?\)"),
        ({"key": {"station": "amount"}}, "key: the target 'amount' cannot tell which value is used"),
        ({"from": "readings"}, "from"),
    ],
)
def test_a_wrong_use_is_refused_with_its_remedy(project: Path, view: dict[str, Any], wanted: str) -> None:
    write_project(project, changed_file(SALES, weather=WEATHER | view), sql={})
    with pytest.raises(PipelineError, match=wanted) as refused:
        spec("sales")
    assert refused.value.hint


def test_a_user_needs_at_least_the_protection_of_the_source(project: Path) -> None:
    write_project(project, SALES.replace("classification: personal", "classification: internal"), sql={})
    with pytest.raises(PipelineError, match=r"'stations' is personal, .* write `classification: personal`") as refused:
        spec("sales")
    assert "readings" not in refused.value.what


def test_a_circle_of_uses_is_refused_on_both_sides_and_the_others_go_on(project: Path) -> None:
    mutual = {"kind": "used", "from": "sales.own", "key": {"sale": "reading"}}
    write_project(project, changed_file(READINGS, bought=mutual).replace("internal", "personal"), sql={})
    found = pipelines.load_all()
    assert isinstance(found["sales"], PipelineError) and isinstance(found["readings"], PipelineError)
    assert "sales uses readings uses sales" in found["sales"].what
    assert "readings uses sales uses readings" in found["readings"].what
    assert not isinstance(found["stations"], PipelineError)


def test_a_used_view_is_not_used_again(project: Path) -> None:
    twice = changed_file(STATIONS, again={"kind": "used", "from": "sales.weather", "key": {"nearest": "station"}})
    write_project(project, twice, sql={})
    with pytest.raises(PipelineError, match=r"itself a view of another pipeline; write `from: readings.lately`"):
        spec("stations")


def test_a_column_that_is_known_later_finds_no_value(project: Path) -> None:
    content = yaml.safe_load(SALES)
    content["schema"]["nearest"]["known"] = "shipping"
    content["moments"]["shipping"] = {"column": "sold_at"}
    write_project(project, yaml.safe_dump(content, sort_keys=False), sql={})
    with pytest.raises(PipelineError, match="column 'nearest' is known only from 'shipping'"):
        spec("sales")


def test_a_wrong_expression_over_used_features_is_refused_when_the_files_are_read(project: Path) -> None:
    write_project(project, SALES.replace("weather.celsius_mean_3d", "weather.celsius_mean_9d"), sql={})
    with pytest.raises(PipelineError, match=r"expressions.warmer: .*celsius_mean_9d"):
        spec("sales")


def test_the_catalogue_tells_users_and_lineage_of_used_views() -> None:
    read = ("weather__celsius_mean_1d", "place__zone")
    of = definitions.of_pipeline(spec("sales"))
    champion = ChampionInputs(
        "sales", "4", "s9", "r1", {name: of[name] for name in read}, {"readings": "r7", "stations": "t3"}
    )
    snapshots = {"readings": "r8", "sales": "s9"}
    found = catalogue(pipelines.load_all(), CatalogueFacts("mlops", snapshots, (champion,)))
    source, used = found.named("readings.lately"), found.named("sales.weather")
    assert source and used and source.users and used.users
    assert (source.used_by, used.uses, used.kind) == (("sales.weather",), "readings.lately", "used")
    assert (used.classification, used.key, used.description) == ("personal", {"nearest": "string"}, source.description)
    (mean,) = (feature for feature in used.features if feature.name == "celsius_mean_1d")
    assert mean.columns == mean.sources == ("readings.celsius",)
    (user,), (through,) = used.users, source.users
    assert (user.snapshot, user.through) == ("s9", "")
    assert (through.model, through.snapshot, through.through) == ("sales", "r7", "sales.weather")
    assert through.features == ("celsius_mean_1d",)
    told = "\n".join(feature_lines.lines(source, "r7"))
    assert "sales.weather" in told and "Read by: sales version 4 through sales.weather, 1 of 4 features" in told
    assert "readings.lately" in "\n".join(feature_lines.lines(used, "s9"))


def test_the_check_tells_what_is_used_and_a_source_is_not_removed_under_its_users() -> None:
    told = "\n".join(derivations.all_lines(spec("sales")))
    assert "View 'weather': values of 'readings.lately' (internal); nearest is station" in told
    assert [*facts._readers("readings")] == ["sales (it uses its feature views)"]
