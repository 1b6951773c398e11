"""Jobs whose processes are killed half way, on a real site and MLflow: they continue, and give the same model."""

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from rempart.settings import sections
from rempart.settings.config import connection_text
from rempart.training.attempts.checkpoints import FOLDER, MANIFEST
from rempart.training.job import JobSpec, parse_result
from tests.unit.training import stage

pytestmark = [pytest.mark.tracking, pytest.mark.full]
TRAINER = stage.project_file(".venv-trainer/bin/python")
JOBS = {
    "gradient_boosting": (sys.executable, {"params": {"max_iter": 200}}),
    "tabular_network": (
        str(TRAINER),
        {"use": "tabular_network", "params": {"epochs": 25, "batch_size": 64}, "seed": 3},
    ),
}


class Job:
    """One order; each attempt is a process, which gets the order and its connections by environment variables."""

    def __init__(self, platform, site, spec: JobSpec, python: str) -> None:
        self.platform, self.site, self.spec, self.python = platform, site, spec, python

    def start(self, every="0") -> subprocess.Popen:
        names = {self.spec.dataset.site.connection, self.spec.output.site.connection, self.spec.tracking.connection}
        given = {f"AIRFLOW_CONN_{name.upper()}": connection_text(self.platform.connections(name)) for name in names}
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "MLFLOW"))}
        return subprocess.Popen(
            [self.python, "-m", "rempart.training.entrypoint", "--spec", "env:ORDER", "--checkpoint-every", every],
            env={**environment, **given, "ORDER": self.spec.to_json().decode()},
            stdout=subprocess.PIPE,
            text=True,
        )

    def stopped(self, number: int, at: int) -> tuple[int, list[dict], float]:
        """Exit status and lines of an attempt that gets a signal once it told of a step; seconds that it still took."""
        process, lines = self.start(), []
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["stage"] == "progress" and lines[-1]["step"] >= at:
                break
        began = time.monotonic()
        process.send_signal(number)
        rest, _ = process.communicate(timeout=240)
        return process.returncode, [*lines, *map(json.loads, rest.splitlines())], time.monotonic() - began

    def finished(self):
        process = self.start()
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out[-2000:]
        result = parse_result(self.read("result.json"), self.spec.job_id)
        model = self.read("model.onnx")
        assert hashlib.sha256(model).hexdigest() == result.files["model.onnx"]
        return result, model, [json.loads(line) for line in out.splitlines()]

    def read(self, name: str) -> bytes:
        return self.site.read(self.spec.output.bucket, self.spec.key(name))

    def left(self):
        return [info.key for info in self.site.list(self.spec.output.bucket, self.spec.key("checkpoint"))]


@pytest.fixture(params=list(JOBS))
def jobs(request, platform):
    """The same order twice, with other places for its files: one to be left alone, one to be disturbed."""
    python, trainer = JOBS[request.param]
    if request.param == "tabular_network" and not TRAINER.is_file():
        pytest.skip("there is no .venv-trainer: `make setup-trainer` creates it")
    mark = f"stop-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts")
    site = platform.active_site("personal")
    for bucket in (buckets.lake, buckets.artifacts):
        site.ensure_bucket(bucket, versioned=True)
    own = stage.platform_in_memory(platform.config.model_copy(update={"buckets": buckets}), platform.connections)
    own.sites["primary"] = site
    spec = stage.ordered(own, stage.pipeline(mark.replace("-", "_"), trainer=trainer), stage.table())
    yield [
        Job(
            platform,
            site,
            spec.model_copy(update={"output": spec.output.model_copy(update={"prefix": f"{prefix}/"})}),
            python,
        )
        for prefix in ("whole", "disturbed")
    ]
    for bucket in (buckets.lake, buckets.artifacts):
        site.drop_bucket(bucket)


def test_ended_by_sigterm_and_then_killed_it_goes_on_and_gives_the_same_model(jobs):
    whole, disturbed = jobs
    undisturbed, model, lines = whole.finished()
    steps = undisturbed.work.steps
    assert undisturbed.work.done_here == undisturbed.work.total_over_attempts == steps and whole.left() == []
    told = [line for line in lines if line["stage"] == "progress"]
    assert len(told) > 1 and all({"step", "steps", "loss", "seconds_left"} <= set(progress) for progress in told[:-1])

    status, lines, seconds = disturbed.stopped(signal.SIGTERM, steps // 2)
    assert status == 143 and lines[-1]["stage"] == "interrupted"
    assert lines[-1]["saved_step"] == lines[-1]["step"] >= steps // 2 and lines[-1]["in_time"]
    saved = lines[-1]["saved_step"]

    status, lines, _ = disturbed.stopped(signal.SIGKILL, saved + steps // 8)
    assert status == -signal.SIGKILL and {"stage": "resumed", "step": saved} in [
        {"stage": line["stage"], "step": line.get("step")} for line in lines
    ]
    seen = lines[-1]["step"]
    assert json.loads(disturbed.read(MANIFEST))["kept"][0]["step"] >= seen - 1

    result, same, _ = disturbed.finished()
    assert same == model and result.files["model.onnx"] == undisturbed.files["model.onnx"]
    assert result.work.resumed_from >= seen - 1 and result.work.total_over_attempts <= 1.2 * steps
    assert result.made_with == undisturbed.made_with and disturbed.left() == []
    print(f"{steps} steps; over three attempts {result.work.total_over_attempts}; SIGTERM took {seconds:.1f} s")


@pytest.mark.parametrize("jobs", ["gradient_boosting"], indirect=True)  # checkpoints are files of one kind
def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(jobs):
    _, disturbed = jobs
    disturbed.stopped(signal.SIGTERM, 3)
    newest, before = json.loads(disturbed.read(MANIFEST))["kept"]
    name = f"{FOLDER}{newest['step']}-{newest['sha256'][:12]}.npz"
    disturbed.site.write(disturbed.spec.output.bucket, disturbed.spec.key(name), b"torn")
    result, _, lines = disturbed.finished()
    assert result.work.resumed_from == before["step"]
    assert [line["step"] for line in lines if line["stage"] == "checkpoint not usable"] == [newest["step"]]
