"""An interrupted job continues: the same model, little work done twice. MLflow is not used here."""

import pytest

from rempart.errors import SiteUnavailable, TrainingError
from rempart.settings.config import load
from rempart.training import entrypoint, experiment
from rempart.training.attempts import checkpoints
from rempart.training.attempts.interruption import Interrupted, Interruption
from rempart.training.entrypoint import World, run_job
from tests.unit.training import stage
from tests.unit.training.at_step import AtStep
from tests.unit.training.test_entrypoint import nowhere

STEPS = 40
CUSTOM = next(
    block
    for block in stage.project_file("docs/how-to/custom-trainer.md").read_text().split("```python\n")[1:]
    if "run.resume" in block
).split("```")[0]
"""The guide's example of a trainer with checkpoints."""


class Killed(BaseException):
    """The process ended here."""


class Job:
    """One order, and attempts at it."""

    def __init__(self, pipeline, table=None) -> None:
        self.platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
        self.site = self.platform.sites["primary"]
        self.spec = stage.ordered(self.platform, pipeline, table or stage.table())
        self.lines = []

    def attempt(self, interruption=None, every=30.0, killed_at=None):
        def note(stage_, **facts):
            self.lines.append((stage_, facts))

        world = World(
            lambda _: self.site, nowhere, note, checkpoint_every=every, interruption=interruption or Interruption()
        )
        if killed_at is not None:
            world.interruption.await_step = lambda: killing(world.interruption, killed_at)
        return run_job(self.spec, world)

    def names(self):
        return {info.key.removeprefix(self.spec.key("")) for info in self.site.list("artifacts", self.spec.key(""))}

    def model(self):
        return self.site.read("artifacts", self.spec.key("model.onnx"))


def killing(interruption, step):
    if interruption.facts.get("step", 0) >= step:
        raise Killed


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch):
    def log(tracking, spec, features, metrics, files):
        import hashlib

        hashes = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
        return experiment.Logged("run", "m-1", hashes)

    monkeypatch.setattr(experiment, "log", log)


OTHERS = {
    "xgboost": {"num_boost_round": STEPS},
    "lightgbm": {"num_iterations": STEPS, "feature_fraction": 0.5, "min_data_in_leaf": 3},
}


@pytest.fixture(params=["trees", "classes", "own", *OTHERS])
def pipeline(request, tmp_path, monkeypatch):
    if request.param in OTHERS:
        return stage.pipeline(trainer={"use": request.param, "params": OTHERS[request.param]})
    if request.param == "classes":
        return stage.pipeline(task="classification", trainer={"params": {"max_iter": STEPS, "max_features": 0.5}})
    if request.param == "trees":
        return stage.pipeline(trainer={"params": {"max_iter": STEPS, "max_features": 0.5}})
    (tmp_path / "include" / "trainers").mkdir(parents=True)
    (tmp_path / "include" / "trainers" / "mine.py").write_text(CUSTOM)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return stage.pipeline(trainer={"use": "include/trainers/mine.py:fit"})


@pytest.fixture
def whole(pipeline):
    """The model and work of an attempt that nothing disturbed."""
    job = Job(pipeline)
    result = job.attempt()
    assert (
        "checkpoint" not in " ".join(job.names()) and result.work.done_here == result.work.total_over_attempts == STEPS
    )
    return job.model()


@pytest.mark.parametrize("every", [0.0, 1000.0])
def test_asked_to_end_half_way_it_goes_on_and_gives_the_same_model(pipeline, whole, every):
    job = Job(pipeline)
    with pytest.raises(Interrupted):
        job.attempt(AtStep(STEPS // 2), every)
    assert checkpoints.MANIFEST in job.names() and "result.json" not in job.names()
    result = job.attempt(every=every)
    work = result.work
    assert job.model() == whole
    assert work.resumed_from == STEPS // 2 and work.steps == STEPS
    assert work.total_over_attempts <= 1.2 * STEPS and work.done_here <= STEPS - work.resumed_from + 1
    assert ("resumed", {"step": work.resumed_from, "done_before": work.resumed_from}) in job.lines
    assert not any("checkpoint" in name for name in job.names())


def test_killed_at_any_moment_it_loses_what_came_after_the_last_checkpoint(pipeline, whole):
    job = Job(pipeline)
    for moment in (7, 18, 19, 33):
        with pytest.raises(Killed):
            job.attempt(every=0.0, killed_at=moment)
    result = job.attempt(every=0.0)
    assert job.model() == whole and result.work.resumed_from == 32
    assert result.work.total_over_attempts <= 1.2 * STEPS


def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(pipeline, whole):
    job = Job(pipeline)
    with pytest.raises(Interrupted):
        job.attempt(AtStep(20), every=0.0)
    newest = next(name for name in job.names() if name.startswith("checkpoint/20-"))
    job.site.write("artifacts", job.spec.key(newest), b"torn")
    result = job.attempt(every=0.0)
    assert ("checkpoint not usable", {"name": newest, "step": 20}) in job.lines
    assert result.work.resumed_from == 19 and job.model() == whole


def test_a_checkpoint_of_another_job_is_refused(pipeline):
    job = Job(pipeline)
    other = checkpoints.Manifest("another", 5, ())
    job.site.write("artifacts", job.spec.key(checkpoints.MANIFEST), other.to_json())
    with pytest.raises(TrainingError, match="belongs to job another"):
        job.attempt()


def test_what_was_trained_before_is_no_work_of_this_attempt(monkeypatch):
    job = Job(stage.pipeline(trainer={"params": {"max_iter": STEPS}}))
    job.attempt()
    job.site.delete("artifacts", job.spec.key("result.json"))
    work = job.attempt().work
    assert (work.steps, work.done_here, work.resumed_from, work.total_over_attempts) == (STEPS, 0, STEPS, STEPS)


def test_a_site_that_does_not_answer_costs_a_checkpoint_and_no_training(monkeypatch):
    job = Job(stage.pipeline(trainer={"params": {"max_iter": STEPS}}))

    def save(*_):
        raise SiteUnavailable("no answer", "Retry.")

    monkeypatch.setattr(checkpoints.Checkpoints, "save", save)
    assert job.attempt(every=0.0).work.steps == STEPS
    assert any(stage_ == "checkpoint not stored" for stage_, _ in job.lines)


def test_progress_tells_step_loss_and_time_left_at_most_once_a_second_and_no_value_of_the_data():
    job = Job(stage.pipeline(trainer={"params": {"max_iter": STEPS}}))
    job.attempt(every=0.0)
    told = [facts for stage_, facts in job.lines if stage_ == "progress"]
    assert 2 <= len(told) < STEPS and told[-1]["step"] == told[-1]["steps"] == STEPS
    assert all({"step", "steps", "loss", "seconds_left"} == set(facts) for facts in told[:-1])
    assert told[-1]["seconds_left"] == 0


def test_a_spec_is_read_from_the_environment(monkeypatch):
    job = Job(stage.pipeline())
    monkeypatch.setenv("REMPART_JOB", job.spec.to_json().decode())
    assert entrypoint.read_spec("env:REMPART_JOB") == job.spec
    with pytest.raises(TrainingError, match="the environment variable NOT_THERE is not set"):
        entrypoint.read_spec("env:NOT_THERE")
    with pytest.raises(TrainingError, match="read the job spec"):
        entrypoint.read_spec("/nowhere/spec.json")
