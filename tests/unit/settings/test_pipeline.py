"""Errors in a pipeline file name the file, the path in it and the remedy; reading the file refuses a leak."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import PipelineError
from rempart.settings import pipeline, pipelines, schema
from rempart.settings.config import project_root

SHIPPED = project_root() / "include" / "pipelines" / "hotel_bookings.yaml"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def load_changed(tmp_path: Path) -> Callable[[Change], pipeline.Pipeline]:
    """Load the shipped pipeline after a change to it."""

    def load(change: Change) -> pipeline.Pipeline:
        data = yaml.safe_load(SHIPPED.read_text())
        change(data)
        file = tmp_path / "hotel_bookings.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return pipelines.load(file)

    return load


def test_the_shipped_pipeline_loads() -> None:
    shipped = pipelines.with_model(pipelines.load(SHIPPED))
    inputs = shipped.model_inputs()
    assert "booking__lead_time" in inputs
    assert "agent_trend__avg_price_per_room_mean_90d" in inputs
    assert not [line for line in inputs if "country" in line or line.endswith("__agent")]


def without_model(data: dict[str, Any]) -> None:
    for key in pipeline.MODEL_KEYS:
        data.pop(key, None)
    data["schedules"].pop("train")


def test_a_pipeline_may_end_at_its_snapshot(load_changed: Callable[[Change], pipeline.Pipeline]) -> None:
    feed = load_changed(without_model)
    assert feed.schedules.ingest and not isinstance(feed, pipeline.ModelPipeline)
    with pytest.raises(PipelineError, match="'hotel_bookings' has no model: it ends at its snapshot") as error:
        pipelines.with_model(feed)
    assert "Declare features, prediction, holdout and gate" in error.value.hint


REQUIRED = [key for key in sorted(pipeline.MODEL_KEYS) if pipeline.ModelPipeline.model_fields[key].is_required()]


@pytest.mark.parametrize("key", REQUIRED)
def test_the_keys_of_a_model_stand_together(load_changed: Callable[[Change], pipeline.Pipeline], key: str) -> None:
    with pytest.raises(PipelineError, match=f"{key}: Field required|{key}.*missing|{key}"):
        load_changed(lambda data: data.pop(key))


def test_without_a_model_nothing_trains(load_changed: Callable[[Change], pipeline.Pipeline]) -> None:
    def starts(data: dict[str, Any]) -> None:
        without_model(data)
        data["schedules"] |= {"train": "0 5 * * 0", "monitor": "0 6 * * *"}

    with pytest.raises(PipelineError, match=r"schedules\.train: the pipeline has no model") as told:
        load_changed(starts)
    assert "schedules.monitor: the pipeline has no model" in str(told.value)


LEAKS = [
    "assigned_room_type",
    "booking_changes",
    "days_in_waiting_list",
    "required_car_parking_spaces",
    "total_of_special_requests",
]


@pytest.mark.parametrize("column", LEAKS)
def test_what_is_known_only_after_booking_cannot_be_a_feature_at_booking(
    load_changed: Callable[[Change], pipeline.Pipeline], column: str
) -> None:
    with pytest.raises(PipelineError, match=f"column '{column}' is known only from 'arrival'"):
        load_changed(lambda data: data["features"]["booking"]["columns"].append(column))


def test_a_view_without_a_moment_follows_that_of_the_prediction(
    load_changed: Callable[[Change], pipeline.Pipeline],
) -> None:
    def at_arrival(data: dict[str, Any]) -> None:
        data["prediction"]["at"] = "arrival"
        data["features"]["agent_trend"]["at"] = "booking"
        data["features"]["booking"]["columns"].append("booking_changes")  # known on arrival

    found = load_changed(at_arrival)
    assert isinstance(found, pipeline.ModelPipeline)
    moments = {name: view.at for name, view in found.features.items() if not isinstance(view, pipeline.UsedView)}
    assert moments == {"booking": "arrival", "agent_trend": "booking", "segment_trend": "arrival"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(colour="red"), "colour: unknown key: remove it"),
        (lambda d: d["gate"].update(limits=3), "gate.limits: unknown key"),
        (
            lambda d: d["features"]["booking"].update(column=["adults"]),
            "features.booking.column: unknown key: remove it, or correct its spelling (did you mean columns?)",
        ),
        (
            lambda d: d["features"]["agent_trend"].update(known="arrival"),
            "features.agent_trend.known: unknown key: `known` belongs to a column under `schema`; move it there",
        ),
        (
            lambda d: d["features"]["agent_trend"].update(columns=["adults"]),
            "unknown key: `columns` belongs to `kind: row`; move it there, or remove it; `kind: trailing` takes at, de",
        ),
        (
            lambda d: d["features"]["agent_trend"].update(column=["adults"]),
            "move it there, or remove it; `kind: trailing` takes at, description, by, windows, days, sum, mean,",
        ),
        (
            lambda d: d["source"].update(query="select 1"),
            "source.query: unknown key: `query` belongs to `kind: sql`; move it there, or remove it; `kind: files` tak",
        ),
        (lambda d: d["gate"].update(holdout={}), "gate.holdout: unknown key: `holdout` belongs to the top level of"),
        (
            lambda d: d["moments"]["booking"].update(time_zone="Europe/Paris"),
            "moments.booking.time_zone: unknown key: `time_zone` belongs to `source`; move it there, or remove it",
        ),
        (lambda d: d.pop("key"), "key: required key is missing"),
        (lambda d: d.update(key=[]), "key:"),
        (lambda d: d.update(key=["nope"]), "key: column 'nope' is not in the schema"),
        (lambda d: d.update(partition_by="lead_time"), "partition_by: column 'lead_time' must be date"),
        (lambda d: d.update(classification="secret"), "classification:"),
        (
            lambda d: d["schema"]["adults"].update(known="never"),
            "schema.adults.known: 'never' is not declared under moments",
        ),
        (lambda d: d["schema"].update({"Adults Only": d["schema"]["adults"]}), "use lower case letters"),
        (lambda d: d["schema"]["meal"].pop("values"), "`values` and `type: category` belong together"),
        (lambda d: d["schema"]["adults"].update(type="int"), "schema.adults.type"),
        (
            lambda d: d["expectations"][0].update(column="nope"),
            "expectations, rule 1: column 'nope' is not in the schema",
        ),
        (lambda d: d["expectations"][0].pop("reason"), "expectations, rule 1.reason: required key is missing"),
        (lambda d: d["prediction"].update(target="meal"), "a category column cannot be the target of a regression"),
        (lambda d: d["prediction"].update(target="nope"), "prediction.target: column 'nope' is not in the schema"),
        (lambda d: d["prediction"].update(at="checkout"), "prediction.at: 'checkout' is not declared under moments"),
        (lambda d: d["trainer"].update(seed=2**53), "trainer.seed:"),
        (lambda d: d["gate"].update(metric="accuracy"), "gate.metric: 'accuracy' is not a metric of a regression"),
        (lambda d: d["gate"].update(baseline_by=["arrival_date.moon"]), "'moon' is not a calendar part"),
        (lambda d: d["holdout"].update(last="30d"), "give either `start` (a date) or `last`"),
        (lambda d: d["trainer"].update(use="os:system"), "trainer.use"),
        (lambda d: d["trainer"].update(nodes=0), "trainer.nodes"),
        (lambda d: d["trainer"].update(timeout="soon"), "write a duration as a number and a unit"),
        (lambda d: d["source"].update(prefix="../other/"), "source.prefix"),
        (lambda d: d.update(features={}), "declare at least one view of `kind: row`"),
        (lambda d: d["features"]["booking"].update(kind="magic"), "features.booking"),
        (
            lambda d: d["features"]["booking"]["columns"].append("avg_price_per_room"),
            "cannot be a feature of the same row",
        ),
        (lambda d: d["features"]["agent_trend"].update(at="arrival"), "is later than the moment of the prediction"),
        (lambda d: d["features"]["agent_trend"].update(by=["assigned_room_type"]), "known only from 'arrival'"),
        (
            lambda d: d["gate"].update(baseline_by=["assigned_room_type"]),
            "baseline_by: column 'assigned_room_type' is known only from 'arrival', later than the prediction's moment",
        ),
        (lambda d: d["gate"].update(baseline_by=["avg_price_per_room"]), "gate.baseline_by: the target cannot be what"),
    ],
)
def test_each_fault_names_the_file_the_path_and_the_remedy(
    load_changed: Callable[[Change], pipeline.Pipeline], tmp_path: Path, change: Change, says: str
) -> None:
    with pytest.raises(PipelineError) as error:
        load_changed(change)
    assert says in error.value.what
    assert str(tmp_path / "hotel_bookings.yaml") in error.value.what
    assert "rempart pipeline check hotel_bookings" in error.value.hint


def test_every_fault_is_told_at_once(load_changed: Callable[[Change], pipeline.Pipeline]) -> None:
    def two(data: dict[str, Any]) -> None:
        data.update(colour="red", max_quarantined=7)

    with pytest.raises(PipelineError) as error:
        load_changed(two)
    assert "colour" in error.value.what
    assert "max_quarantined" in error.value.what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b\n", "no mapping"),
        ("a: [1\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("\xff", "schema"),
    ],
)
def test_a_file_that_is_no_pipeline(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(PipelineError) as error:
        pipelines.load(file)
    assert str(file) in error.value.what
    assert says in error.value.what or "not valid YAML" in error.value.what


def test_a_file_must_be_named_after_its_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(SHIPPED.read_text())
    with pytest.raises(PipelineError, match="'hotel_bookings' differs from the name of the file"):
        pipelines.load(file)


def test_a_broken_file_does_not_hide_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "hotel_bookings.yaml").write_text(SHIPPED.read_text())
    (tmp_path / "broken.yaml").write_text("name: broken\n")
    found = pipelines.load_all(tmp_path)
    assert isinstance(found["broken"], PipelineError)
    assert isinstance(found["hotel_bookings"], pipeline.Pipeline)


@pytest.mark.parametrize("kind", ["folder", "link to itself", "pipe"])
def test_what_is_no_regular_file_is_told_and_hides_no_other_pipeline(tmp_path: Path, kind: str) -> None:
    (tmp_path / "hotel_bookings.yaml").write_text(SHIPPED.read_text())
    other = tmp_path / "old.yaml"
    if kind == "folder":
        other.mkdir()
    elif kind == "pipe":
        os.mkfifo(other)
    else:
        other.symlink_to(other)
    loaded = pipelines.load_all(tmp_path)
    assert isinstance(loaded["hotel_bookings"], pipeline.Pipeline)
    with pytest.raises(PipelineError, match=r"old\.yaml does not exist, or is no regular file"):
        raise loaded["old"]  # type: ignore[misc] # an error, or the test fails


def test_a_hidden_file_is_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "hotel_bookings.yaml").write_text(SHIPPED.read_text())
    (tmp_path / ".#hotel_bookings.yaml").symlink_to("anna@desk.4711:1")  # an editor's lock
    assert list(pipelines.load_all(tmp_path)) == ["hotel_bookings"]


def test_a_pipeline_that_was_deleted_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "hotel_bookings.yaml"
    file.write_text(SHIPPED.read_text())
    assert pipelines.load(file).name == "hotel_bookings"
    file.unlink()
    with pytest.raises(PipelineError, match="does not exist"):
        pipelines.load(file)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "A", "x" * 41])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(PipelineError, match="is not a valid name for a pipeline"):
        pipelines.named(name)


def test_moments_are_in_order_of_time() -> None:
    shipped = pipelines.with_model(pipelines.load(SHIPPED))
    assert shipped.known_by("lead_time", "booking")
    assert shipped.known_by("lead_time", "arrival")
    assert not shipped.known_by("assigned_room_type", "booking")


def test_a_pipeline_file_is_read_once_and_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = (pipelines.pipelines_dir() / "hotel_bookings.yaml").read_text(encoding="utf-8")
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(shipped.replace("hotel_bookings", name), encoding="utf-8")
    read: list[str] = []
    real = schema.read_yaml
    monkeypatch.setattr(pipelines, "read_yaml", lambda file, error: read.append(file.stem) or real(file, error))
    first = pipelines.load_all(tmp_path)
    assert pipelines.load_all(tmp_path) == first
    assert read == ["one", "two"]
    (tmp_path / "one.yaml").write_text(shipped.replace("hotel_bookings", "one") + "owner: sales\n", encoding="utf-8")
    again = pipelines.load_all(tmp_path)["one"]
    assert isinstance(again, pipeline.Pipeline) and again.owner == "sales"
    (tmp_path / "two.yaml").unlink()
    assert list(pipelines.load_all(tmp_path)) == ["one"]
    assert read == ["one", "two", "one"]


def test_where_only_some_pipelines_are_wanted_the_others_prefixes_still_count(tmp_path: Path) -> None:
    shipped = (pipelines.pipelines_dir() / "hotel_bookings.yaml").read_text(encoding="utf-8")
    for name in ("one", "two"):
        text = shipped.replace("name: hotel_bookings", f"name: {name}")
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    found = pipelines.load_all(tmp_path, wanted=lambda name: name == "one")
    assert list(found) == ["one"]
    assert "overlaps" in str(found["one"])


def test_a_file_that_is_wrong_below_its_source_still_claims_its_prefix(tmp_path: Path) -> None:
    shipped = (pipelines.pipelines_dir() / "hotel_bookings.yaml").read_text(encoding="utf-8")
    (tmp_path / "hotel_bookings.yaml").write_text(shipped, encoding="utf-8")
    (tmp_path / "torn.yaml").write_text(f"{shipped}\nowner: [\n", encoding="utf-8")
    found = pipelines.load_all(tmp_path)
    assert "is not valid YAML" in str(found["torn"])
    assert "of pipeline 'torn'" in str(found["hotel_bookings"])


@given(st.lists(st.text("ab/", max_size=4), max_size=8))
def test_prefixes_that_overlap_are_those_of_which_one_begins_with_the_other(drawn: list[str]) -> None:
    prefixes = {f"p{number}": prefix for number, prefix in enumerate(drawn)}
    expected: dict[str, set[str]] = {}
    for (name, mine), (other, theirs) in permutations(prefixes.items(), 2):
        if mine.startswith(theirs) or theirs.startswith(mine):
            expected.setdefault(name, set()).add(other)
    assert pipelines.overlaps(prefixes) == expected
