"""The job without MLflow: finished training is not lost, and no value of the data is printed."""

import contextlib
import io
import json
import socket

import pyarrow as pa
import pytest
from urllib3.util import Retry

from rempart import canonical_json
from rempart.errors import ErasedMeanwhile, IntegrityError, TrackingUnavailable, TrainingError
from rempart.flows.training import train
from rempart.flows.training.labelled import held_out_from, split
from rempart.flows.training.train import train_on
from rempart.ingestion import snapshots
from rempart.settings.config import Connection, load
from rempart.training import datasets, entrypoint
from rempart.training.job import PYTHON, parse_spec
from tests.unit.training import stage


def nowhere(name):
    """A connection to a port where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Connection(name, "http", "127.0.0.1", free.getsockname()[1], schema="http")


@pytest.fixture(scope="module", autouse=True)
def no_pauses():
    """MLflow's client asks again at once: nothing comes up meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retry, "sleep", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def order(no_pauses):
    """A job that trained while MLflow was down: (platform, backend, spec)."""
    platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
    backend = stage.InProcess(platform.sites["primary"], nowhere)
    with pytest.raises(TrackingUnavailable, match="Finished training is not lost"):
        train_on(platform, stage.pipeline(), stage.table(), "s1", backend=backend)
    site = platform.sites["primary"]
    key = next(info.key for info in site.list("artifacts") if info.key.endswith("spec.json"))
    return platform, backend, parse_spec(site.read("artifacts", key))


@pytest.mark.fault("T7")
def test_what_was_trained_is_at_the_site_before_mlflow_is_asked(order):
    platform, _, spec = order
    names = {info.key.removeprefix(spec.key("")) for info in platform.sites["primary"].list("artifacts")}
    assert {"spec.json", "model.onnx", "features.json", "metrics.json"} <= names
    assert "result.json" not in names
    assert platform.ledger.find("candidate") == []


@pytest.mark.full
@pytest.mark.fault("T7")
def test_a_second_attempt_only_logs(order):
    platform, backend, spec = order
    before = platform.sites["primary"].read("artifacts", spec.key("model.onnx"))
    backend.lines.clear()
    with pytest.raises(TrackingUnavailable):
        backend.run(spec)
    assert any(line.startswith("trained before") for line in backend.lines)
    assert not any(line.startswith("training ") for line in backend.lines)
    assert platform.sites["primary"].read("artifacts", spec.key("model.onnx")) == before


@pytest.mark.full
def test_outputs_that_were_altered_are_trained_again(order):
    platform, backend, spec = order
    site = platform.sites["primary"]
    before = site.read("artifacts", spec.key("model.onnx"))
    site.write("artifacts", spec.key("model.onnx"), b"something else")
    with pytest.raises(TrackingUnavailable):
        backend.run(spec)
    assert site.read("artifacts", spec.key("model.onnx")) == before


@pytest.mark.parametrize("body", [b"{}", b"[]", b"[" * 100_000, b'{"files": 3}', b'{"files": {}, "validation": 1}'])
def test_a_record_of_outputs_that_cannot_be_read_is_no_record(order, body):
    platform, _, spec = order
    site = platform.sites["primary"]
    before = site.read("artifacts", spec.key("metrics.json"))
    assert entrypoint._trained_before(spec, site) is not None
    site.write("artifacts", spec.key("metrics.json"), body)
    try:
        assert entrypoint._trained_before(spec, site) is None
    finally:
        site.write("artifacts", spec.key("metrics.json"), before)


@pytest.mark.parametrize(
    "other",
    [
        {"metrics": 3},
        {"metrics": {"train_mae": "low"}},
        {"rows": None},
        {"seconds": []},
        {"made_with": 1},
        {"files": {}},
        {"files": {"model.onnx": 3}},
    ],
)
def test_a_record_of_outputs_with_another_part_is_no_record(order, other):
    platform, _, spec = order
    site, key = platform.sites["primary"], spec.key("metrics.json")
    before = site.read("artifacts", key)
    site.write("artifacts", key, canonical_json.encode(json.loads(before) | other))
    try:
        assert entrypoint._trained_before(spec, site) is None
    finally:
        site.write("artifacts", key, before)


def test_a_personal_value_is_in_the_lake_and_nowhere_else(order):  # S2
    platform, backend, _ = order
    site = platform.sites["primary"]
    assert all(stage.CANARY.encode() not in site.read("artifacts", info.key) for info in site.list("artifacts"))
    assert stage.CANARY not in "\n".join(backend.lines)
    sets = [datasets.decoded(site.read("lake", found.key)) for found in site.list("lake", "training/")]
    assert len(sets) == 2 and all(stage.CANARY in rows["agent"].to_pylist() for rows in sets)


def test_a_job_needs_no_held_out_row_and_measures_only_rows_that_it_learned_from(order):
    platform, _, spec = order
    other = stage.memory_site()
    other.write("lake", spec.dataset.key, platform.sites["primary"].read("lake", spec.dataset.key))
    backend = stage.InProcess(other, nowhere)
    with pytest.raises(TrackingUnavailable):
        backend.run(spec)
    assert any(line.startswith("trained ") for line in backend.lines)
    facts = json.loads(other.read("artifacts", spec.key("metrics.json")))
    assert {name.split("_")[0] for name in facts["metrics"]} == {"train", "onnx"}
    assert facts["rows"] == spec.dataset.rows < stage.table().num_rows


