"""Trainers of other packages: the example, installed; two of one name; one that cannot be imported."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rempart.errors import PipelineError, TrainingError
from rempart.flows.training import check_pipeline
from rempart.models import onnx_format
from rempart.models.encoding import encode, features_of
from rempart.training.trainers import packages, trainers
from tests.unit.training import stage

TABLE = stage.table()
FEATURES = features_of(stage.pipeline())
INPUTS = encode(FEATURES, TABLE)
PRICE = TABLE["price"].to_numpy()
USES = {"trainer": {"use": "poisson", "params": {"alpha": 0.1}}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip installed the example; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(stage.project_file("include/trainers/poisson"), folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    tools = {"PYTHONPATH": str(Path(sys.prefix, "tools")), "PIP_CONFIG_FILE": os.devnull}  # the build backend
    subprocess.run([*pip, "--target", folder / "site", source], check=True, env=os.environ | tools)
    return folder / "site"


@pytest.fixture
def on_path(monkeypatch, tmp_path):
    """Put copies of folders on sys.path; what is imported from them is forgotten again."""
    before = set(sys.modules)

    def put(*folders):
        made = [shutil.copytree(folder, tmp_path / str(number)) for number, folder in enumerate(folders)]
        for folder in made:
            monkeypatch.syspath_prepend(folder)
        return made

    yield put
    for name in set(sys.modules) - before:
        if name.startswith("rempart_poisson"):
            del sys.modules[name]
    packages._offers.cache_clear()


def renamed(folder, name):
    """The same package as another distribution."""
    (about,) = folder.glob("rempart_poisson-*.dist-info")
    metadata = about / "METADATA"
    metadata.write_text(metadata.read_text().replace("rempart-poisson", name))
    about.rename(folder / f"{name.replace('-', '_')}-1.0.0.dist-info")


def test_the_example_trains_checks_its_parameters_and_is_offered_in_forms(installed, on_path):
    on_path(installed)
    trained = trainers.train("poisson", INPUTS, PRICE, {"alpha": 0.1}, 0, "regression", INPUTS, 0)
    predicted = onnx_format.run(onnx_format.open_session(trained.body), INPUTS, "regression", 0)
    assert trained.largest_difference < 0.1 and predicted.min() > 0 and np.mean(abs(predicted - PRICE)) < 8
    assert trainers.params_schema("poisson", "regression")["properties"].keys() == {"alpha", "leave_out"}
    check_pipeline.check(stage.pipeline(**USES), thorough=False)
    for params, task, message in (
        ({"beta": 1}, "regression", "poisson has no parameter 'beta'"),
        ({}, "classification", "poisson is for a regression"),
        ({"alpha": "much"}, "regression", "package rempart-poisson 1.0.0: its check raised TypeError"),
    ):
        with pytest.raises(TrainingError, match=message):
            trainers.check("poisson", params, task)
    with pytest.raises(TrainingError, match="poisson trains on one node"):
        trainers.check("poisson", {}, "regression", nodes=2)


def test_a_job_is_another_one_when_a_file_of_the_package_changes(installed, on_path):
    (folder,) = on_path(installed)
    before = trainers.code_version("poisson")
    assert trainers.code_version("poisson") == before
    (folder / "__pycache__").mkdir(exist_ok=True)
    assert trainers.code_version("poisson") == before, "what Python compiles is no code of the package"
    with (folder / "rempart_poisson.py").open("a") as module:
        module.write("# another line\n")
    assert trainers.code_version("poisson") != before


def test_a_package_that_is_not_whole_is_named(installed, on_path):
    (folder,) = on_path(installed)
    (metadata,) = folder.glob("*.dist-info/METADATA")
    whole = metadata.read_text()
    metadata.write_text(whole.replace("Requires-Dist: skl2onnx", "Requires-Dist: absent-here"))
    with pytest.raises(TrainingError, match=r"rempart-poisson 1.0.0 requires absent-here, which is not installed"):
        trainers.code_version("poisson")
    metadata.write_text(whole)
    (wheel,) = folder.glob("*.dist-info/WHEEL")
    wheel.unlink()
    wheel.mkdir()  # some versions of Python leave out a file that is not there at all
    with pytest.raises(TrainingError, match=r"lacks its file .*WHEEL"):
        trainers.code_version("poisson")


def test_two_packages_with_one_name_are_refused_by_name(installed, on_path):
    first, _ = on_path(installed, installed)
    renamed(first, "other-poisson")
    with pytest.raises(PipelineError, match=r"2 packages offer .* 'poisson': other-poisson 1.0.0 and rempart-poisson"):
        check_pipeline.check(stage.pipeline(**USES), thorough=False)
    with pytest.raises(TrainingError, match="2 packages offer"):
        trainers.code_version("poisson")


def test_a_package_that_offers_the_name_of_a_built_in_trainer_is_refused(installed, on_path):
    (folder,) = on_path(installed)
    (points,) = folder.glob("*.dist-info/entry_points.txt")
    points.write_text(points.read_text().replace("poisson =", "lightgbm ="))
    with pytest.raises(TrainingError, match=r"'lightgbm' is built in, but rempart-poisson 1.0.0 offers the same name"):
        trainers.check("lightgbm", {}, "regression")
    trainers.check("xgboost", {}, "regression")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import absent_here", "cannot be imported: no module 'absent_here'"),
        ("raise ValueError('secret')", "cannot be imported: it raised ValueError"),
        ("def fit(): ...", "has no function 'schema'"),
    ],
)
def test_a_package_that_cannot_be_used_is_named_without_its_message(installed, on_path, code, message):
    (folder,) = on_path(installed)
    (folder / "rempart_poisson.py").write_text(code)
    with pytest.raises(PipelineError, match=message) as refused:
        check_pipeline.check(stage.pipeline(**USES), thorough=False)
    assert "rempart-poisson 1.0.0" in refused.value.what and "secret" not in refused.value.what


def test_an_editable_installation_is_refused_since_its_code_is_not_hashed(installed, on_path, tmp_path, monkeypatch):
    (folder,) = on_path(installed)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "rempart_poisson.py").rename(elsewhere / "rempart_poisson.py")
    monkeypatch.syspath_prepend(elsewhere)
    importlib.invalidate_caches()
    with pytest.raises(TrainingError, match="is not among its installed files"):
        trainers.code_version("poisson")


def test_without_the_package_the_trainer_does_not_exist():
    with pytest.raises(TrainingError, match="trainer 'poisson' does not exist"):
        trainers.check("poisson", {}, "regression")
