"""A command ends although a server never answers: Python would wait for the threads that the question started."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COMMAND = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor

import rempart.cli as cli
from rempart.errors import RempartError
from rempart.flows.shared import time_limit

if {closed}:
    sys.stdout = None

def silent():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 600).result()

def app():
    time_limit.answers({{"server": silent}}, 0.05)
    {ends}

cli.app = app
cli.main()
"""


@pytest.mark.parametrize(
    ("ends", "closed", "code", "told"),
    [
        ("sys.exit(3)", True, 3, ""),
        ("raise RempartError('it failed', 'Try again.')", False, 1, "it failed"),
        ("raise KeyError('a fault of the program')", False, 1, "KeyError: 'a fault of the program'"),
    ],
)
def test_a_command_ends_while_a_server_is_silent(ends: str, closed: bool, code: int, told: str) -> None:
    text = _COMMAND.format(ends=ends, closed=closed)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code and told in done.stderr, done.stderr
