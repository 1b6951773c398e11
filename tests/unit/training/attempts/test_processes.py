"""One process for each GPU of a node: real forks, without PyTorch. With it: test_several_nodes.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from rempart.training.attempts.process_group import LISTENING, PROCESS
from rempart.training.attempts.processes import own_gpu, variables

PROGRAM = """
import json, os, signal, socket, sys, time
from rempart.training.attempts import processes
processes.LINGER_SECONDS = 600.0  # all end by themselves, however slow the machine is
if "crashed" in sys.argv:
    processes.CRASH_SECONDS = 0.2
reading, writing = os.pipe()
if (status := processes.start(3, 1)) is not None:
    sys.exit(status)
number = int(os.environ["REMPART_PROCESS"])
if number == 0:
    listening = socket.socket(fileno=int(os.environ["REMPART_NODES_SOCKET"]))
    assert listening.getsockname()[1] == int(os.environ["PET_MASTER_PORT"])
signal.signal(signal.SIGTERM, lambda *_: os._exit(100 + number))
kept = ("REMPART_PROCESS", "CUDA_VISIBLE_DEVICES", "PET_NODE_RANK", "PET_MASTER_ADDR")
sys.stdout.write(json.dumps({name: os.environ[name] for name in kept} | {"pid": os.getpid()}) + "\\n")
sys.stdout.flush()
os.write(writing, b"x")
if "crashed" in sys.argv and number == 2:
    seen = 0
    while seen < 3:  # each has written its line: the others are killed soon after this one
        seen += len(os.read(reading, 3))
    os.kill(os.getpid(), signal.SIGSEGV)
time.sleep(600 if {"wait", "crashed"} & set(sys.argv) else 0)
if "killed" in sys.argv and number == 0:
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(number + 7)
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PET_", "CUDA"))}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, env=kept)


@pytest.mark.parametrize(("argument", "status"), [("", 7), ("killed", 137), ("crashed", 139)])
def test_each_has_its_gpu_and_the_status_is_the_first_ones(argument: str, status: int) -> None:
    process = started(argument)
    out, _ = process.communicate(timeout=180)
    told = sorted((json.loads(line) for line in out.splitlines()), key=lambda line: line[PROCESS])
    assert [(line[PROCESS], line["CUDA_VISIBLE_DEVICES"]) for line in told] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert {line["PET_MASTER_ADDR"] for line in told} == {"127.0.0.1"} and process.returncode == status


def test_a_request_to_end_reaches_all_and_no_process_is_left() -> None:
    process = started("wait")
    assert process.stdout
    pids = [json.loads(process.stdout.readline())["pid"] for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 100
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("number", "visible", "own"), [(1, None, "1"), (1, "4,6", "6"), (0, "GPU-a", "GPU-a"), (1, "4", ""), (0, "", "")]
)
def test_a_process_gets_one_of_the_gpus_that_its_node_may_use(number: int, visible: str | None, own: str) -> None:
    assert own_gpu(number, visible) == own


def test_of_several_nodes_the_address_is_the_clusters() -> None:
    made = variables(1, 2, 3, 0, {})
    assert made[PROCESS] == "1" and not any(name.startswith(("PET_", "GLOO")) for name in made)
    assert LISTENING not in made and int(made["OMP_NUM_THREADS"]) >= 1
