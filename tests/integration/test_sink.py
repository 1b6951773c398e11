"""The sealed namespace on this kernel: outgoing packets count under their process, and no process outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench import prove_egress, sink

needs_namespace = pytest.mark.skipif(bool(sink.why_not()), reason=f"not run: {sink.why_not()}")


@needs_namespace
def test_every_deliberate_attempt_is_counted_under_its_process(tmp_path: Path) -> None:
    result = tmp_path / "control.json"
    code = sink.Namespace(keep=(tmp_path, *sink.Namespace().keep)).run(
        "bench.prove_egress", ["--control", "--result", str(result)]
    )
    report = json.loads(result.read_text(encoding="utf-8"))
    assert code == 0
    assert [check["ok"] for check in report["checks"]] == [True] * len(prove_egress.CONTROLS)


@needs_namespace
def test_the_modules_exit_code_comes_back() -> None:
    assert sink.Namespace().run("json.tool", ["/nowhere.json"]) not in (0, None)
    assert sink.Namespace().run("json", []) != 0
    assert sink.Namespace().run("platform") == 0


def serves(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:3] == ["-m", "http.server"]
    except psutil.NoSuchProcess:  # one of those that prepare the namespace
        return False


@needs_namespace
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_one_that_asked_for_the_namespace(number: int, tmp_path: Path) -> None:
    # what a shell starts in the background inherits that SIGINT is ignored; a terminal's job does not
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; from bench import sink; sink.Namespace().run('http.server', ['0', '--bind', '127.0.0.1'])"
    outer = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},  # kill -9 leaves a small folder there
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        inner: list[psutil.Process] = []
        deadline = time.monotonic() + 120
        while not (inner and serves(inner[-1])):
            assert time.monotonic() < deadline, "the server inside did not start"
            time.sleep(0.2)
            inner = psutil.Process(outer.pid).children(recursive=True)
        outer.send_signal(number)
        if number == signal.SIGINT:
            inner[-1].send_signal(number)  # a terminal's Ctrl-C reaches the whole group
        outer.wait(120)
        assert not psutil.wait_procs(inner, timeout=120)[1]
    finally:
        outer.kill()
        outer.wait()


def test_a_sink_refuses_to_take_the_network_of_the_machine_itself() -> None:
    assert not sink.inside() and os.environ.get("REMPART_SEALED") is None
    with pytest.raises(RuntimeError, match="outside"), sink.Sink():
        pass
