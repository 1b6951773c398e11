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
interruption.PATIENCE_SECONDS = {patience}
asked = interruption.Interruption()
main = time.pthread_getcpuclockid(threading.get_ident())
def say(line): print(line, flush=True)
def say_when_deep():
    # the main thread has computed for so long by then that it is in the last line of the body
    until = time.clock_gettime(main) + 0.3
    while time.clock_gettime(main) < until:
        time.sleep(0.02)
    say('ready')
deep = threading.Thread(target=say_when_deep, daemon=True)
try:
    with asked.listening(lambda: say('last words')):
        {body}
except interruption.Interrupted:
    say('in order')
    sys.exit(143)
"""


STEPS = """asked.await_step(); deep.start()
        while not asked.asked: pass
        say('at its step'); sys.exit(143)"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("body", "message", "patience"),
    [
        ("say('ready'); time.sleep(600)", "in order", 60),
        ("deep.start(); hashlib.pbkdf2_hmac('sha256', b'x', b'y', 1 << 28)", "last words", 2),
        (STEPS, "at its step", 60),
    ],
)
def test_it_ends_with_143_within_its_patience(number, body, message, patience):
    started = process(LISTENING.format(body=body, patience=patience))
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
