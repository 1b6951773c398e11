"""The rank of a node, and a single node: tests without PyTorch. Several nodes: test_several_nodes.py."""

import socket

import pytest

from rempart.errors import TrainingError
from rempart.training.attempts.interruption import Interruption
from rempart.training.attempts.process_group import PROCESS, Group, Seat, join, seat
from rempart.training.attempts.progress import TrainingRun
from rempart.training.backends import Place, places
from rempart.training.entrypoint import World, run_job, share_job
from tests.unit.training import stage
from tests.unit.training.attempts.test_checkpoints import opened
from tests.unit.training.test_job import spec

PLACED = {
    "PET_NNODES": "4",
    "PET_NPROC_PER_NODE": "8",
    "PET_NODE_RANK": "3",
    "PET_MASTER_ADDR": "train-1-node-0-0.train-1",
    "PET_MASTER_PORT": "29400",
}


def test_a_place_is_read_as_kubeflow_tells_it():
    assert seat(4, PLACED) == Seat(3, 4, "train-1-node-0-0.train-1", 29400)


def test_a_process_of_several_on_a_node_counts_those_of_the_nodes_before():
    ranks = [seat(4, PLACED | {PROCESS: str(number)}, 2) for number in range(2)]
    assert [(place.rank, place.size) for place in ranks if place] == [(6, 8), (7, 8)]
    with pytest.raises(TrainingError, match="REMPART_PROCESS is '2', but must be a whole number from 0 to 1"):
        seat(4, PLACED | {PROCESS: "2"}, 2)


@pytest.mark.parametrize("environment", [{}, {"PET_NNODES": "1"}, {**PLACED, "PET_NNODES": "1"}])
def test_one_node_is_alone(environment):
    assert seat(1, environment) is None


@pytest.mark.parametrize(
    ("nodes", "changes", "message"),
    [
        (1, {}, "on 1 nodes: PET_NNODES is 4"),
        (2, {}, "on 2 nodes: PET_NNODES is 4"),
        (4, {"PET_NNODES": "1"}, "on 4 nodes: PET_NNODES is 1"),
        (4, {"PET_NNODES": "1:4"}, "PET_NNODES is '1:4', but must be a whole number"),
        (4, {"PET_NODE_RANK": "4"}, "PET_NODE_RANK is '4', but must be a whole number from 0 to 3"),
        (4, {"PET_NODE_RANK": ""}, "PET_NODE_RANK is ''"),
        (4, {"PET_MASTER_PORT": "0"}, "PET_MASTER_PORT is '0'"),
        (4, {"PET_MASTER_ADDR": ""}, "PET_MASTER_ADDR is not set"),
    ],
)
def test_a_place_that_is_not_the_jobs_is_refused(nodes, changes, message):
    with pytest.raises(TrainingError, match=message):
        seat(nodes, PLACED | changes)


def test_a_job_for_several_nodes_without_a_place_says_how_to_run_it():
    with pytest.raises(TrainingError, match=r"(?s)PET_NNODES is not set.*TrainJob.*local backend"):
        seat(2, {"PATH": "/bin"})


def test_without_pytorch_the_error_says_where_to_run_it():
    with pytest.raises(TrainingError, match=r"(?s)2 nodes: PyTorch.*make setup-trainer"):
        join(Seat(0, 2, "127.0.0.1", 1), "job")


@pytest.mark.parametrize("work", [run_job, share_job])
def test_whoever_calls_the_job_itself_cannot_run_it_on_fewer_nodes(work, monkeypatch):
    monkeypatch.setattr("rempart.training.trainers.trainers.code_version", lambda use: "1")
    world = World(lambda _: stage.memory_site(), lambda _: None, lambda *_, **__: None)
    with pytest.raises(TrainingError, match="for 2 processes on 2 nodes, but was started as 1"):
        work(spec(nodes=2), world)


def test_a_node_that_is_alone_asks_nobody():
    alone = Group()
    assert (alone.rank, alone.size) == (0, 1)
    assert alone.any(True, False) == (True, False) and alone.any() == ()
    assert alone.broadcast(b"x") == b"x" and alone.gather("x") == ["x"]
    alone.meet()
    alone.await_first()
    assert alone.failure() is None and alone.leave(75, error="x") == 75


def test_the_local_backend_places_each_process_on_this_machine_alone():
    with places(1) as alone:
        assert alone == [Place({})]
    with places(3) as each:
        seats = [seat(3, place.variables) for place in each]
        assert [place.rank for place in seats] == [0, 1, 2]
        assert len({(place.address, place.port) for place in seats}) == 1
        assert {place.address for place in seats} == {"127.0.0.1"}
        # the first inherits what it listens on, so that no other program gets the port first
        assert [place.listening for place in seats] == [*each[0].sockets, None, None]
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", seats[0].port))


class Second(Group):
    """A node that is not the first, and whose peers say what it says."""

    rank, size = 1, 2

    def broadcast(self, body=b""):
        return b"[null, 0]"


def test_a_node_that_is_not_the_first_neither_reads_nor_writes_checkpoints():
    site = stage.memory_site()
    opened(site).save(3, {}, 3)
    before = {(info.key, info.etag) for info in site.list("artifacts")}
    run = TrainingRun(opened(site), lambda *_, **__: None, Interruption(), every=0.0, group=Second())
    assert run.resume() is None
    run.checkpoint(1, {})
    run.keep(1, {})
    assert {(info.key, info.etag) for info in site.list("artifacts")} == before