def test_a_dataset_that_differs_from_the_order_is_refused(order):
    platform, _, spec = order
    other = stage.platform_in_memory(platform.config, nowhere)
    other.sites["primary"].write("lake", spec.dataset.key, b"another file")
    with pytest.raises(IntegrityError):
        entrypoint.run_job(spec, stage.InProcess(other.sites["primary"], nowhere).world)


def test_a_job_for_other_code_is_refused(order):
    _, backend, spec = order
    old = parse_spec(spec.model_copy(update={"code_version": "0", "job_id": ""}).to_json())
    with pytest.raises(TrainingError, match="ordered for code 0"):
        entrypoint.run_job(old, backend.world)


def test_a_job_for_other_code_names_both_pythons_where_they_differ(order):
    _, backend, spec = order
    other = {"code_version": "0", "job_id": "", "python": "3.99"}
    with pytest.raises(TrainingError) as refused:
        entrypoint.run_job(parse_spec(spec.model_copy(update=other).to_json()), backend.world)
    assert "by Python 3.99" in refused.value.what and f"on Python {PYTHON}" in refused.value.what
    assert "BASE_IMAGE" in refused.value.hint and "Python 3.99" in refused.value.hint
    same = parse_spec(spec.model_copy(update={"code_version": "0", "job_id": ""}).to_json())
    with pytest.raises(TrainingError) as refused:
        entrypoint.run_job(same, backend.world)
    assert "Python" not in refused.value.what + refused.value.hint


@pytest.mark.full
def test_the_same_code_on_another_python_is_the_same_job(order):
    _, backend, spec = order
    with pytest.raises(TrackingUnavailable):  # it gets as far as the one that ordered it
        entrypoint.run_job(spec.model_copy(update={"python": "3.99"}), backend.world)


def test_the_command_refuses_a_bad_spec_in_one_json_line(tmp_path):
    file = tmp_path / "spec.json"
    file.write_text('{"version": 1}')
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert entrypoint.main(["--spec", str(file)]) == 1
    assert json.loads(out.getvalue())["error"] == "TrainingError"


def test_the_holdout_is_by_start_or_counts_back_from_the_newest_date():
    table, fixed = stage.table(), stage.pipeline(holdout={"column": "arrival", "start": "2026-06-01"})
    newest = max(table["arrival"].to_pylist())
    assert (newest - held_out_from(stage.pipeline(), newest)).days == 60
    rows = split(fixed, table)
    train, holdout = rows.learn, rows.held_out
    assert train.num_rows + holdout.num_rows == table.num_rows
    assert (
        max(train["arrival"].to_pylist()).isoformat() < "2026-06-01" <= min(holdout["arrival"].to_pylist()).isoformat()
    )
    assert datasets.encoded(split(fixed, table).learn) == datasets.encoded(train)


def test_held_out_rows_are_the_same_examples_with_fewer_features_and_others_with_another_target():
    platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
    made, rows = stage.pipeline(), stage.table()
    every, fewer, other = (
        stage.ordered(platform, made, table).dataset
        for table in (
            rows,
            rows.set_column(rows.column_names.index("stay__lead"), "stay__lead", pa.array([0] * rows.num_rows)),
            rows.set_column(rows.column_names.index("price"), "price", pa.array([1.5] * rows.num_rows)),
        )
    )
    assert every.held_out != fewer.held_out and every.examples == fewer.examples != other.examples


def test_an_empty_side_of_the_split_is_an_error():
    with pytest.raises(TrainingError, match="leaves 0 training rows"):
        split(stage.pipeline(holdout={"column": "arrival", "start": "2020-01-01"}), stage.table())


def test_parameters_are_refused_before_anything_is_written():
    platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
    with pytest.raises(TrainingError, match="no parameter 'depth'"):
        train_on(platform, stage.pipeline(), stage.table(), "s1", params={"depth": 3})
    assert list(platform.sites["primary"].list("lake")) == []


@pytest.mark.parametrize("seen", ["before the training set is stored", "after"])
@pytest.mark.parametrize("of", ["stays_test", "weather"])
def test_a_training_set_of_rows_that_were_erased_meanwhile_gives_no_job(monkeypatch, seen, of):
    platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
    lake, site = platform.config.buckets.lake, platform.sites["primary"]
    name = {"stays_test": "s1", "weather": "w1"}[of]
    keys = [f"{snapshots.folder(of)}{snapshot}.json" for snapshot in (name, "later")]
    successor = {"bucket": lake, "key": keys[0], "sha256": "a" * 64, "to": keys[1], "to_sha256": "b" * 64}

    def erased() -> None:
        platform.ledger.append("erasure", of, {"state": "rewritten", "successors": [successor]})

    if seen == "after":
        store = train._store
        monkeypatch.setattr(train, "_store", lambda *given: (store(*given), erased())[0])
    else:
        erased()
    with pytest.raises(ErasedMeanwhile, match=f"Rows of '{of}', or of an input of it, were erased"):
        train_on(platform, stage.pipeline(), stage.table(), "s1", used={"weather": "w1"}, backend=stage.Captures())
    assert list(site.list("artifacts")) == [] and (seen == "after" or list(site.list(lake)) == [])
