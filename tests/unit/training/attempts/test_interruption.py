"""A process that is asked to end does so in time, even while it computes in C code."""

import signal
import subprocess
import sys

import pytest

from rempart.training.attempts.interruption import Interrupted, Interruption


def process(code: str) -> subprocess.Popen[str]:
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


LISTENING = """
import hashlib, sys, threading, time
from rempart.training.attempts import interruption
interruption.PATIENCE_SECONDS = 2.0
asked = interruption.Interruption()
def say(line): print(line, flush=True)
try:
    with asked.listening(lambda: say('last words')):
        threading.Timer(0.5, say, ['ready']).start()  # by then the main thread is deep in the body
        {body}
except interruption.Interrupted:
    say('in order')
    sys.exit(143)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("time.sleep(600)", "in order"),
        ("hashlib.pbkdf2_hmac('sha256', b'x', b'y', 1 << 28)", "last words"),
        (
            "asked.await_step()\n        while not asked.asked: pass\n        say('at its step'); sys.exit(143)",
            "at its step",
        ),
    ],
)
def test_it_ends_with_143_within_its_patience(number, body, message):
    started = process(LISTENING.format(body=body))
    started.send_signal(number)
    out, _ = started.communicate(timeout=60)  # its body takes minutes
    assert (started.returncode, out.strip()) == (143, message)


def test_while_a_step_is_awaited_a_request_is_a_flag_and_the_end_of_the_computing_raises():
    asked = Interruption()
    with pytest.raises(Interrupted), asked.computing():
        asked.await_step()
        asked._handle()
        asked._handle()
        assert asked.asked
    asked._handle()  # once is enough


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption().listening(lambda: None):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
