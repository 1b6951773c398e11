"""A job on several nodes: real processes in the trainer's environment that sum gradients over real connections.

Whatever happens to one of them, all end with one status, and the next attempt gives the same model.
"""

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from rempart.settings.config import Connection, load
from rempart.training.backends import LocalBackend, places
from rempart.training.job import JobSpec
from rempart.training.trainers import trainers
from tests.unit.training import stage
from tests.unit.training.node import FolderSite
from tests.unit.training.test_entrypoint import nowhere

TRAINER = stage.project_file(".venv-trainer/bin/python")
NODE = stage.project_file("tests/unit/training/node.py")
STEPS = 60
AT = 23
"""The step after which a node is disturbed."""

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not TRAINER.is_file(), reason="there is no .venv-trainer: `make setup-trainer` makes it"),
]


@dataclass
class EndedNode:
    """A node's exit status, and its lines."""

    status: int
    lines: list[dict]

    def message(self, stage_: str) -> dict:
        return next(line for line in self.lines if line["stage"] == stage_)


class Job:
    """An order for several nodes at a site in a folder, and attempts at it."""

    def __init__(
        self, folder: Path, order: JobSpec, dataset: bytes, *, nodes: int, trainer=None, processes=1, **params
    ) -> None:
        made = {"epochs": 5, "batch_size": 40, "hidden": "16,8", "device": "cpu"} | params
        trainer = trainer or {"use": "tabular_network", "params": made, "seed": 7}
        data = order.model_dump() | {"nodes": nodes, "processes": processes, "trainer": trainer, "job_id": ""}
        self.spec, self.folder, self.site = JobSpec.model_validate(data), folder, FolderSite(folder)
        self.site.write(order.dataset.bucket, order.dataset.key, dataset)

    def train(self):
        """As the local backend does it."""

        def connection(name):
            return Connection(name, "aws", password="-")

        command = (str(TRAINER), str(NODE), str(self.folder))
        backend = LocalBackend(self.site, connection, timedelta(minutes=4), command)
        return backend.run(self.spec)

    def attempt(self, *ranks: int, of: int | None = None, **variables) -> list[EndedNode]:
        """A process for each place among as many nodes as the order's, or as are said; or for some ranks only."""
        (self.folder / "spec.json").write_bytes(self.spec.to_json())
        command = [TRAINER, NODE, self.folder, "--spec", self.folder / "spec.json"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
        given = {name: str(value) for name, value in variables.items()}
        with places(of or self.spec.nodes) as each:
            processes = [
                subprocess.Popen(
                    command, env=kept | place.variables | given, stdout=subprocess.PIPE, pass_fds=place.sockets
                )
                for rank, place in enumerate(each)
                if not ranks or rank in ranks
            ]
        if variables.get("DISTURBED_BY") == signal.SIGSTOP:  # it is gone without a word: nobody closes its connections
            outs = [processes[0].communicate(timeout=400)[0]]
            processes[1].kill()
            outs.append(processes[1].communicate()[0])
        else:
            outs = [process.communicate(timeout=400)[0] for process in processes]
        print(b"".join(outs).decode())
        return [
            EndedNode(process.returncode, [json.loads(line) for line in out.splitlines()])
            for process, out in zip(processes, outs, strict=True)
        ]

    def names(self):
        prefix = self.spec.key("")
        return {info.key.removeprefix(prefix) for info in self.site.list("artifacts", prefix)}

    def model(self) -> bytes:
        return self.site.read("artifacts", self.spec.key("model.onnx"))

    def weights(self) -> list[np.ndarray]:
        import onnx
        from onnx import numpy_helper

        return [
            numpy_helper.to_array(initializer) for initializer in onnx.load_from_string(self.model()).graph.initializer
        ]


@pytest.fixture(scope="module")
def order():
    """The order for a job, and its training set."""
    platform = stage.platform_in_memory(load(stage.project_file("rempart.yaml")), nowhere)
    made = stage.pipeline(trainer={"use": "tabular_network", "nodes": 2})
    spec = stage.ordered(platform, made, stage.table())
    assert spec.nodes == 2
    return spec, platform.sites["primary"].read(spec.dataset.bucket, spec.dataset.key)


@pytest.fixture(scope="module")
def whole(order, tmp_path_factory):
    """The job of two nodes that nothing disturbs."""
    job = Job(tmp_path_factory.mktemp("whole"), *order, nodes=2)
    result = job.train()
    assert result.work.steps == result.work.done_here == STEPS
    assert result.made_with["nodes"] == "2" and result.made_with["summed_by"] == "gloo"
    assert not any("checkpoint" in name for name in job.names())
    return job.model(), job.weights()


def test_two_nodes_learn_what_one_learns_from_the_same_batches(order, whole, tmp_path):
    alone = Job(tmp_path, *order, nodes=1)
    result = alone.train()
    assert result.work.steps == STEPS and "nodes" not in result.made_with
    for weight, two in zip(alone.weights(), whole[1], strict=True):
        np.testing.assert_allclose(two, weight, rtol=1e-4, atol=2e-5)


def test_two_processes_on_one_node_end_together_and_make_the_model_of_two_nodes(order, whole, tmp_path):
    job = Job(tmp_path, *order, nodes=1, processes=2)
    (ended,) = job.attempt(DISTURBED_NODE=0, DISTURBED_AT=AT, DISTURBED_BY=int(signal.SIGTERM), OF_PARENT=1)
    message = {line["node"]: line for line in ended.lines if line["stage"] == "interrupted"}
    assert ended.status == 143 and message[0]["saved_step"] == message[0]["step"] == message[1]["step"] >= AT
    result = job.train()
    assert job.model() == whole[0] and result.work.resumed_from == message[0]["saved_step"]
    assert result.made_with["nodes"] == "2" and result.seconds["wait_for_data"] < result.seconds["train"]


def test_so_do_three_with_shares_of_two_rows_one_or_none(order, tmp_path):
    jobs = [Job(tmp_path / str(nodes), *order, nodes=nodes, batch_size=5, epochs=1) for nodes in (1, 3)]
    for job in jobs:
        job.train()
    assert jobs[0].spec.job_id != jobs[1].spec.job_id
    for two, three in zip(*(job.weights() for job in jobs), strict=True):
        np.testing.assert_allclose(three, two, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("disturbed", [0, 1])
def test_asked_to_end_at_any_node_all_end_at_the_same_step_and_go_on_from_it(order, whole, tmp_path, disturbed):
    job = Job(tmp_path, *order, nodes=2)
    ended = job.attempt(DISTURBED_NODE=disturbed, DISTURBED_AT=AT, DISTURBED_BY=int(signal.SIGTERM))
    assert [process.status for process in ended] == [143, 143]
    message = [process.message("interrupted") for process in ended]
    assert all(progress["step"] == AT and progress["in_time"] and "why" not in progress for progress in message)
    assert ended[0].message("interrupted")["saved_step"] == AT and "result.json" not in job.names()
    if disturbed == 0:
        return
    result = job.train()
    assert job.model() == whole[0]
    assert (result.work.resumed_from, result.work.total_over_attempts) == (AT, STEPS)


def test_a_node_that_is_killed_ends_the_others_at_once_and_costs_no_step(order, whole, tmp_path):
    job = Job(tmp_path, *order, nodes=2)
    ended = job.attempt(
        DISTURBED_NODE=1, DISTURBED_AT=AT, DISTURBED_BY=int(signal.SIGKILL), PEER_SECONDS=600
    )  # far longer than this test waits
    assert [process.status for process in ended] == [143, -9]
    assert "another node" in ended[0].message("interrupted")["why"]
    assert ended[0].message("interrupted")["saved_step"] == AT
    result = job.train()
    assert job.model() == whole[0] and result.work.resumed_from == AT


def test_the_first_node_killed_ends_the_others(order, tmp_path):
    job = Job(tmp_path, *order, nodes=2)
    ended = job.attempt(DISTURBED_NODE=0, DISTURBED_AT=AT, DISTURBED_BY=int(signal.SIGKILL))
    assert [process.status for process in ended] == [-9, 143] and "another node" in ended[1].message("interrupted")[
        "why"
    ]


def test_a_node_that_falls_silent_is_given_up_after_a_while(order, tmp_path):
    job = Job(tmp_path, *order, nodes=2)
    ended = job.attempt(DISTURBED_NODE=1, DISTURBED_AT=AT, DISTURBED_BY=signal.SIGSTOP.value, PEER_SECONDS=20)
    assert ended[0].status == 143 and ended[0].message("interrupted")["saved_step"] == AT


@pytest.mark.parametrize("corrupt", [0, 1])
def test_a_node_that_fails_fails_all_and_each_says_why(order, tmp_path, corrupt):
    ended = Job(tmp_path, *order, nodes=2).attempt(CORRUPT_NODE=corrupt)
    assert [process.status for process in ended] == [1, 1]
    assert all(process.message("failed")["error"] == "IntegrityError" for process in ended)
    assert all(process.message("failed")["node"] == corrupt for process in ended)


@pytest.mark.parametrize("rank", [0, 1])
def test_nodes_that_do_not_meet_are_worth_another_try(order, tmp_path, rank):
    job = Job(tmp_path, *order, nodes=2)
    (alone,) = job.attempt(rank, RENDEZVOUS_SECONDS=2)
    assert alone.status == 75 and "did not meet" in alone.message("failed")["what"]


def test_a_job_for_several_nodes_never_trains_alone_nor_with_others_than_it_is_for(order, tmp_path):
    (alone,) = Job(tmp_path, *order, nodes=2).attempt(of=1)
    assert alone.status == 1 and "PET_NNODES is not set" in alone.message("failed")["what"]
    ended = Job(tmp_path, *order, nodes=3).attempt(of=2)
    assert [process.status for process in ended] == [1, 1]
    assert all("PET_NNODES is 2" in process.message("failed")["what"] for process in ended)


def test_the_guides_example_shares_its_work(order, tmp_path, monkeypatch):
    guide = stage.project_file("docs/how-to/custom-trainer.md").read_text()
    code = next(block for block in guide.split("```python\n")[1:] if "group.sum" in block).split("```")[0]
    (tmp_path / "include" / "trainers").mkdir(parents=True)
    (tmp_path / "include" / "trainers" / "mine.py").write_text(code)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    maes = []
    for nodes in (1, 2):
        trainer = {"use": "include/trainers/mine.py:fit", "params": {}, "seed": 1}
        version = trainers.code_version(trainer["use"])
        made = order[0].model_dump() | {"trainer": trainer, "code_version": version}
        spec = JobSpec.model_validate(made | {"job_id": ""})
        job = Job(tmp_path / str(nodes), spec, order[1], nodes=nodes, trainer=trainer)
        maes.append(job.train().metrics["train_mae"])
    assert maes[0] < 5 and maes[1] == pytest.approx(maes[0], rel=1e-4)
