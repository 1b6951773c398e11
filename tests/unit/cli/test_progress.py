"""A command shows how far it is: redrawn lines at a terminal, plain lines elsewhere, and nothing is left to clean."""

from __future__ import annotations

import compileall
import importlib.util
import os
import py_compile
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from rempart.cli import progress
from rempart.cli.demo import demo_run, demo_stages
from rempart.cli.progress import State, Step
from rempart.deployment.setup import terminal, uv_output

ROOT = Path(__file__).resolve().parents[3]


def picture() -> ModuleType:
    """The script that records a terminal: its emulator shows what a person would see."""
    found = importlib.util.spec_from_file_location("terminal_picture", ROOT / "docs" / "terminal_picture.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


PICTURE = picture()

PROGRAM = """
import logging, os, sys, time
from rempart.cli import progress, rendering
from rempart.deployment.setup import terminal
LOG = logging.getLogger("rempart.deployment.embedded.lifecycle")
progress.LATE_SECONDS, terminal.REDRAW_SECONDS = 0.05, 0.02  # many redraws between two events
def step(name, phase, detail=""):
    LOG.info("%s: %s", name, phase, extra={"steps": [(name, phase)], "detail": detail})
def services():
    with progress.shown():
        step("mlflow", "running", "starting"); step("airflow", "waiting")
        print("a line of a print"); LOG.warning("a warning"); os.write(1, b"")
        step("mlflow", "done", "ready: it works")
        if "fail" in sys.argv: raise SystemExit("error: it failed")
        if "wait" in sys.argv: time.sleep(30)
        step("airflow", "running", "starting"); step("airflow", "done", "ready: 15 DAGs")
        LOG.info("the stack is up", extra={"last": True})
def counted():
    with progress.waiting(["backup", "drill"]):
        time.sleep(0.3)
        for done in (10, 20, 30): LOG.info("sealed %d of %d contents", done, 40); time.sleep(0.3)
        print("restore point written")
with rendering.on_terminal():
    {"services": services, "counted": counted}[sys.argv[1]]()
"""


def seen(*arguments: str, **variables: str) -> tuple[list[str], str]:
    """Run the program in a pseudo-terminal. Return the lines that are on the screen at the end, and what was sent."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    sent, code = PICTURE.sent([sys.executable, "-c", PROGRAM, *arguments], 80, 24, kept | {"TERM": "xterm"} | variables)
    assert code in (0, 1), sent
    screen = PICTURE.Emulator()
    screen.feed(sent)
    return screen.text(), sent


def plain(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True).stdout


def test_at_a_terminal_each_service_is_one_line_and_other_output_stands_above() -> None:
    lines, sent = seen("services")
    assert lines[:2] == ["a line of a print", "warning: a warning"]
    assert [line.split()[:2] for line in lines[2:4]] == [["✓", "mlflow"], ["✓", "airflow"]]
    assert lines[2].endswith("ready: it works") and lines[4:] == ["the stack is up"]
    assert "\033[?25l" not in sent, "the cursor was hidden, and somebody must show it again"


def test_without_a_terminal_there_are_plain_lines_and_no_codes() -> None:
    told = plain("services")
    assert "\033" not in told and "\r" not in told
    assert [line.partition("] ")[2] for line in told.splitlines() if "airflow" in line][-1] == "airflow: done"


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_dumb_terminal_gets_plain_lines(variables: dict[str, str]) -> None:
    _, sent = seen("services", **variables)
    assert "\033[1A" not in sent and "mlflow: done" in sent


def test_no_color_leaves_the_view_and_takes_the_colours() -> None:
    _, sent = seen("services", NO_COLOR="1")
    assert "\033[32m" not in sent and "\033[2A" in sent
    assert "\033[32m" in seen("services")[1]


def test_an_error_leaves_the_rows_as_they_are_and_stands_below_them() -> None:
    lines, _ = seen("services", "fail")
    assert lines[-1] == "error: it failed"
    assert [line.split()[1] for line in lines[2:4]] == ["mlflow", "airflow"] and len(lines) == 5


def test_a_count_is_a_bar_that_is_gone_at_the_end() -> None:
    lines, sent = seen("counted")
    assert lines == ["restore point written", "sealed 30 of 40 contents"], "the end of the count stays, without its bar"
    assert "█" in sent and "sealed 30 of 40 contents" in sent
    *counts, last = plain("counted").splitlines()
    assert all("sealed" in line for line in counts) and last == "restore point written"


def test_ctrl_c_leaves_a_clean_terminal() -> None:
    command = [sys.executable, "-c", PROGRAM, "services", "wait"]
    sent, _ = PICTURE.sent(command, 80, 24, dict(os.environ) | {"TERM": "xterm"}, stop=("it works", signal.SIGINT))
    screen = PICTURE.Emulator()
    screen.feed(sent)
    assert [line.split()[1] for line in screen.text()[2:4]] == ["mlflow", "airflow"]
    assert sent.endswith("\n") and "\033[?25l" not in sent


def test_a_question_hides_the_view_until_it_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(list[str]):
        encoding = "utf-8"

        def write(self, text: str) -> None:
            self.append(text)

        def flush(self) -> None:
            """Nothing to do."""

    stream = Terminal()
    screen = terminal.Screen(stream, lambda columns: ["row"])  # type: ignore[arg-type] # what it uses of a stream
    screen.draw()
    screen.above(stream, "Go on? [y/N]: ")  # type: ignore[arg-type] # as above
    screen.draw()
    assert "".join(stream).endswith("Go on? [y/N]: ")
    screen.above(stream, "gone on\n")  # type: ignore[arg-type] # as above
    assert "".join(stream).endswith("gone on\nrow\n")


def test_time_left_is_told_where_it_can_be_known() -> None:
    state = progress.told(State(0.0), "sealed 100 of 500 contents", 10.0)
    assert progress.seconds_left(state, 10.0) is None
    state = progress.told(state, "sealed 200 of 500 contents", 20.0)
    assert progress.seconds_left(state, 20.0) == pytest.approx(30.0)
    assert "about 30 s left" in progress.lines(state, 20.0)[-1]
    steps = (Step("start", usual=10.0), Step("train", usual=30.0))
    state = progress.moved(State(0.0, steps=steps), "start", "running", 0.0)
    state = progress.moved(state, "start", "done", 20.0)
    assert progress.seconds_left(state, 20.0) == pytest.approx(60.0), "a slow machine takes as much longer"
    assert progress.seconds_left(State(0.0, steps=(Step("unknown"),)), 1.0) is None


def test_a_count_ends_with_another_event() -> None:
    state = progress.told(State(0.0), "sent 50 of at most 200 MB", 1.0)
    assert state.count and (state.count.done, state.count.total) == (50, 200)
    assert progress.told(state, "locked the bundle until 2027-01-01", 2.0).count is None


HOSTILE = "copied \x1b[2Ja\u202eb\x9b31mc\ttab\nsecond line"


def test_texts_of_servers_and_files_cannot_move_the_cursor_or_break_a_row() -> None:
    state = progress.moved(State(0.0), "mlflow", "running", 0.0, HOSTILE)
    rows = progress.lines(progress.told(state, HOSTILE, 1.0), 1.0)
    rows += progress.lines(progress.told(State(0.0), HOSTILE, 1.0), 1.0)
    assert "copied \\x1b[2Ja\\u202eb\\x9b31mc\\ttab" in rows[0]
    assert not [c for row in rows for c in row if terminal.is_control(c)]
    assert not [row for row in rows if "second" in row]


@pytest.mark.parametrize("event", ["checked restic 0.17.3 of 4 tools", "read 2026.01.05 of 3 files", "a 1,2 of 0 b"])
def test_numbers_that_are_no_counts_do_not_end_the_command(event: str) -> None:
    assert event in progress.lines(progress.told(State(0.0), event, 5.0), 9.0)[-1]


def test_a_step_that_somebody_leaves_with_ctrl_c_has_not_failed() -> None:
    state = progress.moved(State(0.0), "train", "running", 1.0, "task train runs")
    (row,) = progress.lines(progress.stopped(state, 3.0, failed=False), 9.0)
    assert row.split() == ["?", "train", "2.0", "s", *progress.LEFT.split()]
    assert progress.lines(progress.stopped(state, 3.0), 9.0)[0].startswith("✗ train")


def test_a_closed_standard_output_is_no_terminal() -> None:
    assert not terminal.is_live(None, {"TERM": "xterm"}) and not terminal.has_colours(None, {"TERM": "xterm"})
    command = [sys.executable, "-c", "import os; os.close(1); os.execv(os.sys.executable, os.sys.argv[1:])"]
    program = "import sys; from rempart.cli import app; sys.argv = ['rempart', 'stack', 'init', '--help']; app()"
    done = subprocess.run([*command, sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr


def test_rows_fit_the_width_and_colours_take_no_room() -> None:
    assert terminal.cut("\033[32m✓\033[0m mlflow", 8) == "\033[32m✓\033[0m mlflow"
    assert terminal.cut("\033[32m✓\033[0m mlflow", 7) == "✓ mlfl…"
    assert terminal.length("日本e\u0301") == 5 and terminal.cut("日本語 done", 6) == "日本…"
    assert terminal.duration(59.6) == "1 min 00 s" and terminal.duration(3720) == "1 h 02 min"


def test_the_seconds_before_the_demo_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell may become the process of the demo: its age then holds the set-up already."""
    monkeypatch.setenv("REMPART_DEMO_BEGAN", "1000")
    assert demo_run._before(1053.5) == 53.5
    monkeypatch.delenv("REMPART_DEMO_BEGAN")
    assert demo_run._before(time.time()) > 0


def test_the_age_of_a_process_grows_with_its_clock_and_begins_before_its_imports() -> None:
    command = "import time; a = time.monotonic(); from rempart.cli import progress as p; "
    command += "print(p.since_start() - time.monotonic() + a)"
    told = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert 0 < float(told) < 60
    before, first, after = time.monotonic(), progress.since_start(), time.monotonic()
    time.sleep(0.05)
    then, second, now = time.monotonic(), progress.since_start(), time.monotonic()
    assert then - after - 0.01 <= second - first <= now - before + 0.01


def test_the_stages_of_the_demo_add_up_to_its_total() -> None:
    told: list[str] = []
    stages = demo_stages.Stages(progress.Repeated(told.append), before=2.5)
    stages.ended("set-up", 2.5, "installed")
    for name in ("start", "deliver", "gate"):
        stages.begin(name, "begins")
        time.sleep(0.06)
        stages.result("it worked")
    assert stages.total == pytest.approx(sum(stages.seconds.values()), abs=0.001) and stages.seconds["set-up"] == 2.5
    seconds = {"total": stages.total, "stages": stages.seconds}
    parts = [float(word) for word in demo_stages.in_words(seconds).replace("=", " ").split() if word[0].isdigit()]
    assert parts[0] == pytest.approx(sum(parts[1:]), abs=0.001)
    assert [line.split()[2] for line in told] == ["set-up", "start", "start", "deliver", "deliver", "gate", "gate"]


def test_what_goes_on_is_written_again_after_ten_seconds_without_a_line_and_not_once_it_ended() -> None:
    told: list[str] = []
    now = [0.0]
    lines = progress.Repeated(told.append, lambda: now[0])
    lines.tell("starts", lambda seconds: f"goes on, {seconds:.0f} s so far")
    for second in (9.0, 10.0, 15.0, 21.0):
        now[0] = second
        lines.tick()
    lines.tell("done")
    now[0] = 100.0
    lines.tick()
    assert told == ["starts", "goes on, 10 s so far", "goes on, 21 s so far", "done"]


@pytest.mark.parametrize("live", [False, True])
def test_plain_lines_are_written_again_by_themselves_and_a_terminal_has_its_clock(
    monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    monkeypatch.setattr(progress, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(progress, "is_live", lambda stream, environment: live)
    again = threading.Event()

    def ticking() -> bool:
        return "plain-lines" in {thread.name for thread in threading.enumerate()}

    with progress.repeated(lambda line: line == "goes on" and again.set()) as lines:
        lines.tell("starts", lambda seconds: "goes on")
        assert ticking() is not live and (live or again.wait(60))
    assert not ticking()


def test_a_stage_of_the_demo_tells_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AGAIN_SECONDS", 0.0)
    told: list[str] = []
    plain = progress.Repeated(told.append)
    stages = demo_stages.Stages(plain)
    stages.begin("train", "POST /api/v2/dags/train_hotel_bookings/dagRuns {}")
    stages.event("train running")
    plain.tick()
    assert told[-1].split()[2] == "train" and told[-1].endswith("train running, 0 s so far")
    stages.result("version 1 is a candidate")
    plain.tick()
    assert len(told) == 3 and told[-1].endswith("version 1 is a candidate")


def test_the_demo_ends_with_what_to_open_first_and_what_to_try_next() -> None:
    lines = demo_stages.NextSteps("http://a:1", "admin", "http://m:2", "admin", "var/demo-report.json").lines()
    text = "\n".join(lines)
    assert "Sovereignty in Airflow: http://a:1/plugin/sovereignty" in lines[1]
    for command in ("stack password airflow", "pipeline new your.csv", "rempart down"):
        assert f".venv/bin/rempart {command}" in text or command in text


def test_set_up_reads_what_uv_downloads_and_installs() -> None:
    state = uv_output.Sync()
    assert state.shown(0)[0] == "reading the package index"
    for line in ("Resolved 13 packages in 341ms", "Downloading numpy (16.0MiB)", "Downloading pyarrow (50.0MiB)"):
        state = state.after(line)
    assert state.after("Downloading odd (1.2.3MiB)") == state
    state = state.after(" Downloaded numpy")
    assert state.shown(0) == ("downloaded 17 of 69 MB", pytest.approx(16.78, 0.01), pytest.approx(69.2, 0.01))
    state = state.after("Prepared 13 packages in 1.86s")
    assert state.shown(4) == ("installed 4 of 13 packages", 4, 13)
    compiling = state.after("Installed 13 packages in 1.32s")
    assert compiling.shown(13, (1200, 30400)) == ("compiled 1,200 of 30,400 files", 1200, 30400)


def test_set_up_counts_the_files_that_are_compiled(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "p"
    (package / "deep").mkdir(parents=True)
    for name in ("a.py", "b.py", "broken.py", "deep/c.py", "deep/data.txt"):
        (package / name).write_text("a b" if name == "broken.py" else "x = 1")
    found = uv_output.CompiledFiles(tmp_path / "site-packages")
    assert found.count() == (0, 4)
    py_compile.compile(str(package / "a.py"))
    (package / "__pycache__" / "b.cpython-22.pyc").write_text("of another Python")
    assert found.count() == (1, 4)
    compileall.compile_dir(package, quiet=2)
    assert found.count() == (3, 4) == found.count(), "a file that cannot be compiled is never counted as compiled"


def test_the_output_of_an_installer_is_shown_without_passwords_and_control_characters() -> None:
    shown = uv_output.shown_line(
        "error: Failed to fetch https://me:secret@mirror/simple/x/ \x1b[2J by http://me:p@proxy"
    )
    assert shown == "error: Failed to fetch https://***@mirror/simple/x/ \\x1b[2J by http://***@proxy"


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("error: Failed to fetch: `https://x/`\n  Caused by: dns error\n", "HTTPS_PROXY"),
        ("error: Hash mismatch for `numpy`\n", "faithful mirror"),
        ("  Caused by: invalid peer certificate: UnknownIssuer\n", "SSL_CERT_FILE"),
        ("error: failed to create directory: Permission denied (os error 13)\n", "may write"),
        ("something new\n", "lines above"),
    ],
)
def test_a_failed_installation_is_answered_by_its_cause(output: str, remedy: str) -> None:
    line, hint = uv_output.cause(output)
    assert line and remedy in hint
